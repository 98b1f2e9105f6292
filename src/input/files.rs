//! Reading the files of a deployment: texts go into the source map, problems into the diagnostics.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::expr::{Dict, Value};
use crate::source::yaml;
use crate::source::{Diagnostic, Diagnostics, FileId, Node, SourceMap, Span};

/// Largest file that is read as a playbook, an inventory or variables; a slip (`-i disk.img`) should not fill the memory.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Files with variables, tasks or metadata may have one of these extensions or none.
pub const YAML_EXTENSIONS: [&str; 3] = ["yml", "yaml", "json"];

/// Texts read so far and what is wrong with them.
#[derive(Debug, Default)]
pub struct Files {
    pub sources: SourceMap,
    pub out: Diagnostics,
}

impl Files {
    /// Reads a text. A problem is recorded, at `asked_at` where somebody asked for the file.
    pub fn text(&mut self, path: &Path, asked_at: Option<Span>) -> Option<(FileId, Arc<str>)> {
        let problem = match read(path) {
            Ok(text) => {
                let text: Arc<str> = text.into();
                let file = self.sources.add(path, Arc::clone(&text));
                if holds_secret(&text) {
                    self.sources.hide(file);
                }
                return Some((file, text));
            }
            Err(problem) => problem,
        };
        let diagnostic = Diagnostic::error("unreadable-file", format!("`{}` {problem}", path.display()));
        self.out.push(match asked_at {
            Some(span) => diagnostic.at(span),
            None => diagnostic,
        });
        None
    }

    /// Reads the first document of a YAML file; an empty file is `None` with nothing to complain about.
    pub fn yaml(&mut self, path: &Path, asked_at: Option<Span>) -> Option<Node> {
        let (file, text) = self.text(path, asked_at)?;
        let (documents, problems) = yaml::read(file, &text);
        self.out.extend(problems);
        documents.into_iter().next()
    }

    /// Reads a file of variables: one mapping. Values of secret names are marked as secrets.
    pub fn variables(&mut self, path: &Path, asked_at: Option<Span>) -> Dict {
        let Some(node) = self.yaml(path, asked_at) else { return Dict::new() };
        self.variables_of(&node, "a file of variables")
    }

    /// Returns the variables of a mapping; anything but a mapping or nothing is a problem.
    pub fn variables_of(&mut self, node: &Node, what: &str) -> Dict {
        if node.is_null() {
            return Dict::new();
        }
        let Some(entries) = node.as_map() else {
            let message = format!("{what} must be a mapping of names to values, and this is {}", node.kind());
            self.out.push(Diagnostic::error("not-a-mapping", message).at(node.span));
            return Dict::new();
        };
        entries
            .iter()
            .filter_map(|(key, value)| Some(variable(key.key_text()?, Value::from_node(value))))
            .collect()
    }
}

/// Marks a variable as secret when its name says so.
pub fn variable(name: Arc<str>, value: Value) -> (Arc<str>, Value) {
    let value = if is_secret_name(&name) { value.secret() } else { value };
    (name, value)
}

/// Whether a variable of that name holds what must not be shown.
pub fn is_secret_name(name: &str) -> bool {
    ["password", "passphrase", "secret", "private_key"]
        .iter()
        .any(|end| name.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('_')))
}

/// Whether a line of the text gives a secret name a value in clear. Read before the text is parsed, since the parser's own
/// complaints show lines too.
fn holds_secret(text: &str) -> bool {
    text.lines().any(|line| {
        let pairs = line.split([',', ' ', '\t', '{']).filter_map(|word| word.split_once([':', '=']));
        let mut names = line.split_once([':', '=']).into_iter().chain(pairs);
        let is_clear = |value: &str| !value.trim().is_empty() && !value.contains("{{");
        names.any(|(name, value)| {
            let name = name.trim_matches(|c: char| !(c.is_alphanumeric() || c == '_'));
            is_secret_name(name)
                && (is_clear(value)
                    || value.is_empty() && is_clear(line.rsplit(':').next().unwrap_or_default()))
        })
    })
}

/// Returns the first of `STEM.yml`, `STEM.yaml`, `STEM.json` that is a file.
pub fn with_extension(stem: &Path) -> Option<PathBuf> {
    let candidates = YAML_EXTENSIONS.iter().map(|extension| {
        let mut name = stem.as_os_str().to_owned();
        name.push(".");
        name.push(extension);
        PathBuf::from(name)
    });
    candidates.into_iter().find(|path| path.is_file())
}

/// Lists the files with variables or tasks in a folder and its folders, sorted; hidden ones and backups are left out.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(dir) {
        let extension = path.extension().and_then(|e| e.to_str());
        if path.is_dir() {
            found.extend(below(&path));
        } else if extension.is_none_or(|e| YAML_EXTENSIONS.contains(&e)) {
            found.push(path);
        }
    }
    found
}

/// Lists what is in a folder, sorted by name, without hidden files and backups (`~`); empty when it cannot be read.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    paths.retain(|path| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        !name.starts_with('.') && !name.ends_with('~')
    });
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<String, String> {
    let words = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "does not exist".to_owned(),
        ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        ErrorKind::IsADirectory => "is a folder, where a file is expected".to_owned(),
        ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    let size = std::fs::metadata(path).map_err(words)?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("has {size} bytes, more than the {FILE_BYTES_MAX} that are read"));
    }
    std::fs::read_to_string(path).map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_clear_is_seen_however_it_is_written() {
        for text in [
            "a: 1\napp_password: one\n",
            "- name: x\n  password: 'one'\n",
            "roles: [{name: a, password: one}]\n",
            "db1 ansible_become_password=one\n",
            "[all:vars]\nkeddah_rewind_password = one\n",
        ] {
            assert!(holds_secret(text), "{text}");
        }
        for text in
            ["password: \"{{ app_password }}\"\n", "no_secret_here: 1\n", "secrets: 3\n", "password:\n"]
        {
            assert!(!holds_secret(text), "{text}");
        }
    }
}
