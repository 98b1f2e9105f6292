//! Template statements: output, loops, conditions, assignments, macros.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use minijinja::machinery::ast;

use crate::expr::emit;
use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::eval::Eval;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Loop;
use crate::expr::runtime::Macro;
use crate::expr::runtime::Object;
use crate::expr::value::Value;
use crate::expr::world::usable;

/// One piece of output.
pub(crate) enum Chunk<'a> {
    Text(&'a str),
    Object(Object<'a>),
}

impl<'a> Eval<'_, 'a> {
    /// Evaluates a template to the value of its only output, or to text if there is more than one.
    pub(crate) fn native(&mut self, tree: &'a ast::Stmt<'a>) -> Evaluated<Value> {
        let mut chunks = Vec::new();
        let result = self.statement(tree, &mut chunks).and_then(|()| self.joined(chunks));
        self.forget();
        Ok(result?.into_value()?)
    }

    /// Returns the only object, None if there is none, and otherwise all as one text.
    fn joined(&mut self, chunks: Vec<Chunk<'a>>) -> Evaluated<Object<'a>> {
        let is_none = |chunk: &Chunk| matches!(chunk, Chunk::Object(Object::Value(value)) if value.is_none());
        let mut rest: Vec<Chunk<'a>> = chunks.into_iter().filter(|chunk| !is_none(chunk)).collect();
        match rest.len() {
            0 => Ok(Object::Value(Value::none())),
            1 => Ok(match rest.remove(0) {
                Chunk::Text(text) => Object::Value(Value::from(text)),
                Chunk::Object(object) => object,
            }),
            _ => Ok(Object::Value(self.printed(rest)?)),
        }
    }

    fn printed(&mut self, chunks: Vec<Chunk<'a>>) -> Evaluated<Value> {
        let mut out = String::new();
        let mut is_secret = false;
        for chunk in chunks {
            match chunk {
                Chunk::Text(text) => out.push_str(text),
                Chunk::Object(object) => {
                    let value = usable(self.settled(object)?)?;
                    is_secret |= value.has_secret();
                    if value.is_omit() {
                        return Err(EvalError::value(
                            "`omit` stands for a whole value and cannot be part of a text",
                        )
                        .into());
                    }
                    if !value.is_none() {
                        out.push_str(&emit::to_text(&value));
                    }
                }
            }
        }
        let text = Value::from(out);
        Ok(if is_secret { text.secret() } else { text })
    }

    pub(crate) fn block(&mut self, body: &'a [ast::Stmt<'a>], out: &mut Vec<Chunk<'a>>) -> Evaluated<()> {
        body.iter().try_for_each(|statement| self.statement(statement, out))
    }

    fn statement(&mut self, statement: &'a ast::Stmt<'a>, out: &mut Vec<Chunk<'a>>) -> Evaluated<()> {
        let world = self.world;
        world.deeper(|| match statement {
            ast::Stmt::Template(template) => self.block(&template.children, out),
            ast::Stmt::EmitRaw(raw) => {
                if !raw.raw.is_empty() {
                    world.wrote(raw.raw.len())?;
                    out.push(Chunk::Text(raw.raw));
                }
                Ok(())
            }
            ast::Stmt::EmitExpr(emit) => {
                let object = self.expr(&emit.expr)?;
                if let Object::Value(value) = &object
                    && let Some(reason) = value.as_unknown()
                    && !out.is_empty()
                {
                    return Err(crate::expr::runtime::Stop::Unknown(reason.clone()));
                }
                if let Object::Value(value) = &object {
                    world.wrote(value.as_str().map_or(0, str::len))?;
                }
                out.push(Chunk::Object(object));
                Ok(())
            }
            ast::Stmt::IfCond(branch) => {
                let body = if self.truth(&branch.expr)? { &branch.true_body } else { &branch.false_body };
                self.block(body, out)
            }
            ast::Stmt::ForLoop(each) => self.for_loop(each, out),
            ast::Stmt::Set(set) => {
                let object = self.shared(&set.expr)?;
                self.assign(&set.target, object)
            }
            ast::Stmt::SetBlock(set) => {
                let inner = self.captured(&set.body)?;
                let object = match &set.filter {
                    Some(filter) => self.filter_chain(filter, inner)?,
                    None => inner,
                };
                self.assign(&set.target, object)
            }
            ast::Stmt::WithBlock(with) => self.inside(|eval| {
                for (target, expr) in &with.assignments {
                    let object = eval.shared(expr)?;
                    eval.assign(target, object)?;
                }
                eval.block(&with.body, out)
            }),
            ast::Stmt::FilterBlock(filter) => {
                let inner = self.captured(&filter.body)?;
                let object = self.filter_chain(&filter.filter, inner)?;
                out.push(Chunk::Object(object));
                Ok(())
            }
            ast::Stmt::Macro(declaration) => {
                let object = Object::Macro(Rc::new(Macro { declaration, frames: self.frames.clone() }));
                self.bind(declaration.name, object);
                Ok(())
            }
            ast::Stmt::CallBlock(call) => {
                let caller = Object::Macro(Rc::new(Macro {
                    declaration: &call.macro_decl,
                    frames: self.frames.clone(),
                }));
                let object = self.call(&call.call, Some(caller))?;
                out.push(Chunk::Object(object));
                Ok(())
            }
            ast::Stmt::AutoEscape(escape) => self.block(&escape.body, out),
            ast::Stmt::Block(block) => self.inside(|eval| eval.block(&block.body, out)),
            ast::Stmt::Do(_) => Err(not_there("do", "write `{% set _ = … %}`")),
            ast::Stmt::Include(_) => {
                Err(not_there("include", "use the `template` lookup, or put the text into this file"))
            }
            ast::Stmt::Import(_) | ast::Stmt::FromImport(_) => {
                Err(not_there("import", "put the macro into this file"))
            }
            ast::Stmt::Extends(_) => Err(not_there("extends", "put the text into this file")),
        })
    }

    fn captured(&mut self, body: &'a [ast::Stmt<'a>]) -> Evaluated<Object<'a>> {
        let mut chunks = Vec::new();
        self.inside(|eval| eval.block(body, &mut chunks))?;
        let object = self.joined(chunks)?;
        Ok(match object {
            Object::Value(value) if value.is_none() => Object::Value(Value::from("")),
            other => other,
        })
    }

    fn for_loop(&mut self, each: &'a ast::ForLoop<'a>, out: &mut Vec<Chunk<'a>>) -> Evaluated<()> {
        if each.recursive {
            return Err(not_there("for … recursive", "call a macro that calls itself"));
        }
        let source = self.expr(&each.iter)?;
        let mut items = self.items_of(source)?;
        if let Some(filter) = &each.filter_expr {
            let mut kept = Vec::new();
            for item in items {
                let is_kept = self.inside(|eval| {
                    eval.assign(&each.target, item.clone())?;
                    eval.truth(filter)
                })?;
                if is_kept {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.inside(|eval| eval.block(&each.else_body, out));
        }
        let items = Rc::new(items);
        let last_changed = Rc::new(RefCell::new(None));
        let depth = self.loop_depth;
        self.loop_depth += 1;
        let result = (0..items.len()).try_for_each(|index| {
            self.world.step()?;
            let state = Loop { items: items.clone(), index, depth, last_changed: last_changed.clone() };
            self.inside(|eval| {
                eval.bind("loop", Object::Loop(Rc::new(state)));
                eval.assign(
                    &each.target,
                    items.get(index).cloned().unwrap_or_else(|| Object::undefined("no item")),
                )?;
                eval.block(&each.body, out)
            })
        });
        self.loop_depth = depth;
        result
    }

    /// Binds a name, the parts of a tuple, or an attribute of a namespace.
    pub(crate) fn assign(&mut self, target: &'a ast::Expr<'a>, object: Object<'a>) -> Evaluated<()> {
        match target {
            ast::Expr::Var(var) => {
                self.bind(var.id, object);
                Ok(())
            }
            ast::Expr::List(list) => {
                let parts = self.items_of(object)?;
                if parts.len() != list.items.len() {
                    let message = format!("{} names stand for {} values", list.items.len(), parts.len());
                    return Err(EvalError::value(message).into());
                }
                list.items.iter().zip(parts).try_for_each(|(target, part)| self.assign(target, part))
            }
            ast::Expr::GetAttr(attr) => match self.expr(&attr.expr)? {
                Object::Namespace(entries) => {
                    entries.borrow_mut().insert(Arc::from(attr.name), object);
                    Ok(())
                }
                _ => Err(EvalError::value("only attributes of a `namespace()` can be set").into()),
            },
            _ => Err(EvalError::value("this cannot be assigned to").into()),
        }
    }

    pub(crate) fn call_macro(
        &mut self,
        object: &Macro<'a>,
        args: Vec<Object<'a>>,
        mut kwargs: Vec<(Arc<str>, Object<'a>)>,
    ) -> Evaluated<Object<'a>> {
        let Macro { declaration, frames } = object;
        let world = self.world;
        let mut inner = Eval::with_frames(world, frames.clone());
        inner.push();
        let first_default = declaration.args.len().saturating_sub(declaration.defaults.len());
        let extra: Vec<Object<'a>> = args.get(declaration.args.len()..).unwrap_or_default().to_vec();
        let mut args = args.into_iter();
        for (index, target) in declaration.args.iter().enumerate() {
            let ast::Expr::Var(name) = target else { continue };
            let named =
                kwargs.iter().position(|(key, _)| key.as_ref() == name.id).map(|at| kwargs.remove(at).1);
            let default = index.checked_sub(first_default).and_then(|at| declaration.defaults.get(at));
            let object = match (args.next().or(named), default) {
                (Some(object), _) => object,
                (None, Some(default)) => inner.expr(default)?,
                (None, None) => Object::undefined(format!("parameter '{}' was not provided", name.id)),
            };
            inner.bind(name.id, object);
        }
        if let Some(at) = kwargs.iter().position(|(key, _)| key.as_ref() == "caller") {
            inner.bind("caller", kwargs.remove(at).1);
        }
        inner.bind("varargs", Object::list(extra));
        inner.bind("kwargs", Object::Dict(Rc::new(RefCell::new(kwargs.into_iter().collect()))));
        let mut chunks = Vec::new();
        let result = inner.block(&declaration.body, &mut chunks).and_then(|()| inner.joined(chunks));
        inner.pop();
        Ok(match result? {
            Object::Value(value) if value.is_none() => Object::Value(Value::from("")),
            other => other,
        })
    }
}

fn not_there(statement: &str, instead: &str) -> crate::expr::runtime::Stop {
    EvalError::new(ErrorKind::Syntax, format!("`{{% {statement} %}}` does not exist here"))
        .hint(instead)
        .into()
}
