//! Expressions, walked over minijinja's tree, with Ansible's meaning.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use minijinja::machinery::ast;
use minijinja::value::ValueKind;

use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::operators;
use crate::expr::parse;
use crate::expr::runtime::Entries;
use crate::expr::runtime::Evaluated;
use crate::expr::runtime::Frame;
use crate::expr::runtime::Object;
use crate::expr::runtime::Stop;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::World;
use crate::expr::world::usable;

mod call;

/// Functions that exist without being defined.
pub(crate) const FUNCTIONS: &[&str] =
    &["lookup", "query", "q", "range", "dict", "namespace", "undef", "joiner", "cycler", "now"];

/// One template's evaluation.
pub(crate) struct Eval<'w, 'a> {
    pub(crate) world: &'w World<'w>,
    pub(crate) frames: Vec<Frame<'a>>,
    pub(crate) loop_depth: usize,
    /// Whether templates in string literals are evaluated, as conditions do for old roles' sake.
    pub(crate) literals_are_templates: bool,
}

/// Arguments of a call, with names where they have some.
pub(crate) struct Arguments<'a> {
    pub positional: Vec<Object<'a>>,
    pub named: Vec<(Arc<str>, Object<'a>)>,
}

impl<'w, 'a> Eval<'w, 'a> {
    pub(crate) fn new(world: &'w World<'w>) -> Eval<'w, 'a> {
        Eval::with_frames(world, vec![Frame::default()])
    }

    pub(crate) fn with_frames(world: &'w World<'w>, frames: Vec<Frame<'a>>) -> Eval<'w, 'a> {
        Eval { world, frames, loop_depth: 0, literals_are_templates: false }
    }

    pub(crate) fn push(&mut self) {
        self.frames.push(Frame::default());
    }

    pub(crate) fn pop(&mut self) {
        // Macros hold their frames, and frames hold macros: emptying breaks the circle.
        if let Some(frame) = self.frames.pop() {
            frame.borrow_mut().clear();
        }
    }

    /// Empties the outermost names, after which nothing of this template lives on.
    pub(crate) fn forget(&mut self) {
        for frame in &self.frames {
            frame.borrow_mut().clear();
        }
    }

    pub(crate) fn inside<T>(&mut self, work: impl FnOnce(&mut Self) -> Evaluated<T>) -> Evaluated<T> {
        self.push();
        let result = work(self);
        self.pop();
        result
    }

    pub(crate) fn bind(&mut self, name: &str, object: Object<'a>) {
        if let Some(frame) = self.frames.last() {
            frame.borrow_mut().insert(Arc::from(name), object);
        }
    }

    pub(crate) fn settled(&self, object: Object<'a>) -> Evaluated<Value> {
        self.world.settle(object.into_value()?)
    }

