//! The desired-state file `cluster.yml`: what the deployment is, typed, one file per part.
//!
//! Start at [`Desired`]. [`variable`] makes of it what roles see as `keddah`; [`topology`] knows what a good deployment looks like.

pub mod agent;
pub mod etcd;
pub mod flavour;
pub mod haproxy;
pub mod members;
pub mod postgres;
pub mod shape;
pub mod topology;
pub mod variable;
pub mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::input::files::Files;
use crate::source::{Diagnostic, Span};
use agent::Agent;
use etcd::Etcd;
use haproxy::Haproxy;
use postgres::Postgres;
use shape::{Limit, Shape, part};
use watchdog::Watchdog;

/// The names that the file may have.
pub const FILE_NAMES: [&str; 2] = ["cluster.yml", "cluster.yaml"];

part! {
    /// The desired state of one deployment. Only `name` and `postgres.version` must be given.
    pub struct Desired {
        /// The deployment's name: the scope in etcd, and the token of its etcd cluster.
        name: Arc<str> = "".into(), Limit::RequiredName;
        /// The folder in etcd that holds the deployments.
        namespace: Arc<str> = "/service/".into(), Limit::AbsolutePath;
        etcd: Etcd = Etcd::default(), Limit::None;
        postgres: Postgres = Postgres::default(), Limit::Required;
        agent: Agent = Agent::default(), Limit::None;
        watchdog: Watchdog = Watchdog::default(), Limit::None;
        haproxy: Haproxy = Haproxy::default(), Limit::None;
    }
}

/// A `cluster.yml` that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredFile {
    pub path: PathBuf,
    pub desired: Desired,
}

/// Reads the `cluster.yml` in the first of `dirs` that has one. More than one is a problem.
pub fn load(files: &mut Files, dirs: &[PathBuf]) -> Option<DesiredFile> {
    let candidates = dirs.iter().flat_map(|dir| FILE_NAMES.iter().map(|name| dir.join(name)));
    let found: Vec<PathBuf> = candidates.filter(|path| path.is_file()).collect();
    let (path, more) = found.split_first()?;
    for other in more {
        let message =
            format!("`{}` is a second desired-state file beside `{}`", other.display(), path.display());
        let hint = "a deployment has one cluster.yml; keep deployments in folders of their own";
        files.out.push(Diagnostic::error("two-deployments", message).hint(hint));
    }
    read(files, path).map(|desired| DesiredFile { path: path.clone(), desired })
}

fn read(files: &mut Files, path: &Path) -> Option<Desired> {
    let (file, text) = files.text(path, None)?;
    let (documents, problems) = crate::source::yaml::read(file, &text);
    let broken = problems.has_errors();
    files.out.extend(problems);
    match documents.first() {
        Some(document) => Desired::read(document, "", &mut files.out),
        None if broken => None,
        None => {
            let message = "the desired-state file is empty";
            let hint = "the least is `name: NAME` and `postgres: {version: 17}`";
            files.out.push(Diagnostic::error("missing-key", message).at(Span::new(file, 0, 0)).hint(hint));
            None
        }
    }
}

/// Returns the JSON Schema of `cluster.yml`.
pub fn schema() -> Json {
    let mut schema = Desired::schema();
    if let Some(entries) = schema.as_object_mut() {
        entries.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        entries.insert("title".into(), json!("Keddah's desired-state file, cluster.yml"));
    }
    schema
}
