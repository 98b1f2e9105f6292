//! What lives while one template is evaluated: values, and things that are none (loops, macros, lists that change).

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;
use minijinja::machinery::ast;

use crate::expr::error::EvalError;
use crate::expr::scope::Scope;
use crate::expr::value::Dict;
use crate::expr::value::Value;

/// Why an evaluation stops.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    Error(Box<EvalError>),
    /// The result depends on something that plan and check did not do.
    Unknown(Arc<str>),
}

impl From<EvalError> for Stop {
    fn from(error: EvalError) -> Stop {
        Stop::Error(Box::new(error))
    }
}

pub(crate) type Evaluated<T> = Result<T, Stop>;

pub(crate) type Entries<'a> = IndexMap<Arc<str>, Object<'a>>;

/// Names that a template itself defines, in one block of it.
pub(crate) type Frame<'a> = Rc<RefCell<Entries<'a>>>;

/// What an expression can yield while it is evaluated.
#[derive(Clone)]
pub(crate) enum Object<'a> {
    /// A value. Of containers, trusted text inside is not evaluated until it is reached.
    Value(Value),
    /// A list or dict that the template made and may change; copies are the same list, as in Python.
    List(Rc<RefCell<Vec<Object<'a>>>>),
    Dict(Rc<RefCell<Entries<'a>>>),
    Namespace(Rc<RefCell<Entries<'a>>>),
    Macro(Rc<Macro<'a>>),
    Loop(Rc<Loop<'a>>),
    Function(&'static str),
    Joiner {
        separator: Arc<str>,
        used: Rc<Cell<bool>>,
    },
    Cycler {
        items: Rc<Vec<Object<'a>>>,
        at: Rc<Cell<usize>>,
    },
    HostVars,
    Host(Arc<dyn Scope>),
}

pub(crate) struct Macro<'a> {
    pub declaration: &'a ast::Macro<'a>,
    /// The blocks around the definition, whose names the body sees.
    pub frames: Vec<Frame<'a>>,
}

/// The `loop` variable.
pub(crate) struct Loop<'a> {
    pub items: Rc<Vec<Object<'a>>>,
    pub index: usize,
    pub depth: usize,
    pub last_changed: Rc<RefCell<Option<Value>>>,
}

impl<'a> Object<'a> {
    pub(crate) fn list(items: Vec<Object<'a>>) -> Object<'a> {
        Object::List(Rc::new(RefCell::new(items)))
    }

    pub(crate) fn undefined(hint: impl Into<Arc<str>>) -> Object<'a> {
        Object::Value(Value::undefined(hint))
    }

    /// Returns the object as a value, its parts as they are.
    ///
    /// # Errors
    /// What is no value (a macro, `loop`) cannot be kept or printed.
    pub(crate) fn into_value(self) -> Result<Value, EvalError> {
        match self {
            Object::Value(value) => Ok(value),
            Object::List(items) => {
                let items: Result<Vec<Value>, EvalError> =
                    items.borrow().iter().cloned().map(Object::into_value).collect();
                Ok(items?.into())
            }
            Object::Dict(entries) => {
                let entries: Result<Dict, EvalError> =
                    entries.borrow().iter().map(|(k, v)| Ok((k.clone(), v.clone().into_value()?))).collect();
                Ok(entries?.into())
            }
            other => {
                Err(EvalError::value(format!("{} is no value that can be printed or kept", other.kind())))
            }
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Object::Value(value) => value.type_name(),
            Object::List(_) => "list",
            Object::Dict(_) => "dict",
            Object::Namespace(_) => "a namespace",
            Object::Macro(_) => "a macro",
            Object::Loop(_) => "`loop`",
            Object::Function(_) => "a function",
            Object::Joiner { .. } => "a joiner",
            Object::Cycler { .. } => "a cycler",
            Object::HostVars => "`hostvars`",
            Object::Host(_) => "all variables of a host",
        }
    }

    /// Makes a list or dict changeable in place, one level deep, and returns it.
    pub(crate) fn promote(&mut self) -> Object<'a> {
        if let Object::Value(value) = self {
            let secret = value.marks.secret;
            let part = |v: &Value| Object::Value(if secret { v.clone().secret() } else { v.clone() });
            if let Some(items) = value.as_list() {
                *self = Object::list(items.iter().map(part).collect());
            } else if let Some(entries) = value.as_dict() {
                let entries = entries.iter().map(|(k, v)| (k.clone(), part(v))).collect();
                *self = Object::Dict(Rc::new(RefCell::new(entries)));
            }
        }
        self.clone()
    }
}
