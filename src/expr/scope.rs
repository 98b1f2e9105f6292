//! What an expression sees of the world: variables by name, and lookups. Both are the caller's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::expr::error::ErrorKind;
use crate::expr::error::EvalError;
use crate::expr::value::Dict;
use crate::expr::value::Value;

/// Variables by name.
pub trait Scope {
    /// Returns the variable as it was written; trusted text in it is evaluated when it is reached.
    fn get(&self, name: &str) -> Option<Value>;

    /// Returns the variables of another host, for `hostvars[host]`, where [`Scope::get`] has no `hostvars`.
    fn host(&self, _host: &str) -> Option<Arc<dyn Scope>> {
        None
    }
}

/// A plain set of variables.
impl Scope for Dict {
    fn get(&self, name: &str) -> Option<Value> {
        Dict::get(self, name).cloned()
    }
}

impl Scope for BTreeMap<String, Value> {
    fn get(&self, name: &str) -> Option<Value> {
        BTreeMap::get(self, name).cloned()
    }
}

/// Lookups that reach outside: files, environment, programs. Pure ones (`vars`, `dict`, `sequence` …) are built in.
pub trait Lookups {
    /// Returns the terms' results as a list; joining and unwrapping is done by the evaluator.
    ///
    /// `name` is the short name. An unknown name is answered by [`no_such_lookup`].
    ///
    /// # Errors
    /// Whatever the lookup says; `errors='ignore'` is handled by the evaluator.
    fn lookup(
        &self,
        name: &str,
        args: &[Value],
        kwargs: &Dict,
        scope: &dyn Scope,
    ) -> Result<Vec<Value>, EvalError>;

    /// Returns seconds since 1970 for `now()` and `strftime` without a time; `None` where no clock may be read.
    fn unix_time(&self) -> Option<f64> {
        None
    }
}

/// The answer to a lookup that does not exist.
pub fn no_such_lookup(name: &str) -> EvalError {
    EvalError::new(ErrorKind::NoSuchName, format!("there is no lookup `{name}`"))
}

/// No lookups at all, for expressions over data.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLookups;

impl Lookups for NoLookups {
    fn lookup(&self, name: &str, _: &[Value], _: &Dict, _: &dyn Scope) -> Result<Vec<Value>, EvalError> {
        Err(no_such_lookup(name))
    }
}