    pub(crate) fn expr(&mut self, expr: &'a ast::Expr<'a>) -> Evaluated<Object<'a>> {
        let world = self.world;
        world.deeper(|| match expr {
            ast::Expr::Const(constant) => self.constant(&constant.value),
            ast::Expr::Var(var) => self.name(var.id),
            ast::Expr::GetAttr(attr) => self.attribute(attr),
            ast::Expr::GetItem(item) => self.item(item),
            ast::Expr::Slice(slice) => self.slice(slice),
            ast::Expr::Filter(filter) => self.filter(filter),
            ast::Expr::Test(test) => self.test(test).map(Object::Value),
            ast::Expr::Call(call) => self.call(call, None),
            ast::Expr::BinOp(op) => self.binary(op),
            ast::Expr::UnaryOp(op) => self.unary(op),
            ast::Expr::Compare(compare) => self.compare(compare),
            ast::Expr::IfExpr(choice) => self.choice(choice),
            ast::Expr::List(list) => {
                let items: Evaluated<Vec<Object<'a>>> =
                    list.items.iter().map(|item| self.expr(item)).collect();
                Ok(Object::list(items?))
            }
            ast::Expr::Map(map) => self.dict_literal(map),
        })
    }

    /// Evaluates for assignment: lists and dicts become such that changes show under all their names.
    pub(crate) fn shared(&mut self, expr: &'a ast::Expr<'a>) -> Evaluated<Object<'a>> {
        match expr {
            ast::Expr::Var(_) | ast::Expr::GetAttr(_) | ast::Expr::GetItem(_) => self.place(expr),
            _ => Ok(self.expr(expr)?.promote()),
        }
    }

    /// Evaluates to the very list or dict that a name, attribute or element holds, so that methods can change it.
    fn place(&mut self, expr: &'a ast::Expr<'a>) -> Evaluated<Object<'a>> {
        match expr {
            ast::Expr::Var(var) => {
                for frame in self.frames.iter().rev() {
                    if let Some(object) = frame.borrow_mut().get_mut(var.id) {
                        return Ok(object.promote());
                    }
                }
                let mut object = self.name(var.id)?;
                let is_container =
                    matches!(&object, Object::Value(v) if v.as_list().is_some() || v.as_dict().is_some());
                let object = object.promote();
                if let Some(frame) = self.frames.first().filter(|_| is_container) {
                    frame.borrow_mut().insert(Arc::from(var.id), object.clone());
                }
                Ok(object)
            }
            ast::Expr::GetAttr(attr) => {
                let base = self.place(&attr.expr)?;
                match part_in_place(&base, &Value::from(attr.name), self.world)? {
                    Some(object) => Ok(object),
                    None => self.attribute_of(base, attr.name),
                }
            }
            ast::Expr::GetItem(item) => {
                let base = self.place(&item.expr)?;
                let key = self.expr(&item.subscript_expr)?;
                let key = self.settled(key)?;
                match part_in_place(&base, &key, self.world)? {
                    Some(object) => Ok(object),
                    None => self.item_of(base, &key),
                }
            }
            _ => self.expr(expr),
        }
    }

    fn constant(&self, value: &minijinja::Value) -> Evaluated<Object<'a>> {
        let value = match value.kind() {
            ValueKind::None | ValueKind::Undefined => Value::none(),
            ValueKind::Bool => Value::from(value.is_true()),
            ValueKind::Number if value.is_integer() => match i64::try_from(value.clone()) {
                Ok(number) => Value::from(number),
                Err(_) => {
                    return Err(EvalError::value(format!("the number {value} is beyond 64 bits")).into());
                }
            },
            ValueKind::Number => Value::from(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
            _ => {
                let text = value.as_str().unwrap_or_default();
                if self.literals_are_templates && parse::has_markup(text) {
                    self.world.resolve(Value::template(text))?
                } else {
                    Value::from(text)
                }
            }
        };
        Ok(Object::Value(value))
    }

    fn name(&mut self, name: &str) -> Evaluated<Object<'a>> {
        for frame in self.frames.iter().rev() {
            if let Some(object) = frame.borrow().get(name) {
                return Ok(object.clone());
            }
        }
        if let Some(value) = self.world.variable(name)? {
            return Ok(Object::Value(value));
        }
        if let Some(function) = FUNCTIONS.iter().find(|f| **f == name) {
            return Ok(Object::Function(function));
        }
        Ok(match name {
            "omit" => Object::Value(Value::omit()),
            "hostvars" => Object::HostVars,
            _ => Object::undefined(format!("'{name}' is undefined")),
        })
    }

    fn dict_literal(&mut self, map: &'a ast::Map<'a>) -> Evaluated<Object<'a>> {
        let mut entries = Entries::new();
        for (key, value) in map.keys.iter().zip(&map.values) {
            let key = self.expr(key)?;
            let key = usable(self.settled(key)?)?;
            entries.insert(operators::key_text(&key)?, self.expr(value)?);
        }
        Ok(Object::Dict(Rc::new(RefCell::new(entries))))
    }

    fn attribute(&mut self, attr: &'a ast::GetAttr<'a>) -> Evaluated<Object<'a>> {
        // The parser reads `-a.b` as `(-a).b`; Jinja as `-(a.b)`.
        if let ast::Expr::UnaryOp(op) = &attr.expr
            && matches!(op.op, ast::UnaryOpKind::Neg)
        {
            let base = self.expr(&op.expr)?;
            let part = self.attribute_of(base, attr.name)?;
            return operators::negate(self.settled(part)?).map(Object::Value);
        }
        let base = self.expr(&attr.expr)?;
        self.attribute_of(base, attr.name)
    }

    pub(crate) fn attribute_of(&self, base: Object<'a>, name: &str) -> Evaluated<Object<'a>> {
        match base {
            Object::Value(value) => match &value.data {
                Data::Undefined { .. } | Data::Unknown { .. } => Ok(Object::Value(value)),
                Data::Dict(entries) => match entries.get(name) {
                    Some(part) => Ok(Object::Value(self.world.resolve(part.clone())?)),
                    None => Ok(Object::undefined(format!("object of type 'dict' has no attribute '{name}'"))),
                },
                _ => Ok(Object::undefined(format!(
                    "object of type '{}' has no attribute '{name}'",
                    value.type_name()
                ))),
            },
            Object::Dict(entries) | Object::Namespace(entries) => {
                let part = entries.borrow().get(name).cloned();
                match part {
                    Some(Object::Value(value)) => Ok(Object::Value(self.world.resolve(value)?)),
                    Some(object) => Ok(object),
                    None => Ok(Object::undefined(format!("object of type 'dict' has no attribute '{name}'"))),
                }
            }
            Object::Loop(state) => Ok(loop_attribute(&state, name)),
            Object::HostVars => Ok(match self.world.scope.host(name) {
                Some(scope) => Object::Host(scope),
                None => Object::undefined(format!("`hostvars` has no host '{name}'")),
            }),
            Object::Host(scope) => {
                let beside = self.world.beside(scope.as_ref());
                Ok(match beside.variable(name)? {
                    Some(value) => Object::Value(beside.settle(value)?),
                    None => Object::undefined(format!("this host has no variable '{name}'")),
                })
            }
            other => Ok(Object::undefined(format!("{} has no attribute '{name}'", other.kind()))),
        }
    }

    fn item(&mut self, item: &'a ast::GetItem<'a>) -> Evaluated<Object<'a>> {
        let (base, is_negated) = match &item.expr {
            ast::Expr::UnaryOp(op) if matches!(op.op, ast::UnaryOpKind::Neg) => (self.expr(&op.expr)?, true),
            other => (self.expr(other)?, false),
        };
        let key = self.expr(&item.subscript_expr)?;
        let key = self.settled(key)?;
        let part = self.item_of(base, &key)?;
        if is_negated { operators::negate(self.settled(part)?).map(Object::Value) } else { Ok(part) }
    }

    pub(crate) fn item_of(&self, base: Object<'a>, key: &Value) -> Evaluated<Object<'a>> {
        if matches!(&base, Object::Value(v) if v.is_undefined() || v.as_unknown().is_some()) {
            return Ok(base);
        }
        if key.is_undefined() || key.as_unknown().is_some() {
            return Ok(Object::Value(key.clone()));
        }
        let missing = |kind: &str| {
            Object::undefined(format!("object of type '{kind}' has no element {}", emit::repr(key)))
        };
        match (&base, &key.data) {
            (Object::List(items), Data::Int(at)) => {
                let items = items.borrow();
                match operators::index(*at, items.len()).and_then(|at| items.get(at)).cloned() {
                    Some(Object::Value(value)) => Ok(Object::Value(self.world.resolve(value)?)),
                    Some(object) => Ok(object),
                    None => Ok(missing("list")),
                }
            }
            (Object::Value(value), Data::Int(at)) if value.as_list().is_some() => {
                let items = value.as_list().unwrap_or_default();
                match operators::index(*at, items.len()).and_then(|at| items.get(at)) {
                    Some(item) => Ok(Object::Value(self.world.resolve(item.clone())?)),
                    None => Ok(missing("list")),
                }
            }
            (Object::Value(value), Data::Int(at)) if value.as_str().is_some() => {
                let chars: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
                match operators::index(*at, chars.len()).and_then(|at| chars.get(at)) {
                    Some(c) => Ok(Object::Value(operators::tainted(Value::from(c.to_string()), value))),
                    None => Ok(missing("str")),
                }
            }
            (Object::Value(Value { data: Data::Dict(_), .. }) | Object::Dict(_), _) => {
                let name = operators::key_text(key)?;
                self.attribute_of(base, &name)
            }
            (_, Data::Str(name)) => self.attribute_of(base, name),
            _ => Ok(missing(base.kind())),
        }
    }

    fn slice(&mut self, slice: &'a ast::Slice<'a>) -> Evaluated<Object<'a>> {
        let base = self.expr(&slice.expr)?;
        let mut bounds = [None, None, None];
        for (bound, expr) in bounds.iter_mut().zip([&slice.start, &slice.stop, &slice.step]) {
            if let Some(expr) = expr {
                let value = self.expr(expr)?;
                let value = usable(self.settled(value)?)?;
                *bound = match value.data {
                    Data::None => None,
                    Data::Int(number) => Some(number),
                    _ => return Err(EvalError::value("slice indices must be integers").into()),
                };
            }
        }
        let value = base.into_value()?;
        if value.is_undefined() || value.as_unknown().is_some() {
            return Ok(Object::Value(value));
        }
        Ok(Object::Value(operators::slice(&value, bounds)?))
    }

    fn choice(&mut self, choice: &'a ast::IfExpr<'a>) -> Evaluated<Object<'a>> {
        match self.truth_or_unknown(&choice.test_expr)? {
            Err(reason) => Ok(Object::Value(Value::unknown(reason))),
            Ok(true) => self.expr(&choice.true_expr),
            Ok(false) => match &choice.false_expr {
                Some(expr) => self.expr(expr),
                None => Ok(Object::undefined("the inline `if` was false, and there is no `else`")),
            },
        }
    }

    /// Returns Python's truth of an expression; undefined is an error, unknown stops.
    pub(crate) fn truth(&mut self, expr: &'a ast::Expr<'a>) -> Evaluated<bool> {
        self.truth_or_unknown(expr)?.map_err(Stop::Unknown)
    }

    fn truth_or_unknown(&mut self, expr: &'a ast::Expr<'a>) -> Evaluated<Result<bool, Arc<str>>> {
        let object = self.expr(expr)?;
        self.truth_of(&object)
    }

    fn truth_of(&self, object: &Object<'a>) -> Evaluated<Result<bool, Arc<str>>> {
        Ok(match object {
            Object::Value(value) => match &value.data {
                Data::Unknown { reason } => Err(reason.clone()),
                Data::Undefined { hint } => return Err(EvalError::undefined(hint.to_string()).into()),
                _ => Ok(value.truth().unwrap_or(true)),
            },
            Object::List(items) => Ok(!items.borrow().is_empty()),
            Object::Dict(entries) => Ok(!entries.borrow().is_empty()),
            _ => Ok(true),
        })
    }

    fn unary(&mut self, op: &'a ast::UnaryOp<'a>) -> Evaluated<Object<'a>> {
        match op.op {
            ast::UnaryOpKind::Not => Ok(Object::Value(match self.truth_or_unknown(&op.expr)? {
                Ok(truth) => Value::from(!truth),
                Err(reason) => Value::unknown(reason),
            })),
            ast::UnaryOpKind::Neg => {
                let object = self.expr(&op.expr)?;
                operators::negate(self.settled(object)?).map(Object::Value)
            }
        }
    }

    fn binary(&mut self, op: &'a ast::BinOp<'a>) -> Evaluated<Object<'a>> {
        let left = self.expr(&op.left)?;
        match op.op {
            ast::BinOpKind::ScAnd | ast::BinOpKind::ScOr => {
                let is_and = matches!(op.op, ast::BinOpKind::ScAnd);
                match self.truth_of(&left)? {
                    Ok(truth) if truth == is_and => self.expr(&op.right),
                    Ok(_) => Ok(left),
                    // Only a right side that settles it whatever the left side is can help.
                    Err(_) => match self.expr(&op.right)? {
                        Object::Value(right) if right.as_bool() == Some(!is_and) => Ok(Object::Value(right)),
                        _ => Ok(left),
                    },
                }
            }
            kind => {
                let left = self.settled(left)?;
                let right = self.expr(&op.right)?;
                let right = self.settled(right)?;
                // A literal in parentheses is a tuple for `%`; the parser gives a list for both.
                let is_tuple = matches!(&op.right, ast::Expr::List(_));
                operators::binary(kind, left, right, is_tuple).map(Object::Value)
            }
        }
    }

    fn compare(&mut self, compare: &'a ast::Compare<'a>) -> Evaluated<Object<'a>> {
        let left = self.expr(&compare.expr)?;
        let mut left = self.settled(left)?;
        for op in &compare.ops {
            let right = self.expr(&op.expr)?;
            let right = self.settled(right)?;
            let kind = match op.op {
                ast::CompareOpKind::Eq => ast::BinOpKind::Eq,
                ast::CompareOpKind::Ne => ast::BinOpKind::Ne,
                ast::CompareOpKind::Lt => ast::BinOpKind::Lt,
                ast::CompareOpKind::Lte => ast::BinOpKind::Lte,
                ast::CompareOpKind::Gt => ast::BinOpKind::Gt,
                ast::CompareOpKind::Gte => ast::BinOpKind::Gte,
                ast::CompareOpKind::In | ast::CompareOpKind::NotIn => ast::BinOpKind::In,
            };
            let result = operators::binary(kind, left, right.clone(), false)?;
            let holds = match result.as_bool() {
                Some(flag) => flag != matches!(op.op, ast::CompareOpKind::NotIn),
                None => return Ok(Object::Value(result)),
            };
            if !holds {
                return Ok(Object::Value(Value::from(false)));
            }
            left = right;
        }
        Ok(Object::Value(Value::from(true)))
    }

    /// Returns the elements to loop over: of a list its items, of a dict its keys, of text its characters.
    pub(crate) fn items_of(&self, object: Object<'a>) -> Evaluated<Vec<Object<'a>>> {
        match object {
            Object::List(items) => items
                .borrow()
                .iter()
                .map(|item| match item {
                    Object::Value(value) => Ok(Object::Value(self.world.resolve(value.clone())?)),
                    other => Ok(other.clone()),
                })
                .collect(),
            Object::Dict(entries) => {
                Ok(entries.borrow().keys().map(|key| Object::Value(Value::from(key.clone()))).collect())
            }
            Object::Value(value) => {
                let items = operators::iterate(&value)?;
                items.into_iter().map(|item| Ok(Object::Value(self.world.resolve(item)?))).collect()
            }
            other => Err(EvalError::value(format!("{} is nothing to loop over", other.kind())).into()),
        }
    }
}

