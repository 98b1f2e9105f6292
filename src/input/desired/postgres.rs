//! The part `postgres` of `cluster.yml`, with its roles and databases.

use std::sync::Arc;

use crate::input::desired::flavour::FlavourName;
use crate::input::desired::shape::{Free, Limit, PORT, SecretText, Shape, part, words, wrong};
use crate::source::{Diagnostics, Node};

words! {
    /// The family of distributions, which decides packages and folders.
    pub enum OsFamily {
        /// Debian, Ubuntu.
        Debian = "debian",
        /// RHEL, Rocky, Alma.
        Redhat = "redhat",
    }
}

words! {
    /// Whether something should be there.
    pub enum State {
        Present = "present",
        Absent = "absent",
    }
}

part! {
    /// The Postgres cluster.
    pub struct Postgres {
        /// The inventory group whose hosts are members.
        group: Arc<str> = "postgres".into(), Limit::None;
        /// PostgreSQL, EDB Postgres Advanced Server or EDB Postgres Extended Server.
        flavour: FlavourName = FlavourName::Postgresql, Limit::None;
        /// The major version.
        version: i64 = 0, Limit::Required;
        /// The family of the hosts' distribution.
        os_family: OsFamily = OsFamily::Debian, Limit::None;
        /// The port of the server; the flavour's own when it is not given.
        port: Option<i64> = None, PORT;
        /// The folder of the server's programs; the flavour's own when it is not given.
        bin_dir: Option<Arc<str>> = None, Limit::AbsolutePath;
        /// The folder of the data; the flavour's own when it is not given.
        data_dir: Option<Arc<str>> = None, Limit::AbsolutePath;
        /// Server parameters, in the cluster's dynamic configuration.
        parameters: Free = Free::default(), Limit::None;
        /// Lines of pg_hba.conf for clients. Lines for the cluster's own connections stand above them.
        hba: Vec<Arc<str>> = vec!["host all all all scram-sha-256".into()], Limit::None;
        /// How the cluster is made: encoding, locale, checksums.
        initdb: Initdb = Initdb::default(), Limit::None;
        /// Roles (users) that should exist.
        roles: Vec<Role> = Vec::new(), Limit::None;
        /// Databases that should exist.
        databases: Vec<Database> = Vec::new(), Limit::None;
    }
}

part! {
    /// What initdb is told. It counts once, when the cluster is made.
    pub struct Initdb {
        /// The encoding of databases.
        encoding: Arc<str> = "UTF8".into(), Limit::None;
        /// The locale of databases.
        locale: Arc<str> = "C.UTF-8".into(), Limit::None;
        /// Whether pages carry checksums.
        data_checksums: bool = true, Limit::None;
    }
}

part! {
    /// A role of the cluster.
    pub struct Role {
        /// Its name.
        name: Arc<str> = "".into(), Limit::Required;
        /// Its password: a template that names a variable, e.g. `"{{ app_password }}"`.
        password: Option<SecretText> = None, Limit::None;
        /// Whether it may log in.
        login: bool = true, Limit::None;
        superuser: bool = false, Limit::None;
        createdb: bool = false, Limit::None;
        createrole: bool = false, Limit::None;
        replication: bool = false, Limit::None;
        bypassrls: bool = false, Limit::None;
        inherit: bool = true, Limit::None;
        /// Most connections at a time; -1 for any number.
        connection_limit: i64 = -1, Limit::Range(-1, i32::MAX as i64);
        /// All roles that it is a member of.
        member_of: Vec<Arc<str>> = Vec::new(), Limit::None;
        /// All settings of its sessions.
        settings: Free = Free::default(), Limit::None;
        state: State = State::Present, Limit::None;
    }
}

part! {
    /// A database of the cluster.
    pub struct Database {
        /// Its name.
        name: Arc<str> = "".into(), Limit::Required;
        /// The role that owns it; the superuser when it is not given.
        owner: Option<Arc<str>> = None, Limit::None;
        /// Its encoding; the template's when it is not given.
        encoding: Option<Arc<str>> = None, Limit::None;
        /// Its locale; the template's when it is not given.
        locale: Option<Arc<str>> = None, Limit::None;
        /// The database that it is copied from.
        template: Option<Arc<str>> = None, Limit::None;
        /// Extensions that should exist in it.
        extensions: Vec<Extension> = Vec::new(), Limit::None;
        state: State = State::Present, Limit::None;
    }
}

part! {
    /// An extension, written as a mapping.
    pub struct ExtensionBody {
        /// Its name.
        name: Arc<str> = "".into(), Limit::Required;
        /// The version; when it is not given, a new one has the packages' own, and an old one keeps its.
        version: Option<Arc<str>> = None, Limit::None;
        /// The schema that holds its objects.
        schema: Option<Arc<str>> = None, Limit::None;
        state: State = State::Present, Limit::None;
    }
}

/// An extension: its name, or a mapping with more.
#[derive(Debug, Clone, PartialEq)]
pub struct Extension(pub ExtensionBody);

impl Shape for Extension {
    fn read(node: &Node, at: &str, out: &mut Diagnostics) -> Option<Extension> {
        if let Some(name) = node.as_str() {
            let mut body = ExtensionBody { span: Some(node.span), ..ExtensionBody::default() };
            body.name.value = name.into();
            body.name.span = Some(node.span);
            return Some(Extension(body));
        }
        if node.as_map().is_none() {
            wrong(node, at, "an extension's name, or a mapping with `name`", out);
            return None;
        }
        ExtensionBody::read(node, at, out).map(Extension)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "oneOf": [{ "type": "string" }, ExtensionBody::schema()] })
    }

    fn to_value(&self) -> crate::expr::Value {
        self.0.to_value()
    }
}
