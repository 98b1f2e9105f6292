//! What the expressions of a step see: layers of variables in Ansible's order of precedence.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::executor::wire;
use crate::expr::{Dict, Scope, Value};

/// The variables of one subject, as far as a segment can reach them.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    pub subject: Arc<str>,
    pub layers: Vec<Dict>,
    pub facts: Dict,
    pub included: Dict,
    /// What `register` and `set_fact` set.
    pub registers: Dict,
    pub hostvars: Arc<BTreeMap<Arc<str>, Arc<Dict>>>,
}

impl Variables {
    /// Sees the variables as a step does whose layers are `scope`; `locals`, the variables of a loop, stand above all.
    pub fn seen<'a>(&'a self, scope: &'a wire::Scope, locals: &'a Dict) -> Seen<'a> {
        Seen { variables: self, scope, locals }
    }

    /// Returns the fact that the name of a variable means: `ansible_facts` is all of them, `ansible_x` the fact `x`.
    fn fact(&self, name: &str) -> Option<Value> {
        if name == "ansible_facts" {
            return Some(Value::from(self.facts.clone()));
        }
        let short = name.strip_prefix("ansible_")?;
        self.facts.get(short).or_else(|| self.facts.get(name)).cloned()
    }
}

/// Variables that stand above those of a step.
#[derive(Debug, Clone, Copy)]
pub struct And<'a> {
    seen: &'a Seen<'a>,
    locals: &'a Dict,
}

impl Scope for And<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        self.locals.get(name).cloned().or_else(|| self.seen.get(name))
    }

    fn host(&self, host: &str) -> Option<Arc<dyn Scope>> {
        self.seen.host(host)
    }
}

/// The variables of one step.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    variables: &'a Variables,
    scope: &'a wire::Scope,
    locals: &'a Dict,
}

impl Seen<'_> {
    /// Sees some variables more, above all others.
    pub fn and<'b>(&'b self, locals: &'b Dict) -> And<'b> {
        And { seen: self, locals }
    }

    fn in_layers(&self, indexes: &[u32], name: &str) -> Option<Value> {
        let layers = indexes.iter().rev().filter_map(|index| self.variables.layers.get(*index as usize));
        layers.filter_map(|layer| layer.get(name)).next().cloned()
    }
}

impl Scope for Seen<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        let variables = self.variables;
        let found = self
            .locals
            .get(name)
            .cloned()
            .or_else(|| self.in_layers(&self.scope.over, name))
            .or_else(|| variables.registers.get(name).cloned())
            .or_else(|| variables.included.get(name).cloned())
            .or_else(|| self.in_layers(&self.scope.under, name))
            .or_else(|| variables.fact(name))
            .or_else(|| self.in_layers(&self.scope.base, name));
        match found {
            Some(value) => Some(value),
            None if name == "omit" => Some(Value::omit()),
            None => None,
        }
    }

    fn host(&self, host: &str) -> Option<Arc<dyn Scope>> {
        let others = self.variables.hostvars.get(host)?;
        if host != &*self.variables.subject {
            return Some(others.clone());
        }
        // What this host has set itself since the segment was opened is newer than what came with it.
        let mut own = (**others).clone();
        own.extend(self.variables.registers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Some(Arc::new(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(pairs: &[(&str, &str)]) -> Dict {
        pairs.iter().map(|(key, value)| (Arc::from(*key), Value::str(*value))).collect()
    }

    #[test]
    fn registers_beat_task_variables_and_lose_to_parameters() {
        let variables = Variables {
            layers: vec![
                dict(&[("x", "default"), ("y", "default")]),
                dict(&[("x", "task")]),
                dict(&[("z", "param")]),
            ],
            registers: dict(&[("x", "set"), ("z", "set")]),
            facts: dict(&[("y", "no"), ("os_family", "Debian")]),
            ..Variables::default()
        };
        let scope = wire::Scope { base: vec![0], under: vec![1], over: vec![2] };
        let locals = Dict::new();
        let seen = variables.seen(&scope, &locals);

        let text = |name: &str| seen.get(name).and_then(|value| value.as_str().map(str::to_owned));
        assert_eq!(text("x").as_deref(), Some("set"));
        assert_eq!(text("z").as_deref(), Some("param"));
        assert_eq!(text("y").as_deref(), Some("default"));
        assert_eq!(text("ansible_os_family").as_deref(), Some("Debian"));
        assert_eq!(text("nope"), None);
    }
}
