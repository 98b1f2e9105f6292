//! etcd key paths under `/NAMESPACE/SCOPE/`.

/// The keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

/// What a key of the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    Leader,
    Member(&'a str),
    Config,
    Initialize,
    Status,
    History,
    Failover,
    Sync,
    Failsafe,
    /// Ours: why a member did what it did.
    Reasons(&'a str),
    /// Somebody else's.
    Other,
}

impl Keys {
    /// Makes the paths of cluster `scope`; `namespace` may have slashes at its ends or not, as Patroni takes it.
    pub fn new(namespace: &str, scope: &str) -> Keys {
        let namespace = namespace.trim_matches('/');
        let prefix =
            if namespace.is_empty() { format!("/{scope}/") } else { format!("/{namespace}/{scope}/") };
        Keys { prefix }
    }

    /// Returns what all keys of the cluster begin with, the slash at its end included.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn at(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn leader(&self) -> String {
        self.at("leader")
    }

    pub fn member(&self, name: &str) -> String {
        format!("{}members/{name}", self.prefix)
    }

    pub fn config(&self) -> String {
        self.at("config")
    }

    pub fn initialize(&self) -> String {
        self.at("initialize")
    }

    pub fn status(&self) -> String {
        self.at("status")
    }

    pub fn history(&self) -> String {
        self.at("history")
    }

    pub fn failover(&self) -> String {
        self.at("failover")
    }

    pub fn sync(&self) -> String {
        self.at("sync")
    }

    pub fn failsafe(&self) -> String {
        self.at("failsafe")
    }

    pub fn reasons(&self, name: &str) -> String {
        format!("{}keddah/{name}", self.prefix)
    }

    /// Tells what `key` is.
    pub fn read<'a>(&self, key: &'a str) -> Key<'a> {
        let Some(rest) = key.strip_prefix(&self.prefix) else {
            return Key::Other;
        };
        match rest {
            "leader" => Key::Leader,
            "config" => Key::Config,
            "initialize" => Key::Initialize,
            "status" => Key::Status,
            "history" => Key::History,
            "failover" => Key::Failover,
            "sync" => Key::Sync,
            "failsafe" => Key::Failsafe,
            other => match other.split_once('/') {
                Some(("members", name)) if !name.is_empty() => Key::Member(name),
                Some(("keddah", name)) if !name.is_empty() => Key::Reasons(name),
                _ => Key::Other,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_taken_with_and_without_slashes() {
        for namespace in ["service", "/service", "/service/"] {
            assert_eq!(Keys::new(namespace, "demo").leader(), "/service/demo/leader");
        }
    }

    #[test]
    fn paths_are_read_back() {
        let keys = Keys::new("/service/", "demo");

        assert_eq!(keys.read(&keys.member("db1")), Key::Member("db1"));
        assert_eq!(keys.read(&keys.reasons("db1")), Key::Reasons("db1"));
        assert_eq!(keys.read(&keys.sync()), Key::Sync);
        assert_eq!(keys.read("/service/other/leader"), Key::Other);
    }
}
