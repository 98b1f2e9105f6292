//! Environment variables that stand for keys of the configuration file: `PATRONI_X`, over which `KEDDAH_X` wins.

use serde_json::{Map, Value};

/// Variable (without its prefix) and the key it sets.
pub const VARIABLES: &[(&str, &str)] = &[
    ("SCOPE", "scope"),
    ("NAMESPACE", "namespace"),
    ("NAME", "name"),
    ("LOG_TYPE", "log.type"),
    ("LOG_LEVEL", "log.level"),
    ("LOG_FORMAT", "log.format"),
    ("LOG_DATEFORMAT", "log.dateformat"),
    ("RESTAPI_LISTEN", "restapi.listen"),
    ("RESTAPI_CONNECT_ADDRESS", "restapi.connect_address"),
    ("RESTAPI_USERNAME", "restapi.authentication.username"),
    ("RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("ETCD_HOST", "etcd.host"),
    ("ETCD_HOSTS", "etcd.hosts"),
    ("ETCD_PROTOCOL", "etcd.protocol"),
    ("ETCD_USERNAME", "etcd.username"),
    ("ETCD_PASSWORD", "etcd.password"),
    ("ETCD3_HOST", "etcd3.host"),
    ("ETCD3_HOSTS", "etcd3.hosts"),
    ("ETCD3_PROTOCOL", "etcd3.protocol"),
    ("ETCD3_USERNAME", "etcd3.username"),
    ("ETCD3_PASSWORD", "etcd3.password"),
    ("POSTGRESQL_LISTEN", "postgresql.listen"),
    ("POSTGRESQL_CONNECT_ADDRESS", "postgresql.connect_address"),
    ("POSTGRESQL_PROXY_ADDRESS", "postgresql.proxy_address"),
    ("POSTGRESQL_DATA_DIR", "postgresql.data_dir"),
    ("POSTGRESQL_CONFIG_DIR", "postgresql.config_dir"),
    ("POSTGRESQL_BIN_DIR", "postgresql.bin_dir"),
    ("POSTGRESQL_PGPASS", "postgresql.pgpass"),
    ("SUPERUSER_USERNAME", "postgresql.authentication.superuser.username"),
    ("SUPERUSER_PASSWORD", "postgresql.authentication.superuser.password"),
    ("REPLICATION_USERNAME", "postgresql.authentication.replication.username"),
    ("REPLICATION_PASSWORD", "postgresql.authentication.replication.password"),
    ("REWIND_USERNAME", "postgresql.authentication.rewind.username"),
    ("REWIND_PASSWORD", "postgresql.authentication.rewind.password"),
    ("WATCHDOG_MODE", "watchdog.mode"),
    ("WATCHDOG_DEVICE", "watchdog.device"),
    ("WATCHDOG_SAFETY_MARGIN", "watchdog.safety_margin"),
    ("GUARD_MODE", "guard.mode"),
];

/// Writes what the environment sets into `document`; `look_up` returns a variable's text.
pub fn overlay(document: &mut Map<String, Value>, look_up: &dyn Fn(&str) -> Option<String>) {
    for prefix in ["PATRONI_", "KEDDAH_"] {
        for (name, path) in VARIABLES {
            if let Some(text) = look_up(&format!("{prefix}{name}")) {
                let mut keys: Vec<&str> = path.split('.').collect();
                let last = keys.pop().unwrap_or_default();
                let mut at = &mut *document;
                for key in keys {
                    let slot = at.entry(key).or_insert_with(|| Value::Object(Map::new()));
                    if !slot.is_object() {
                        *slot = Value::Object(Map::new());
                    }
                    let Value::Object(map) = slot else { return };
                    at = map;
                }
                at.insert(last.to_owned(), Value::String(text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn our_spelling_wins() {
        let mut document = Map::new();
        document.insert("name".to_owned(), json!("file"));
        let variables = |name: &str| match name {
            "PATRONI_NAME" => Some("theirs".to_owned()),
            "KEDDAH_NAME" => Some("ours".to_owned()),
            "PATRONI_ETCD3_HOST" => Some("localhost:2379".to_owned()),
            _ => None,
        };

        overlay(&mut document, &variables);

        assert_eq!(Value::Object(document), json!({"name": "ours", "etcd3": {"host": "localhost:2379"}}));
    }
}
