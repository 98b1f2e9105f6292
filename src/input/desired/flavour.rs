//! Flavours of Postgres, as data: one file each under `flavours/`, in which `N` stands for the major version.

use std::sync::Arc;

use crate::input::desired::postgres::OsFamily;
use crate::input::desired::shape::words;
use crate::source::{FileId, Node, yaml};

words! {
    /// A flavour of Postgres.
    pub enum FlavourName {
        /// PostgreSQL of the distribution or of PGDG.
        Postgresql = "postgresql",
        /// EDB Postgres Advanced Server.
        Epas = "epas",
        /// EDB Postgres Extended Server.
        Edbpge = "edbpge",
    }
}

/// A flavour's facts for one version and family of distributions.
#[derive(Debug, Clone, PartialEq)]
pub struct Flavour {
    pub title: Arc<str>,
    /// The user of the operating system that owns the data, and the database's superuser.
    pub user: Arc<str>,
    pub port: i64,
    pub packages: Vec<Arc<str>>,
    pub bin_dir: Arc<str>,
    pub data_dir: Arc<str>,
    pub home: Arc<str>,
    pub socket_dir: Arc<str>,
    /// The distribution's own units, which are to be kept down.
    pub units: Vec<Arc<str>>,
    pub server_program: Arc<str>,
    pub default_database: Arc<str>,
    /// Options that initdb needs beside those of the deployment.
    pub initdb: Vec<Arc<str>>,
    /// Major versions that are known to work.
    pub versions: Vec<i64>,
}

impl FlavourName {
    fn text(self) -> &'static str {
        match self {
            FlavourName::Postgresql => include_str!("flavours/postgresql.yml"),
            FlavourName::Epas => include_str!("flavours/epas.yml"),
            FlavourName::Edbpge => include_str!("flavours/edbpge.yml"),
        }
    }

    /// Returns the facts for a version and family.
    pub fn facts(self, family: OsFamily, version: i64) -> Flavour {
        let (documents, _) = yaml::read(FileId(u32::MAX), self.text());
        let reader = Facts { document: documents.first(), family, version };
        Flavour {
            title: reader.text("title"),
            user: reader.text("user"),
            port: reader.node("port").and_then(Node::as_int).unwrap_or_default(),
            packages: reader.texts("packages"),
            bin_dir: reader.text("bin_dir"),
            data_dir: reader.text("data_dir"),
            home: reader.text("home"),
            socket_dir: reader.text("socket_dir"),
            units: reader.texts("units"),
            server_program: reader.text("server_program"),
            default_database: reader.text("default_database"),
            initdb: reader.texts("initdb"),
            versions: reader
                .node("versions")
                .and_then(Node::as_list)
                .map(|items| items.iter().filter_map(Node::as_int).collect())
                .unwrap_or_default(),
        }
    }
}

/// Reads a flavour's file; a test reads every key of every file.
struct Facts<'a> {
    document: Option<&'a Node>,
    family: OsFamily,
    version: i64,
}

impl Facts<'_> {
    /// Returns the value of a key, of the family's part where it has one.
    fn node(&self, key: &str) -> Option<&Node> {
        let node = self.document?.get(key)?;
        match node.as_map() {
            Some(_) => node.get(self.family.word()),
            None => Some(node),
        }
    }

    fn fill(&self, text: &str) -> Arc<str> {
        text.replace("{N}", &self.version.to_string()).into()
    }

    fn text(&self, key: &str) -> Arc<str> {
        self.node(key).and_then(Node::as_str).map(|text| self.fill(text)).unwrap_or_default()
    }

    fn texts(&self, key: &str) -> Vec<Arc<str>> {
        let items = self.node(key).and_then(Node::as_list).unwrap_or_default();
        items.iter().filter_map(Node::as_str).map(|text| self.fill(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flavour_has_every_fact_for_both_families() {
        for name in [FlavourName::Postgresql, FlavourName::Epas, FlavourName::Edbpge] {
            for family in [OsFamily::Debian, OsFamily::Redhat] {
                let facts = name.facts(family, 17);
                let texts = [
                    &facts.title,
                    &facts.user,
                    &facts.bin_dir,
                    &facts.data_dir,
                    &facts.home,
                    &facts.socket_dir,
                    &facts.server_program,
                    &facts.default_database,
                ];
                assert!(texts.iter().all(|text| !text.is_empty() && !text.contains('{')), "{facts:?}");
                assert!(facts.bin_dir.contains("17") && facts.bin_dir.starts_with('/'), "{facts:?}");
                assert!(!facts.packages.is_empty() && !facts.units.is_empty() && facts.port > 0, "{facts:?}");
                assert!(facts.versions.contains(&17), "{facts:?}");
            }
        }
    }
}
