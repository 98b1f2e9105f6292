//! `keddah edit-config`: change the dynamic configuration, with its diff.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::cli::cluster::{Where, confirm, say};
use crate::cli::editor::Draft;
use crate::cli::exit::Exit;
use crate::cli::patronictl::{self, Place};
use crate::contract::config::to_json;
use crate::contract::dynamic;
use crate::ctl::{config, table};
use crate::source::{FileId, SourceMap, render, yaml};
use crate::sys::files;

/// Change the dynamic configuration of a cluster: what flags say, or by hand in $EDITOR
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  keddah edit-config\n  keddah edit-config -s loop_wait=5 --force\n  keddah edit-config -p work_mem=8MB --force"
)]
pub struct Args {
    /// The name of the cluster, where the file names another one
    cluster: Option<String>,

    #[command(flatten)]
    place: Where,

    #[command(flatten)]
    edit: Edit,
}

/// What is changed; without any of it a person is asked, in an editor.
#[derive(Debug, clap::Args)]
pub struct Edit {
    /// Set a key, dots lead into mappings, `null` removes; may be repeated
    #[arg(short = 's', long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Set a parameter of Postgres; may be repeated
    #[arg(short = 'p', long = "pg", value_name = "PARAMETER=VALUE")]
    pg: Vec<String>,

    /// Apply the changes that a file names, - for standard input
    #[arg(long, value_name = "FILE")]
    apply: Option<String>,

    /// Take the configuration from a file, and nothing from what is there; - for standard input
    #[arg(long, value_name = "FILE")]
    replace: Option<String>,

    /// Do not print the diff
    #[arg(short, long)]
    quiet: bool,

    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let Args { cluster, place, edit } = args;
    let place = Place::of(&place, cluster.as_deref())?;
    edit.carry_out(&place, None, |question| {
        let agreed = confirm(question, false)?;
        if !agreed {
            eprintln!("nothing was changed");
        }
        Ok((agreed, Exit::Input))
    })
}

impl Edit {
    /// Shows what changes, and writes it where `agree` says so; it also says how the command ends where nobody agrees.
    pub fn carry_out(
        &self,
        place: &Place,
        name: Option<&str>,
        agree: impl FnOnce(&str) -> anyhow::Result<(bool, Exit)>,
    ) -> anyhow::Result<Exit> {
        let cluster = place.cluster(name)?;
        let runtime = crate::cli::runtime()?;
        let (before, revision) =
            runtime.block_on(cluster.config()).map_err(|error| anyhow!(crate::sys::chain(&error)))?;
        drop(runtime);
        let after = self.edited(&before, &cluster.scope)?;
        if before == after {
            say!("Not changed");
            return Ok(Exit::Ok);
        }
        if !self.quiet {
            say!("{}", diff(&before, &after).trim_end());
        }
        let piped = [&self.apply, &self.replace].into_iter().any(|file| file.as_deref() == Some("-"));
        if piped && !self.force {
            say!("Use --force option to apply changes");
            return Ok(Exit::Ok);
        }
        if !self.force {
            let (agreed, exit) = agree("Apply these changes?")?;
            if !agreed {
                return Ok(exit);
            }
        }
        // Connections belong to the runtime that made them.
        let cluster = place.cluster(name)?;
        patronictl::ask(async {
            cluster.write_config(&after, revision).await?;
            say!("Configuration changed");
            Ok(Exit::Ok)
        })
    }

    fn edited(&self, before: &Map<String, Value>, scope: &str) -> anyhow::Result<Map<String, Value>> {
        let Edit { set, pg, apply, replace, quiet: _, force: _ } = self;
        if set.is_empty() && pg.is_empty() && apply.is_none() && replace.is_none() {
            return by_hand(before, scope);
        }
        let mut after = before.clone();
        if let Some(path) = replace {
            after = without_nulls(&from_file(path)?);
        }
        if let Some(path) = apply {
            dynamic::patch(&mut after, &from_file(path)?);
        }
        let parameters = pg.iter().map(|text| format!("postgresql.parameters.{}", text.trim_start()));
        for text in set.iter().cloned().chain(parameters) {
            dynamic::patch(&mut after, &config::assignment(&text, read_value)?);
        }
        Ok(after)
    }
}

