//! What is called: filters, tests, functions, methods and macros, with their arguments.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use minijinja::machinery::ast;

use crate::expr::emit;
use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::filters;
use crate::expr::jinja_tests;
use crate::expr::lookups;
use crate::expr::methods;
use crate::expr::operators;
use crate::expr::runtime::Entries;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Object;
use crate::expr::runtime::Stop;
use crate::expr::value::Dict;
use crate::expr::value::Value;
use crate::expr::world::usable;

use super::{Arguments, Eval};

/// Most numbers that `range` makes.
const RANGE_MAX: i64 = 1_000_000;

impl<'a> Eval<'_, 'a> {
    fn arguments(&mut self, args: &'a [ast::CallArg<'a>]) -> Evaluated<Arguments<'a>> {
        let mut result = Arguments { positional: Vec::new(), named: Vec::new() };
        for arg in args {
            match arg {
                ast::CallArg::Pos(expr) => result.positional.push(self.expr(expr)?),
                ast::CallArg::Kwarg(name, expr) => result.named.push((Arc::from(*name), self.expr(expr)?)),
                ast::CallArg::PosSplat(expr) => {
                    let list = self.expr(expr)?;
                    result.positional.extend(self.items_of(list)?);
                }
                ast::CallArg::KwargSplat(expr) => {
                    let value = self.expr(expr)?.into_value()?;
                    let Some(entries) = value.as_dict() else {
                        return Err(EvalError::value("`**` needs a dict").into());
                    };
                    result.named.extend(entries.iter().map(|(k, v)| (k.clone(), Object::Value(v.clone()))));
                }
            }
        }
        Ok(result)
    }

    fn settled_arguments(&mut self, args: &'a [ast::CallArg<'a>]) -> Evaluated<filters::Args> {
        let Arguments { positional, named } = self.arguments(args)?;
        let positional: Evaluated<Vec<Value>> = positional.into_iter().map(|v| self.settled(v)).collect();
        let named: Evaluated<Vec<(Arc<str>, Value)>> =
            named.into_iter().map(|(name, v)| Ok((name, self.settled(v)?))).collect();
        Ok(filters::Args::new(positional?, named?))
    }

    pub(super) fn filter(&mut self, filter: &'a ast::Filter<'a>) -> Evaluated<Object<'a>> {
        let input = match &filter.expr {
            Some(expr) => self.expr(expr)?,
            None => Object::Value(Value::none()),
        };
        self.apply_filter(filter, input)
    }

    /// Applies the filters of a block, whose innermost has no input of its own.
    pub(crate) fn filter_chain(
        &mut self,
        chain: &'a ast::Expr<'a>,
        input: Object<'a>,
    ) -> Evaluated<Object<'a>> {
        let ast::Expr::Filter(filter) = chain else {
            return Err(EvalError::new(ErrorKind::Syntax, "a filter is expected").into());
        };
        let input = match &filter.expr {
            Some(inner) => self.filter_chain(inner, input)?,
            None => input,
        };
        self.apply_filter(filter, input)
    }

    fn apply_filter(&mut self, filter: &'a ast::Filter<'a>, input: Object<'a>) -> Evaluated<Object<'a>> {
        let name = filters::short_name(filter.name);
        if matches!(name, "default" | "d") {
            return self.default_filter(filter, input);
        }
        let input = self.settled(input)?;
        let args = self.settled_arguments(&filter.args)?;
        filters::apply(self.world, name, input, args).map(Object::Value)
    }

    /// `default`: keeps parts unevaluated, since what is chosen may never be looked into.
    fn default_filter(&mut self, filter: &'a ast::Filter<'a>, input: Object<'a>) -> Evaluated<Object<'a>> {
        if matches!(&input, Object::Value(v) if v.as_unknown().is_some()) {
            return Ok(input);
        }
        let Arguments { positional, named } = self.arguments(&filter.args)?;
        let mut positional = positional.into_iter();
        let mut replacement = positional.next();
        let mut any_falsy = positional.next();
        for (name, object) in named {
            match name.as_ref() {
                "default_value" => replacement = Some(object),
                "boolean" => any_falsy = Some(object),
                _ => {
                    return Err(
                        EvalError::value(format!("filter `default` has no parameter `{name}`")).into()
                    );
                }
            }
        }
        let replaces_falsy = match any_falsy {
            Some(object) => self.truth_of(&object)?.map_err(Stop::Unknown)?,
            None => false,
        };
        let is_undefined = matches!(&input, Object::Value(v) if v.is_undefined());
        let is_replaced = is_undefined || replaces_falsy && !self.truth_of(&input)?.map_err(Stop::Unknown)?;
        if is_replaced {
            Ok(replacement.unwrap_or_else(|| Object::Value(Value::from(""))))
        } else {
            Ok(input)
        }
    }

    pub(super) fn test(&mut self, test: &'a ast::Test<'a>) -> Evaluated<Value> {
        let input = self.expr(&test.expr)?;
        let name = filters::short_name(test.name);
        match (name, &input) {
            ("defined" | "undefined", Object::Value(value)) => {
                if value.as_unknown().is_some() {
                    return Ok(value.clone());
                }
                return Ok(Value::from(value.is_undefined() == (name == "undefined")));
            }
            ("defined", _) => return Ok(Value::from(true)),
            ("undefined", _) => return Ok(Value::from(false)),
            ("callable", object) => {
                return Ok(Value::from(matches!(object, Object::Macro(_) | Object::Function(_))));
            }
            _ => {}
        }
        let input = self.settled(input)?;
        let args = self.settled_arguments(&test.args)?;
        jinja_tests::apply(self.world, name, input, args)
    }

    /// Calls a function, a method or a macro.
    pub(crate) fn call(
        &mut self,
        call: &'a ast::Call<'a>,
        caller: Option<Object<'a>>,
    ) -> Evaluated<Object<'a>> {
        if let ast::Expr::GetAttr(attr) = &call.expr {
            if let ast::Expr::UnaryOp(op) = &attr.expr
                && matches!(op.op, ast::UnaryOpKind::Neg)
            {
                let base = self.expr(&op.expr)?;
                let args = self.arguments(&call.args)?;
                let result = self.method(base, attr.name, args)?;
                return operators::negate(self.settled(result)?).map(Object::Value);
            }
            let base =
                if methods::changes(attr.name) { self.place(&attr.expr)? } else { self.expr(&attr.expr)? };
            let mut args = self.arguments(&call.args)?;
            if let Some(caller) = caller {
                args.named.push((Arc::from("caller"), caller));
            }
            return self.method(base, attr.name, args);
        }
        let callee = self.expr(&call.expr)?;
        let mut args = self.arguments(&call.args)?;
        if let Some(caller) = caller {
            args.named.push((Arc::from("caller"), caller));
        }
        self.invoke(callee, args)
    }

    fn invoke(&mut self, callee: Object<'a>, args: Arguments<'a>) -> Evaluated<Object<'a>> {
        match callee {
            Object::Macro(object) => self.call_macro(&object, args.positional, args.named),
            Object::Function(name) => self.function(name, args),
            Object::Joiner { separator, used } => {
                Ok(Object::Value(if used.replace(true) { Value::from(separator) } else { Value::from("") }))
            }
            Object::Value(value) if value.is_undefined() || value.as_unknown().is_some() => {
                Ok(Object::Value(value))
            }
            Object::Loop(_) => Err(EvalError::value("recursive loops do not exist here").into()),
            other => Err(EvalError::value(format!("{} cannot be called", other.kind())).into()),
        }
    }

    pub(super) fn method(
        &mut self,
        base: Object<'a>,
        name: &str,
        args: Arguments<'a>,
    ) -> Evaluated<Object<'a>> {
        match &base {
            Object::Value(value) if value.is_undefined() || value.as_unknown().is_some() => return Ok(base),
            Object::Namespace(_) => {
                let callee = self.attribute_of(base, name)?;
                return self.invoke(callee, args);
            }
            Object::Loop(state) if name == "cycle" => {
                let count = args.positional.len().max(1);
                return Ok(args
                    .positional
                    .get(state.index % count)
                    .cloned()
                    .unwrap_or_else(|| Object::undefined("")));
            }
            Object::Loop(state) if name == "changed" => {
                let seen: Evaluated<Vec<Value>> =
                    args.positional.into_iter().map(|v| self.settled(v)).collect();
                let seen = Value::from(seen?);
                let mut last = state.last_changed.borrow_mut();
                let is_changed = last.as_ref().is_none_or(|before| !before.equals(&seen));
                *last = Some(seen);
                return Ok(Object::Value(Value::from(is_changed)));
            }
            Object::Cycler { items, at } if name == "next" => {
                let index = at.get();
                at.set((index + 1) % items.len().max(1));
                return Ok(items.get(index).cloned().unwrap_or_else(|| Object::undefined("empty cycler")));
            }
            Object::Host(_) if name == "get" => {
                let mut positional = args.positional.into_iter();
                let Some(key) = positional.next() else { return Err(methods::misuse("get")) };
                let key = self.settled(key)?;
                let found = self.item_of(base, &key)?;
                let is_missing = matches!(&found, Object::Value(v) if v.is_undefined());
                return Ok(match (is_missing, positional.next()) {
                    (true, Some(default)) => default,
                    (true, None) => Object::Value(Value::none()),
                    _ => found,
                });
            }
            Object::HostVars if name == "get" => {
                let Some(key) = args.positional.into_iter().next() else {
                    return Err(methods::misuse("get"));
                };
                let key = self.settled(key)?;
                return self.item_of(base, &key);
            }
            _ => {}
        }
        methods::call(self, base, name, args)
    }

    pub(super) fn function(&mut self, name: &'static str, args: Arguments<'a>) -> Evaluated<Object<'a>> {
        match name {
            "namespace" | "dict" => {
                let mut entries = Entries::new();
                for object in args.positional {
                    for pair in entries_of(&object)? {
                        entries.insert(pair.0, pair.1);
                    }
                }
                entries.extend(args.named);
                let entries = Rc::new(RefCell::new(entries));
                Ok(if name == "dict" { Object::Dict(entries) } else { Object::Namespace(entries) })
            }
            "joiner" => {
                let separator = match args.positional.into_iter().next() {
                    Some(object) => Arc::from(emit::to_text(&usable(self.settled(object)?)?)),
                    None => Arc::from(", "),
                };
                Ok(Object::Joiner { separator, used: Rc::new(Cell::new(false)) })
            }
            "cycler" => Ok(Object::Cycler { items: Rc::new(args.positional), at: Rc::new(Cell::new(0)) }),
            _ => {
                let positional: Evaluated<Vec<Value>> =
                    args.positional.into_iter().map(|v| self.settled(v)).collect();
                let positional = positional?;
                let named: Evaluated<Dict> =
                    args.named.into_iter().map(|(name, v)| Ok((name, self.settled(v)?))).collect();
                let named = named?;
                let first_unusable = positional
                    .iter()
                    .chain(named.values())
                    .find(|v| v.is_undefined() || v.as_unknown().is_some());
                if let Some(value) = first_unusable {
                    return Ok(Object::Value(value.clone()));
                }
                match name {
                    "range" => range(&positional).map(Object::Value),
                    "undef" => {
                        let hint = positional.first().or(named.get("hint")).map(emit::to_text);
                        Ok(Object::undefined(hint.unwrap_or_else(|| "undefined by `undef()`".into())))
                    }
                    "now" => lookups::now(self.world, &named).map(Object::Value),
                    _ => lookups::call(self.world, name, positional, named).map(Object::Value),
                }
            }
        }
    }
}