/// Returns the list or dict inside a changeable one, made changeable too, or `None` for anything else.
fn part_in_place<'a>(base: &Object<'a>, key: &Value, world: &World) -> Evaluated<Option<Object<'a>>> {
    let evaluated = |slot: &mut Object<'a>| -> Evaluated<Object<'a>> {
        if let Object::Value(value) = slot {
            *value = world.resolve(value.clone())?;
        }
        Ok(slot.promote())
    };
    match (base, &key.data) {
        (Object::Dict(entries) | Object::Namespace(entries), Data::Str(name)) => {
            entries.borrow_mut().get_mut(name.as_ref()).map(evaluated).transpose()
        }
        (Object::List(items), Data::Int(at)) => {
            let mut items = items.borrow_mut();
            let at = operators::index(*at, items.len());
            at.and_then(|at| items.get_mut(at)).map(evaluated).transpose()
        }
        _ => Ok(None),
    }
}

fn loop_attribute<'a>(state: &crate::expr::runtime::Loop<'a>, name: &str) -> Object<'a> {
    let number = |n: usize| Object::Value(Value::from(i64::try_from(n).unwrap_or(i64::MAX)));
    let (index, length) = (state.index, state.items.len());
    let neighbor = |at: Option<usize>| at.and_then(|at| state.items.get(at)).cloned();
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "first" => Object::Value(Value::from(index == 0)),
        "last" => Object::Value(Value::from(index + 1 == length)),
        "length" => number(length),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "depth" => number(state.depth + 1),
        "depth0" => number(state.depth),
        "previtem" => {
            neighbor(index.checked_sub(1)).unwrap_or_else(|| Object::undefined("there is no previous item"))
        }
        "nextitem" => neighbor(Some(index + 1)).unwrap_or_else(|| Object::undefined("there is no next item")),
        _ => Object::undefined(format!("`loop` has no attribute '{name}'")),
    }
}
