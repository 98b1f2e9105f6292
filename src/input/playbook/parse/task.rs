//! A task: its module with the parameters, what it imports or includes, and its loop.

use std::sync::Arc;

use crate::expr::{Data, Dict, Value};
use crate::input::playbook::args::{self, short_name};
use crate::input::playbook::keywords::{self, Keyword, Level, Standing};
use crate::input::playbook::tree::{
    Common, Import, ImportKind, ImportRole, ImportTasks, Include, IncludeRole, IncludeTasks, LoopControl,
    LoopKind, LoopOver, Statement, Task,
};
use crate::source::{Diagnostic, Node, NodeValue, Spanned, suggest};

use super::{Fields, Parser, stem};

const ROLE_PARAMS: [&str; 10] = [
    "name",
    "role",
    "tasks_from",
    "vars_from",
    "defaults_from",
    "handlers_from",
    "public",
    "apply",
    "allow_duplicates",
    "rolespec_validate",
];

impl Parser<'_> {
    pub(super) fn task(&mut self, mut fields: Fields<'_>, common: Common, level: Level) -> Option<Statement> {
        let looping = self.loop_over(&mut fields);
        let loop_control = fields.take("loop_control").map(|n| self.loop_control(n)).unwrap_or_default();
        let register = self.word(fields.take("register"), "registered result");
        fields.take("listen");
        let mut conditions =
            |parser: &mut Self, name: &str| fields.take(name).map(|node| parser.conditions(node, name));
        let changed_when = conditions(self, "changed_when");
        let failed_when = conditions(self, "failed_when");
        let until = conditions(self, "until");
        self.job(&fields);
        let mut value = |name: &str| fields.take(name).filter(|n| !n.is_null()).map(Value::from_node);
        let (retries, delay, async_, poll) =
            (value("retries"), value("delay"), value("async"), value("poll"));
        let more_args = fields.take("args");
        let mut common = common;
        let (module, mut written) = self.module(&mut fields, &mut common, level)?;
        if let Some(node) = more_args {
            args::merge(&mut written, node, self.out);
        }
        let span = common.name.as_ref().and_then(|n| n.marks.origin).unwrap_or(module.span);
        match short_name(&module.value) {
            "import_tasks" | "import_role" => {
                if let Some(looping) = &looping {
                    let hint =
                        "use `include_tasks` or `include_role`, which are decided when they are reached";
                    self.error(
                        "import-loop",
                        looping.span,
                        format!("`{}` cannot be looped", module.value),
                        hint,
                    );
                }
                let what = self.import(&module, &written)?;
                return Some(Statement::Import(Box::new(Import { span, common, what })));
            }
            "import_playbook" => {
                let hint = "move it out of the play, to the left margin of the playbook";
                self.error(
                    "import-playbook",
                    module.span,
                    "`import_playbook` stands beside plays, not inside one",
                    hint,
                );
                return None;
            }
            _ => {}
        }
        let include = self.include(&module, &written);
        Some(Statement::Task(Box::new(Task {
            span,
            common,
            args: written.args,
            free_form: written.free_form,
            module,
            include,
            loop_: looping,
            loop_control,
            register,
            changed_when,
            failed_when,
            until,
            retries,
            delay,
            async_,
            poll,
        })))
    }

    fn loop_over(&mut self, fields: &mut Fields<'_>) -> Option<LoopOver> {
        let mut found: Option<LoopOver> = None;
        let keys: Vec<&(Node, Node)> = fields.left.clone();
        for (key, node) in keys {
            let Some(name) = key.as_str() else { continue };
            let kind = match name.strip_prefix("with_") {
                Some(lookup) => LoopKind::With(lookup.into()),
                None if name == "loop" => LoopKind::Loop,
                None => continue,
            };
            fields.take(name);
            if let Some(first) = &found {
                let message = "a task has one loop, and this is the second";
                self.out.push(
                    Diagnostic::error("two-loops", message).at(key.span).label(first.span, "the first"),
                );
                continue;
            }
            if kind == LoopKind::Loop
                && !node.as_str().is_some_and(|t| t.contains("{{"))
                && node.as_list().is_none()
            {
                let message = format!("`loop` must be a list, and this is {}", node.kind());
                let hint = "write a list, or a template that gives one: `loop: \"{{ items }}\"`";
                self.error("loop", node.span, message, hint);
            }
            found = Some(LoopOver { span: key.span, kind, over: Value::from_node(node) });
        }
        found
    }

    fn loop_control(&mut self, node: &Node) -> LoopControl {
        let known =
            ["loop_var", "index_var", "label", "pause", "extended", "extended_allitems", "break_when"];
        for (key, _) in node.as_map().unwrap_or_default() {
            let name = key.key_text().unwrap_or_default();
            if !known.contains(&name.as_ref()) {
                let hint = suggest::did_you_mean(&name, known)
                    .unwrap_or_else(|| format!("known: {}", known.join(", ")));
                self.error(
                    "unknown-keyword",
                    key.span,
                    format!("`{name}` is no key of `loop_control`"),
                    hint,
                );
            }
        }
        let value = |name: &str| node.get(name).filter(|n| !n.is_null()).map(Value::from_node);
        LoopControl {
            loop_var: self.word(node.get("loop_var"), "loop variable"),
            index_var: self.word(node.get("index_var"), "loop's index"),
            label: value("label"),
            pause: value("pause"),
            extended: value("extended"),
            break_when: node.get("break_when").map(|n| self.conditions(n, "break_when")).unwrap_or_default(),
        }
    }

    /// Finds the module among the keys that are no keywords.
    fn module(
        &mut self,
        fields: &mut Fields<'_>,
        common: &mut Common,
        level: Level,
    ) -> Option<(Spanned<Arc<str>>, args::Written)> {
        for name in ["action", "local_action"] {
            if let Some(node) = fields.take(name) {
                if name == "local_action" {
                    common.delegate_to = Some(Value::from("localhost").with_origin(node.span));
                }
                self.leftovers(fields, level);
                return self.action(node);
            }
        }
        let known: Vec<usize> = (0..fields.left.len())
            .filter(|i| {
                fields
                    .left
                    .get(*i)
                    .is_some_and(|(key, _)| key.as_str().is_some_and(|n| self.catalog.knows(n)))
            })
            .collect();
        let chosen = match known.as_slice() {
            [] => self.unknown_module(fields, level)?,
            [one] => *one,
            [first, second, ..] => {
                if let (Some((first, _)), Some((second, _))) =
                    (fields.left.get(*first), fields.left.get(*second))
                {
                    let name = |n: &Node| n.key_text().unwrap_or_default();
                    let message = format!("a task calls one module, and `{}` is the second", name(second));
                    let diagnostic = Diagnostic::error("two-modules", message).at(second.span);
                    let first_words = format!("`{}` is the first", name(first));
                    self.out.push(
                        diagnostic.label(first.span, first_words).hint("begin a task of its own with `- `"),
                    );
                }
                return None;
            }
        };
        let (key, node) = fields.left.remove(chosen);
        self.leftovers(fields, level);
        let name: Arc<str> = key.key_text()?;
        let written = args::written(&name, self.catalog.knows(&name), node, self.out);
        Some((Spanned::new(name, key.span), written))
    }

    /// Chooses the key that is meant as a module though none of that name exists; the others are misspelled keywords.
    fn unknown_module(&mut self, fields: &Fields<'_>, level: Level) -> Option<usize> {
        let keyword_like = |key: &Node| {
            key.as_str().is_none_or(|n| {
                let near_keyword =
                    keywords::nearest(n, level).is_some() || !keywords::levels_of(n).is_empty();
                let near_module = suggest::nearest(short_name(n), self.catalog.names()).is_some();
                near_keyword && !near_module
            })
        };
        let candidates: Vec<usize> = (0..fields.left.len())
            .filter(|i| fields.left.get(*i).is_some_and(|(key, _)| !keyword_like(key)))
            .collect();
        if let [one] = candidates.as_slice() {
            return Some(*one);
        }
        if fields.left.is_empty() {
            let hint = "add the module's name as a key, its parameters below it";
            self.error("no-module", fields.span, "this task calls no module", hint);
        }
        self.leftovers(fields, level);
        None
    }

    /// Reads `action: module k=v` or `action: {module: …, k: v}`.
    fn action(&mut self, node: &Node) -> Option<(Spanned<Arc<str>>, args::Written)> {
        let span = node.span;
        if let Some(text) = node.as_str() {
            let (name, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
            let rest = Node { span, value: NodeValue::String(rest.trim().into()), tag: None };
            let written = args::written(name, self.catalog.knows(name), &rest, self.out);
            return Some((Spanned::new(name.into(), span), written));
        }
        let (Some(entries), Some(module)) = (node.as_map(), node.get("module").and_then(Node::as_str)) else {
            let hint = "write `action: module k=v`, or a mapping with the key `module`";
            self.error("no-module", span, "`action` names no module", hint);
            return None;
        };
        let rest = entries.iter().filter(|(key, _)| key.as_str() != Some("module")).cloned().collect();
        let written = args::written(
            module,
            self.catalog.knows(module),
            &Node { span, value: NodeValue::Map(rest), tag: None },
            self.out,
        );
        Some((Spanned::new(module.into(), span), written))
    }

    fn import(&mut self, module: &Spanned<Arc<str>>, written: &args::Written) -> Option<ImportKind> {
        let params = self.plain_params(module, written);
        if short_name(&module.value) == "import_tasks" {
            self.known_params(module, &params, &["file"]);
            let file = written.free_form.as_ref().or_else(|| params.get("file"));
            let file = self.plain_text(file, module, "file")?;
            return Some(ImportKind::Tasks(ImportTasks { file, path: None }));
        }
        self.known_params(module, &params, &ROLE_PARAMS);
        let name = self.plain_text(params.get("name").or_else(|| params.get("role")), module, "name")?;
        let mut from = |key: &str| match params.get(key) {
            None => Arc::from("main"),
            Some(value) => {
                self.plain_text(Some(value), module, key).map_or_else(|| "main".into(), |t| stem(&t.value))
            }
        };
        let (tasks_from, vars_from) = (from("tasks_from"), from("vars_from"));
        let (defaults_from, handlers_from) = (from("defaults_from"), from("handlers_from"));
        let role = ImportRole { name, path: None, tasks_from, vars_from, defaults_from, handlers_from };
        Some(ImportKind::Role(role))
    }

    fn include(&mut self, module: &Spanned<Arc<str>>, written: &args::Written) -> Option<Include> {
        let short = short_name(&module.value);
        let params = match short {
            "include_tasks" | "include_role" => self.plain_params(module, written),
            _ => return None,
        };
        let apply = self.apply(params.get("apply"));
        if short == "include_tasks" {
            self.known_params(module, &params, &["file", "apply"]);
            let Some(file) = written.free_form.as_ref().or_else(|| params.get("file")) else {
                self.error(
                    "parameters",
                    module.span,
                    "`include_tasks` names no file",
                    "add `file: NAME.yml`",
                );
                return None;
            };
            return Some(Include::Tasks(Box::new(IncludeTasks { file: file.clone(), path: None, apply })));
        }
        self.known_params(module, &params, &ROLE_PARAMS);
        let Some(name) = params.get("name").or_else(|| params.get("role")) else {
            self.error("parameters", module.span, "`include_role` names no role", "add `name: ROLE`");
            return None;
        };
        let value = |key: &str| params.get(key).cloned();
        Some(Include::Role(Box::new(IncludeRole {
            name: name.clone(),
            path: None,
            tasks_from: value("tasks_from"),
            vars_from: value("vars_from"),
            defaults_from: value("defaults_from"),
            handlers_from: value("handlers_from"),
            public: value("public"),
            apply,
        })))
    }

    /// Reads `apply:`, whose keys are those of a block.
    fn apply(&mut self, value: Option<&Value>) -> Common {
        let Some(entries) = value.and_then(Value::as_dict) else { return Common::default() };
        let here = value.and_then(|v| v.marks.origin);
        for (name, value) in entries {
            if let Some(Keyword { standing: Standing::Refused(instead), .. }) =
                keywords::find(name, Level::Block)
            {
                let message = format!("`{name}` is a keyword of Ansible that Keddah does not carry out");
                let diagnostic = Diagnostic::error("refused-keyword", message).hint(*instead);
                self.out.push(match value.marks.origin.or(here) {
                    Some(span) => diagnostic.at(span),
                    None => diagnostic,
                });
            }
            if keywords::find(name, Level::Block).is_none() {
                let diagnostic = Diagnostic::error(
                    "unknown-keyword",
                    format!("`{name}` is no keyword that `apply` may set"),
                );
                let diagnostic = match here.or_else(|| entries.get(name).and_then(|v| v.marks.origin)) {
                    Some(span) => diagnostic.at(span),
                    None => diagnostic,
                };
                self.out.push(match keywords::nearest(name, Level::Block) {
                    Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
                    None => diagnostic,
                });
            }
        }
        let value = |name: &str| entries.get(name).cloned();
        let many = |name: &str| match entries.get(name) {
            Some(Value { data: Data::List(items), .. }) => items.to_vec(),
            Some(one) => vec![one.clone()],
            None => Vec::new(),
        };
        let when = many("when").into_iter().filter_map(|v| {
            let text: Arc<str> = match &v.data {
                Data::Bool(flag) => if *flag { "true" } else { "false" }.into(),
                _ => v.as_str()?.into(),
            };
            Some(Spanned::new(text, v.marks.origin?))
        });
        Common {
            vars: entries.get("vars").and_then(Value::as_dict).cloned().unwrap_or_default(),
            environment: many("environment"),
            tags: many("tags"),
            when: when.collect(),
            notify: many("notify"),
            become_: value("become"),
            become_user: value("become_user"),
            become_method: value("become_method"),
            become_flags: value("become_flags"),
            check_mode: value("check_mode"),
            diff: value("diff"),
            no_log: value("no_log"),
            run_once: value("run_once"),
            ignore_errors: value("ignore_errors"),
            any_errors_fatal: value("any_errors_fatal"),
            delegate_to: value("delegate_to"),
            delegate_facts: value("delegate_facts"),
            ..Common::default()
        }
    }

    fn plain_params(&mut self, module: &Spanned<Arc<str>>, written: &args::Written) -> Dict {
        match &written.args.value.data {
            Data::Dict(params) => params.as_ref().clone(),
            _ => {
                let message = format!("the parameters of `{}` must be written out", module.value);
                self.error(
                    "parameters",
                    written.args.span,
                    message,
                    "a template cannot stand for all of them",
                );
                Dict::new()
            }
        }
    }

    fn known_params(&mut self, module: &Spanned<Arc<str>>, params: &Dict, known: &[&str]) {
        for (name, value) in params {
            if !known.contains(&name.as_ref()) {
                let hint = suggest::did_you_mean(name, known.iter().copied())
                    .unwrap_or_else(|| format!("it has: {}", known.join(", ")));
                let message = format!("`{}` has no parameter `{name}`", module.value);
                self.error("unknown-parameter", value.marks.origin.unwrap_or(module.span), message, hint);
            }
        }
    }

    fn plain_text(
        &mut self,
        value: Option<&Value>,
        module: &Spanned<Arc<str>>,
        parameter: &str,
    ) -> Option<Spanned<Arc<str>>> {
        let Some(value) = value else {
            let message = format!("`{}` needs the parameter `{parameter}`", module.value);
            self.error("parameters", module.span, message, format!("add `{parameter}:`"));
            return None;
        };
        let span = value.marks.origin.unwrap_or(module.span);
        match value.as_str() {
            Some(text) if !text.contains("{{") => Some(Spanned::new(text.into(), span)),
            _ => {
                let message = format!(
                    "`{parameter}` of `{}` must be plain text: imports happen before any variable is known",
                    module.value
                );
                let hint = "use `include_tasks` or `include_role`, which are decided when they are reached";
                self.error("import-template", span, message, hint);
                None
            }
        }
    }
}
