//! Lookups that read the controller: its files and its environment.

use std::path::{Path, PathBuf};

use crate::expr::scope::no_such_lookup;
use crate::expr::{Data, Dict, EvalError, Lookups, Scope, Value, emit};
use crate::input::deployment::FileKind;
use crate::plan::program::Search;
use crate::run::files;
use crate::sys::clock;

/// The lookups of one task.
#[derive(Debug, Clone)]
pub struct OnController {
    pub search: Search,
}

fn flag(options: &Dict, name: &str, otherwise: bool) -> bool {
    options.get(name).map_or(otherwise, |value| match &value.data {
        Data::Bool(yes) => *yes,
        Data::Str(text) => matches!(&**text, "yes" | "true" | "True" | "on" | "1"),
        Data::Int(number) => *number != 0,
        _ => otherwise,
    })
}

impl OnController {
    /// Answers a lookup.
    ///
    /// # Errors
    /// There is no such lookup, or what it reads is not there.
    pub fn answer(&self, name: &str, terms: &[Value], options: &Dict) -> Result<Vec<Value>, EvalError> {
        let texts = || terms.iter().map(emit::to_text);
        match name {
            "env" => Ok(texts()
                .map(|name| match std::env::var(&name) {
                    Ok(value) => Value::str(value),
                    Err(_) => options.get("default").cloned().unwrap_or_else(|| Value::str("")),
                })
                .collect()),
            "file" | "unvault" => texts().map(|name| self.file(&name, options)).collect(),
            "fileglob" => Ok(texts().flat_map(|pattern| self.glob(&pattern)).collect()),
            "first_found" => self.first_found(terms, options),
            "lines" | "pipe" | "url" | "password" | "template" => {
                Err(EvalError::value(format!("the lookup `{name}` is not among those that this version has")))
            }
            other => Err(no_such_lookup(other)),
        }
    }

    fn find(&self, kind: FileKind, name: &str) -> Option<PathBuf> {
        files::candidates(kind, name, &self.search).into_iter().find(|path| path.exists())
    }

    fn file(&self, name: &str, options: &Dict) -> Result<Value, EvalError> {
        let path = self.find(FileKind::File, name);
        let path = path
            .ok_or_else(|| EvalError::value(format!("the file `{name}` was not found on the controller")))?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| EvalError::value(format!("cannot read {}: {error}", path.display())))?;
        let text = if flag(options, "rstrip", true) { text.trim_end() } else { &text };
        let text = if flag(options, "lstrip", false) { text.trim_start() } else { text };
        Ok(Value::str(text))
    }

    fn glob(&self, pattern: &str) -> Vec<Value> {
        let (folder, name) = match pattern.rsplit_once('/') {
            Some((folder, name)) => (format!("{folder}/"), name),
            None => (String::new(), pattern),
        };
        let candidates = files::candidates(FileKind::File, &folder, &self.search);
        let Some(folder) = candidates.into_iter().find(|path| path.is_dir()) else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let matches = |path: &Path| {
            path.is_file()
                && path.file_name().is_some_and(|file| {
                    crate::input::inventory::pattern::glob(name.as_bytes(), file.as_encoded_bytes())
                })
        };
        let mut found: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| matches(path)).collect();
        found.sort();
        found.into_iter().map(|path| Value::str(path.to_string_lossy().into_owned())).collect()
    }

    fn first_found(&self, terms: &[Value], options: &Dict) -> Result<Vec<Value>, EvalError> {
        let mut names: Vec<(Vec<String>, String)> = Vec::new();
        let list = |value: Option<&Value>| -> Vec<String> {
            match value {
                Some(value) => match value.as_list() {
                    Some(list) => list.iter().map(emit::to_text).collect(),
                    None => emit::to_text(value).split(',').map(|word| word.trim().to_owned()).collect(),
                },
                None => Vec::new(),
            }
        };
        let mut skip = flag(options, "skip", false);
        let mut add = |dict: &Dict| {
            let paths = list(dict.get("paths"));
            names.extend(list(dict.get("files")).into_iter().map(|file| (paths.clone(), file)));
        };
        for term in terms {
            match (&term.data, term.as_list()) {
                (Data::Dict(dict), _) => {
                    skip |= flag(dict, "skip", false);
                    add(dict);
                }
                (_, Some(inner)) => inner.iter().for_each(|file| add(&one_file(file))),
                _ => add(&one_file(term)),
            }
        }
        add(options);
        for (paths, file) in &names {
            let places: Vec<String> = if paths.is_empty() {
                vec![file.clone()]
            } else {
                paths.iter().map(|path| format!("{}/{file}", path.trim_end_matches('/'))).collect()
            };
            for place in places {
                for kind in [FileKind::File, FileKind::Template, FileKind::Vars, FileKind::Tasks] {
                    if let Some(path) = self.find(kind, &place) {
                        return Ok(vec![Value::str(path.to_string_lossy().into_owned())]);
                    }
                }
            }
        }
        if skip {
            return Ok(Vec::new());
        }
        let sought: Vec<&str> = names.iter().map(|(_, file)| file.as_str()).collect();
        Err(EvalError::value(format!("none of these files was found: {}", sought.join(", "))))
    }
}

fn one_file(term: &Value) -> Dict {
    let mut dict = Dict::new();
    dict.insert("files".into(), Value::from(vec![term.clone()]));
    dict
}

impl Lookups for OnController {
    fn lookup(
        &self,
        name: &str,
        args: &[Value],
        kwargs: &Dict,
        _: &dyn Scope,
    ) -> Result<Vec<Value>, EvalError> {
        self.answer(name, args, kwargs)
    }

    fn unix_time(&self) -> Option<f64> {
        let wall = clock::wall();
        Some(wall.as_second() as f64 + f64::from(wall.subsec_nanosecond()) / 1e9)
    }
}
