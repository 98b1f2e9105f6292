//! The actions that are part of the language and reach no host, or none in the way modules do: one row each.

use crate::expr::Value;
use crate::input::playbook::args::short_name;
use crate::input::playbook::parse::Catalog;
use crate::source::{Diagnostic, Diagnostics, suggest};

/// An action and its parameters.
#[derive(Debug, Clone, Copy)]
struct Action {
    name: &'static str,
    params: &'static [&'static str],
    required: &'static [&'static str],
    /// Parameters of Ansible that are not carried out, and what to do instead.
    refused: &'static [(&'static str, &'static str)],
    /// Whether the names of parameters are the user's.
    open: bool,
}

const fn row(name: &'static str, params: &'static [&'static str]) -> Action {
    Action { name, params, required: &[], refused: &[], open: false }
}

const ACTIONS: &[Action] = &[
    Action { open: true, ..row("add_host", &[]) },
    Action { required: &["that"], ..row("assert", &["that", "msg", "fail_msg", "success_msg", "quiet"]) },
    row("debug", &["msg", "var", "verbosity"]),
    row("fail", &["msg"]),
    Action {
        required: &["key"],
        refused: &[("parents", "write the groups' parents in the inventory")],
        ..row("group_by", &["key"])
    },
    // Their parameters are read, and judged, with the tree.
    Action { open: true, ..row("import_role", &[]) },
    Action { open: true, ..row("import_tasks", &[]) },
    Action { open: true, ..row("include_role", &[]) },
    Action { open: true, ..row("include_tasks", &[]) },
    Action {
        refused: &[
            ("depth", NAME_FILES),
            ("extensions", NAME_FILES),
            ("files_matching", NAME_FILES),
            ("hash_behaviour", "variables of one name replace each other; merge them with `combine`"),
            ("ignore_files", NAME_FILES),
            ("ignore_unknown_extensions", NAME_FILES),
        ],
        ..row("include_vars", &["file", "dir", "name", "_raw_params"])
    },
    row("meta", &["_raw_params"]),
    Action {
        refused: &[("echo", NO_PROMPT), ("prompt", NO_PROMPT)],
        ..row("pause", &["minutes", "seconds"])
    },
    Action { open: true, ..row("set_fact", &[]) },
];

/// What to do instead of choosing among the files of a folder.
const NAME_FILES: &str =
    "name the files, one `include_vars` each; of a `dir`, all that end with .yml, .yaml and .json are read";

const NO_PROMPT: &str = "nothing is asked for while a run is under way; give `seconds` or `minutes`";

const META_WORDS: [&str; 7] =
    ["flush_handlers", "end_play", "end_host", "end_batch", "clear_facts", "reset_connection", "noop"];

fn find(module: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|a| a.name == short_name(module))
}

/// The language's own actions, before the modules of another catalog.
#[derive(Clone, Copy)]
pub struct WithActions<'a>(pub &'a dyn Catalog);

impl Catalog for WithActions<'_> {
    fn knows(&self, module: &str) -> bool {
        find(module).is_some() || self.0.knows(module)
    }

    fn names(&self) -> Vec<&str> {
        ACTIONS.iter().map(|a| a.name).chain(self.0.names()).collect()
    }

    fn check(&self, module: &str, params: &Value) -> Diagnostics {
        // Modules judge more than names; the table is for what is none.
        match find(module) {
            Some(action) if !self.0.knows(module) => action.check(params),
            _ => self.0.check(module, params),
        }
    }

    fn etcd_faults(&self, version: &str) -> Vec<String> {
        self.0.etcd_faults(version)
    }
}

impl Action {
    fn check(&self, params: &Value) -> Diagnostics {
        let mut out = Diagnostics::default();
        let Some(given) = params.as_dict() else { return out };
        let at = |diagnostic: Diagnostic, value: &Value| match value.marks.origin.or(params.marks.origin) {
            Some(span) => diagnostic.at(span),
            None => diagnostic,
        };
        for (name, value) in given {
            if let Some((_, instead)) = self.refused.iter().find(|(refused, _)| *refused == &**name) {
                let message = format!("`{name}` of `{}` is not carried out by Keddah", self.name);
                out.push(at(Diagnostic::error("refused-parameter", message), value).hint(*instead));
                continue;
            }
            if !self.open && !self.params.contains(&name.as_ref()) {
                let message = format!("`{}` has no parameter `{name}`", self.name);
                let known = self.params.iter().copied().filter(|p| !p.starts_with('_'));
                let hint = suggest::did_you_mean(name, known.clone())
                    .unwrap_or_else(|| format!("it has: {}", known.collect::<Vec<_>>().join(", ")));
                out.push(at(Diagnostic::error("unknown-parameter", message), value).hint(hint));
            }
        }
        for name in self.required {
            if !given.contains_key(*name) {
                let message = format!("`{}` needs the parameter `{name}`", self.name);
                out.push(
                    at(Diagnostic::error("missing-parameter", message), params)
                        .hint(format!("add `{name}:`")),
                );
            }
        }
        if self.name == "pause" && given.is_empty() {
            let message = "`pause` without a time would wait for a key";
            out.push(at(Diagnostic::error("missing-parameter", message), params).hint(NO_PROMPT));
        }
        if self.name == "meta"
            && let Some((word, value)) = given.get("_raw_params").and_then(|v| Some((v.as_str()?, v)))
            && !word.contains("{{")
            && !META_WORDS.contains(&word.trim())
        {
            let hint = suggest::did_you_mean(word.trim(), META_WORDS)
                .unwrap_or_else(|| format!("it may be {}", META_WORDS.join(", ")));
            out.push(at(Diagnostic::error("meta", format!("`meta` knows no `{word}`")), value).hint(hint));
        }
        out
    }
}
