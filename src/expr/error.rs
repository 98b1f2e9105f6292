//! Why an expression has no value.

use crate::source::Span;

/// What kind of trouble it is: callers treat an undefined name differently from a wrong use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// The text is no template or expression.
    Syntax,
    /// Something that is not there was used.
    Undefined,
    /// A variable needs its own value.
    Recursion,
    /// No filter, test, lookup, function or method has this name.
    NoSuchName,
    /// Anything else: wrong types, a failing lookup, no number.
    Value,
}

/// An expression that has no value, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct EvalError {
    pub kind: ErrorKind,
    pub message: String,
    pub hint: Option<String>,
    /// Where the template was written that failed; may be deeper than the one that was asked for.
    pub origin: Option<Span>,
}

impl EvalError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> EvalError {
        EvalError { kind, message: message.into(), hint: None, origin: None }
    }

    pub fn value(message: impl Into<String>) -> EvalError {
        EvalError::new(ErrorKind::Value, message)
    }

    pub fn undefined(message: impl Into<String>) -> EvalError {
        EvalError::new(ErrorKind::Undefined, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> EvalError {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the place, unless a deeper one is known.
    #[must_use]
    pub fn at(mut self, origin: Option<Span>) -> EvalError {
        self.origin = self.origin.or(origin);
        self
    }
}
