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
    ("RESTAPI_CERTFILE", "restapi.certfile"),
    ("RESTAPI_KEYFILE", "restapi.keyfile"),
    ("RESTAPI_KEYFILE_PASSWORD", "restapi.keyfile_password"),
    ("RESTAPI_CAFILE", "restapi.cafile"),
    ("RESTAPI_CIPHERS", "restapi.ciphers"),
    ("RESTAPI_VERIFY_CLIENT", "restapi.verify_client"),
    ("RESTAPI_ALLOWLIST", "restapi.allowlist"),
    ("RESTAPI_ALLOWLIST_INCLUDE_MEMBERS", "restapi.allowlist_include_members"),
    ("RESTAPI_HTTP_EXTRA_HEADERS", "restapi.http_extra_headers"),
    ("RESTAPI_HTTPS_EXTRA_HEADERS", "restapi.https_extra_headers"),
    ("RESTAPI_REQUEST_QUEUE_SIZE", "restapi.request_queue_size"),
    ("RESTAPI_SERVER_TOKENS", "restapi.server_tokens"),
    ("RESTAPI_USERNAME", "restapi.authentication.username"),
    ("RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("CTL_INSECURE", "ctl.insecure"),
    ("CTL_CACERT", "ctl.cacert"),
    ("CTL_CERTFILE", "ctl.certfile"),
    ("CTL_KEYFILE", "ctl.keyfile"),
    ("CTL_KEYFILE_PASSWORD", "ctl.keyfile_password"),
    ("CTL_USERNAME", "ctl.authentication.username"),
    ("CTL_PASSWORD", "ctl.authentication.password"),
    ("ETCD_HOST", "etcd.host"),
    ("ETCD_HOSTS", "etcd.hosts"),
    ("ETCD_PROTOCOL", "etcd.protocol"),
    ("ETCD_USERNAME", "etcd.username"),
    ("ETCD_PASSWORD", "etcd.password"),
    ("ETCD_CACERT", "etcd.cacert"),
    ("ETCD_CERT", "etcd.cert"),
    ("ETCD_KEY", "etcd.key"),
    ("ETCD3_HOST", "etcd3.host"),
    ("ETCD3_HOSTS", "etcd3.hosts"),
    ("ETCD3_PROTOCOL", "etcd3.protocol"),
    ("ETCD3_USERNAME", "etcd3.username"),
    ("ETCD3_PASSWORD", "etcd3.password"),
    ("ETCD3_CACERT", "etcd3.cacert"),
    ("ETCD3_CERT", "etcd3.cert"),
    ("ETCD3_KEY", "etcd3.key"),
    ("POSTGRESQL_LISTEN", "postgresql.listen"),
    ("POSTGRESQL_CONNECT_ADDRESS", "postgresql.connect_address"),
    ("POSTGRESQL_PROXY_ADDRESS", "postgresql.proxy_address"),
    ("POSTGRESQL_DATA_DIR", "postgresql.data_dir"),
    ("POSTGRESQL_CONFIG_DIR", "postgresql.config_dir"),
    ("POSTGRESQL_BIN_DIR", "postgresql.bin_dir"),
    ("POSTGRESQL_PGPASS", "postgresql.pgpass"),
    ("SUPERUSER_USERNAME", "postgresql.authentication.superuser.username"),
    ("SUPERUSER_PASSWORD", "postgresql.authentication.superuser.password"),
    ("SUPERUSER_SSLMODE", "postgresql.authentication.superuser.sslmode"),
    ("SUPERUSER_SSLCERT", "postgresql.authentication.superuser.sslcert"),
    ("SUPERUSER_SSLKEY", "postgresql.authentication.superuser.sslkey"),
    ("SUPERUSER_SSLPASSWORD", "postgresql.authentication.superuser.sslpassword"),
    ("SUPERUSER_SSLROOTCERT", "postgresql.authentication.superuser.sslrootcert"),
    ("SUPERUSER_SSLCRL", "postgresql.authentication.superuser.sslcrl"),
    ("SUPERUSER_SSLCRLDIR", "postgresql.authentication.superuser.sslcrldir"),
    ("SUPERUSER_SSLNEGOTIATION", "postgresql.authentication.superuser.sslnegotiation"),
    ("SUPERUSER_GSSENCMODE", "postgresql.authentication.superuser.gssencmode"),
    ("SUPERUSER_CHANNEL_BINDING", "postgresql.authentication.superuser.channel_binding"),
    ("REPLICATION_USERNAME", "postgresql.authentication.replication.username"),
    ("REPLICATION_PASSWORD", "postgresql.authentication.replication.password"),
    ("REPLICATION_SSLMODE", "postgresql.authentication.replication.sslmode"),
    ("REPLICATION_SSLCERT", "postgresql.authentication.replication.sslcert"),
    ("REPLICATION_SSLKEY", "postgresql.authentication.replication.sslkey"),
    ("REPLICATION_SSLPASSWORD", "postgresql.authentication.replication.sslpassword"),
    ("REPLICATION_SSLROOTCERT", "postgresql.authentication.replication.sslrootcert"),
    ("REPLICATION_SSLCRL", "postgresql.authentication.replication.sslcrl"),
    ("REPLICATION_SSLCRLDIR", "postgresql.authentication.replication.sslcrldir"),
    ("REPLICATION_SSLNEGOTIATION", "postgresql.authentication.replication.sslnegotiation"),
    ("REPLICATION_GSSENCMODE", "postgresql.authentication.replication.gssencmode"),
    ("REPLICATION_CHANNEL_BINDING", "postgresql.authentication.replication.channel_binding"),
    ("REWIND_USERNAME", "postgresql.authentication.rewind.username"),
    ("REWIND_PASSWORD", "postgresql.authentication.rewind.password"),
    ("REWIND_SSLMODE", "postgresql.authentication.rewind.sslmode"),
    ("REWIND_SSLCERT", "postgresql.authentication.rewind.sslcert"),
    ("REWIND_SSLKEY", "postgresql.authentication.rewind.sslkey"),
    ("REWIND_SSLPASSWORD", "postgresql.authentication.rewind.sslpassword"),
    ("REWIND_SSLROOTCERT", "postgresql.authentication.rewind.sslrootcert"),
    ("REWIND_SSLCRL", "postgresql.authentication.rewind.sslcrl"),
    ("REWIND_SSLCRLDIR", "postgresql.authentication.rewind.sslcrldir"),
    ("REWIND_SSLNEGOTIATION", "postgresql.authentication.rewind.sslnegotiation"),
    ("REWIND_GSSENCMODE", "postgresql.authentication.rewind.gssencmode"),
    ("REWIND_CHANNEL_BINDING", "postgresql.authentication.rewind.channel_binding"),
    ("WATCHDOG_MODE", "watchdog.mode"),
    ("WATCHDOG_DEVICE", "watchdog.device"),
    ("WATCHDOG_SAFETY_MARGIN", "watchdog.safety_margin"),
    ("GUARD_MODE", "guard.mode"),
    ("DISK_WARN", "disk.warn"),
    ("DISK_BRAKE", "disk.brake"),
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