/// Has a person change the whole configuration. What cannot be read is said, and can be edited again.
fn by_hand(before: &Map<String, Value>, scope: &str) -> anyhow::Result<Map<String, Value>> {
    let text = table::yaml(&Value::Object(before.clone()));
    let draft = Draft::new(&format!("{scope}-config.yaml"), &text)?;
    loop {
        let edited = draft.edit()?;
        if edited == text {
            return Ok(before.clone());
        }
        match read_mapping(draft.path(), &edited) {
            Ok(map) => return Ok(without_nulls(&map)),
            Err(why) => eprint!("{why}"),
        }
        if !patronictl::confirm("Edit it again?")? {
            bail!("nothing was changed");
        }
    }
}

fn from_file(path: &str) -> anyhow::Result<Map<String, Value>> {
    let mut text = String::new();
    if path == "-" {
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    } else {
        text = String::from_utf8_lossy(&files::read(Path::new(path))?).into_owned();
    }
    read_mapping(Path::new(path), &text).map_err(|why| anyhow!("{}", why.trim_end()))
}

/// Reads what a person wrote.
///
/// # Errors
/// It is no mapping; the text shows where, and ends its line.
fn read_mapping(path: &Path, text: &str) -> Result<Map<String, Value>, String> {
    let mut sources = SourceMap::default();
    let (documents, diagnostics) = yaml::read(sources.add(path, text), text);
    if diagnostics.has_errors() {
        return Err(render::text(&diagnostics, &sources));
    }
    match documents.as_slice() {
        [node] if let Value::Object(map) = to_json(node) => Ok(map),
        _ => Err(format!("{} holds no mapping of settings\n", path.display())),
    }
}

/// A key without a value is one that is not set, as in a change.
fn without_nulls(map: &Map<String, Value>) -> Map<String, Value> {
    let mut kept = Map::new();
    dynamic::patch(&mut kept, map);
    kept
}

/// Reads a value as YAML does: `5`, `on`, `null`, `[a, b]`, or a text.
pub fn read_value(text: &str) -> Value {
    let (documents, diagnostics) = yaml::read(FileId(0), text);
    match documents.first() {
        Some(node) if !diagnostics.has_errors() => to_json(node),
        Some(_) | None => Value::String(text.to_owned()),
    }
}

/// Writes what an edit changes, as a unified diff of YAML.
pub fn diff(before: &Map<String, Value>, after: &Map<String, Value>) -> String {
    let text = |config: &Map<String, Value>| table::yaml(&Value::Object(config.clone()));
    let (before, after) = (text(before), text(after));
    TextDiff::from_lines(&before, &after).unified_diff().context_radius(3).header("", "").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_text_is_read_as_yaml_and_what_is_wrong_has_its_place() {
        let read = |text: &str| read_mapping(Path::new("x.yaml"), text);

        assert_eq!(Value::Object(read("ttl: 20\npause: yes\n").unwrap()), json!({"ttl": 20, "pause": true}));
        let wrong = read("ttl: 20\n  loop_wait: 5\n").unwrap_err();
        assert!(wrong.contains("x.yaml:2"), "{wrong}");
        for text in ["", "- ttl\n", "a: 1\n---\nb: 2\n"] {
            assert_eq!(read(text).unwrap_err(), "x.yaml holds no mapping of settings\n");
        }
    }

    #[test]
    fn files_and_flags_change_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.yaml");
        files::replace(&file, b"ttl: 25\nloop_wait: null\n", files::Attributes::default()).unwrap();
        let file = Some(file.display().to_string());
        let before = json!({"loop_wait": 10, "pause": true});
        let edit = |apply: Option<String>, replace: Option<String>| {
            let edit = Edit {
                set: vec!["retry_timeout=7".to_owned()],
                pg: vec![" work_mem=5MB".to_owned()],
                apply,
                replace,
                quiet: true,
                force: true,
            };
            Value::Object(edit.edited(before.as_object().unwrap(), "demo").unwrap())
        };
        let flags = json!({"parameters": {"work_mem": "5MB"}});

        let applied = edit(file.clone(), None);
        assert_eq!(applied, json!({"pause": true, "ttl": 25, "retry_timeout": 7, "postgresql": flags}));
        let replaced = edit(None, file);
        assert_eq!(replaced, json!({"ttl": 25, "retry_timeout": 7, "postgresql": flags}));
    }
}