fn entries_of<'a>(object: &Object<'a>) -> Evaluated<Vec<(Arc<str>, Object<'a>)>> {
    match object {
        Object::Dict(entries) => Ok(entries.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        Object::Value(value) if value.as_dict().is_some() => {
            let entries = value.as_dict().into_iter().flatten();
            Ok(entries.map(|(k, v)| (k.clone(), Object::Value(v.clone()))).collect())
        }
        other => {
            let pairs = usable(other.clone().into_value()?)?;
            let pairs = operators::iterate(&pairs)?;
            pairs
                .iter()
                .map(|pair| match pair.as_list() {
                    Some([key, value]) => Ok((operators::key_text(key)?, Object::Value(value.clone()))),
                    _ => Err(EvalError::value("a dict is made of pairs").into()),
                })
                .collect()
        }
    }
}

fn range(args: &[Value]) -> Evaluated<Value> {
    let numbers: Option<Vec<i64>> = args.iter().map(Value::as_int).collect();
    let (start, stop, step) = match numbers.as_deref() {
        Some([stop]) => (0, *stop, 1),
        Some([start, stop]) => (*start, *stop, 1),
        Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
        _ => {
            return Err(
                EvalError::value("`range` takes one to three integers, and the step is not zero").into()
            );
        }
    };
    let mut items = Vec::new();
    let mut at = start;
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        items.push(Value::from(at));
        if items.len() as i64 > RANGE_MAX {
            return Err(EvalError::value(format!("`range` makes more than {RANGE_MAX} numbers")).into());
        }
        let Some(next) = at.checked_add(step) else { break };
        at = next;
    }
    Ok(items.into())
}
