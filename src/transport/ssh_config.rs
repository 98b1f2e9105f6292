//! `~/.ssh/config`: what it says about one host, as a list of settings. Reads text and knows no target.
//!
//! `Host`, `Match all` and `Include` are understood. Other `Match` blocks ask about things that are decided later than
//! this file is read; they are passed over, and a warning says so.

use std::path::{Path, PathBuf};

use crate::transport::host_keys::wildcard;

/// One line that counts for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// In lower case.
    pub option: String,
    pub value: String,
    /// `/home/me/.ssh/config:12`.
    pub place: String,
}

/// How deep files may include files; OpenSSH's limit.
const DEPTH_MAX: usize = 16;

/// Options that may be given more than once; of the others the first counts.
const REPEATED: [&str; 2] = ["identityfile", "certificatefile"];

/// Lists what the file at `path` and those that it includes say of `host`. A file that is not there says nothing.
pub fn settings(path: &Path, host: &str) -> Vec<Setting> {
    let mut found = Vec::new();
    read(path, &host.to_lowercase(), 0, true, &mut found);
    found
}

fn read(path: &Path, host: &str, depth: usize, mut applies: bool, found: &mut Vec<Setting>) {
    let Ok(bytes) = std::fs::read(path) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let outer = applies;
    for (index, line) in text.lines().enumerate() {
        let Some((option, value)) = split(line) else { continue };
        match option.as_str() {
            "host" => applies = outer && is_meant(&value, host),
            "match" => {
                applies = outer && value.trim().eq_ignore_ascii_case("all");
                if !applies {
                    tracing::debug!(file = %path.display(), line = index + 1, "Match block passed over");
                }
            }
            "include" if depth < DEPTH_MAX => {
                for pattern in value.split_whitespace() {
                    for file in included(path, pattern) {
                        read(&file, host, depth + 1, applies, found);
                    }
                }
            }
            _ if applies => {
                let repeated = REPEATED.contains(&option.as_str());
                if repeated || !found.iter().any(|known| known.option == option) {
                    let place = format!("{}:{}", path.display(), index + 1);
                    found.push(Setting { option, value, place });
                }
            }
            _ => {}
        }
    }
}

/// Splits `Option value`, `Option=value` and `Option "value"`; none for comments and empty lines.
fn split(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let at = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let (option, rest) = line.split_at(at);
    let value = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '=').trim();
    let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|v| !v.contains('"'));
    Some((option.to_lowercase(), bare.unwrap_or(value).to_owned()))
}

/// Tells whether a line of patterns means the host: one matches, and no `!` pattern does.
fn is_meant(patterns: &str, host: &str) -> bool {
    let mut meant = false;
    for pattern in patterns.split_whitespace().map(|pattern| pattern.trim_matches('"').to_lowercase()) {
        match pattern.strip_prefix('!') {
            Some(refused) if wildcard(refused, host) => return false,
            Some(_) => {}
            None => meant |= wildcard(&pattern, host),
        }
    }
    meant
}

/// Finds the files of an `Include`: relative to the folder of the file that says so, with wildcards in the last part.
fn included(from: &Path, pattern: &str) -> Vec<PathBuf> {
    let folder = from.parent().unwrap_or(Path::new("/"));
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let path = pattern.strip_prefix("~/").map_or_else(|| folder.join(pattern), |rest| home.join(rest));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.contains(['*', '?']) {
        return vec![path];
    }
    let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| wildcard(&name, &entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::{Attributes, replace};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        for (name, text) in files {
            replace(&folder.path().join(name), text.as_bytes(), Attributes::default()).unwrap();
        }
        folder
    }

    fn said(folder: &tempfile::TempDir, host: &str) -> Vec<(String, String)> {
        let settings = settings(&folder.path().join("config"), host);
        settings.into_iter().map(|setting| (setting.option, setting.value)).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(option, value)| ((*option).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_first_value_counts_and_identity_files_add_up() {
        let config = "# mine\nHost db1 DB2\n  User anna\n  IdentityFile=~/one\nHost *\n  User bert\n  Port 2200\n  IdentityFile \"~/two\"\n";
        let folder = folder(&[("config", config)]);
        assert_eq!(
            said(&folder, "db2"),
            pairs(&[
                ("user", "anna"),
                ("identityfile", "~/one"),
                ("port", "2200"),
                ("identityfile", "~/two")
            ])
        );
        assert_eq!(
            said(&folder, "web"),
            pairs(&[("user", "bert"), ("port", "2200"), ("identityfile", "~/two")])
        );
    }

    #[test]
    fn exceptions_wildcards_and_blocks_with_conditions_are_respected() {
        let config = "Host *.lab !x.lab\n User anna\nMatch exec true\n User bert\nMatch all\n Port 1\n";
        let folder = folder(&[("config", config)]);
        assert_eq!(said(&folder, "a.lab"), pairs(&[("user", "anna"), ("port", "1")]));
        assert_eq!(said(&folder, "x.lab"), pairs(&[("port", "1")]));
    }

    #[test]
    fn included_files_say_their_part_within_the_block_that_includes_them() {
        let folder = folder(&[
            ("config", "Include conf.d/*.conf\nHost db1\n Include extra\n"),
            ("conf.d/b.conf", "Host *\n User late\n"),
            ("conf.d/a.conf", "Host db1\n User early\n"),
            ("conf.d/a.txt", "Host db1\n Port 9\n"),
            ("extra", "Port 7\n"),
        ]);
        assert_eq!(said(&folder, "db1"), pairs(&[("user", "early"), ("port", "7")]));
        assert_eq!(said(&folder, "db2"), pairs(&[("user", "late")]));
    }

    #[test]
    fn a_setting_knows_its_line() {
        let folder = folder(&[("config", "\nHost *\n ProxyJump gate\n")]);
        let found = settings(&folder.path().join("config"), "db1");
        assert!(found.first().unwrap().place.ends_with("/config:3"));
    }
}
