//! The handlers of a play in the order in which they run.

use std::sync::Arc;

use crate::input::playbook::Statement;
use crate::plan::compile::Inherited;

/// One handler: who it answers to and what it does.
#[derive(Debug, Clone)]
pub struct Handler {
    pub name: Arc<str>,
    pub role: Option<Arc<str>>,
    pub listen: Vec<Arc<str>>,
    pub body: Statement,
    pub inherited: Arc<Inherited>,
}

/// Definition order: static roles, then the play, then roles that were included while it ran.
#[derive(Debug, Clone, Default)]
pub struct Handlers {
    all: Vec<Handler>,
    of_roles: usize,
    fixed: usize,
}

impl Handlers {
    /// Adds a handler of a static role.
    pub fn add_of_role(&mut self, handler: Handler) {
        self.all.insert(self.of_roles, handler);
        self.of_roles += 1;
        self.fixed += 1;
    }

    /// Adds a handler of the play; of two with the same name the first stands.
    pub fn add_of_play(&mut self, handler: Handler) {
        let taken = self.all.iter().skip(self.of_roles).any(|h| !h.name.is_empty() && h.name == handler.name);
        if !taken {
            self.all.insert(self.fixed, handler);
            self.fixed += 1;
        }
    }

    /// Adds a handler of a role included while the play runs, unless it is there from an earlier include.
    pub fn add_included(&mut self, handler: Handler) {
        let same = |h: &Handler| h.name == handler.name && h.role == handler.role && h.body == handler.body;
        if !self.all.iter().any(same) {
            self.all.push(handler);
        }
    }

    pub fn get(&self, index: usize) -> Option<&Handler> {
        self.all.get(index)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns the handlers that a notification means: all that listen to the topic, and of those with the name (plain or
    /// as `role : name`) the first of the play, or the last loaded of the roles.
    pub fn notified(&self, name: &str) -> Vec<usize> {
        let named = |handler: &Handler| {
            &*handler.name == name
                || handler.role.as_ref().is_some_and(|role| {
                    name.strip_prefix(&**role).and_then(|rest| rest.strip_prefix(" : "))
                        == Some(&*handler.name)
                })
        };
        let with_name: Vec<usize> =
            self.all.iter().enumerate().filter(|(_, h)| named(h)).map(|(index, _)| index).collect();
        let of_play = with_name.iter().find(|index| (self.of_roles..self.fixed).contains(*index));
        let mut found: Vec<usize> = of_play.or(with_name.last()).copied().into_iter().collect();
        let listening =
            self.all.iter().enumerate().filter(|(_, h)| h.listen.iter().any(|topic| &**topic == name));
        found.extend(listening.map(|(index, _)| index));
        found.sort_unstable();
        found.dedup();
        found
    }
}
