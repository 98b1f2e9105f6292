//! Collects hosts and groups from all sources, then checks and completes what came together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use crate::expr::{Dict, Value};
use crate::input::desired::FILE_NAMES;
use crate::input::files::{self, Files};
use crate::input::inventory::{Group, Host, Inventory, VarFiles, ini, ranges, yaml};
use crate::source::{Diagnostic, FileId, Node, Span, suggest};

/// Files that a folder of inventories may hold beside inventories.
const IGNORED_EXTENSIONS: [&str; 13] =
    ["pyc", "pyo", "swp", "bak", "rpm", "md", "txt", "rst", "orig", "cfg", "retry", "pub", "log"];

/// Files that stand beside inventories and are none: the desired state, keys and host keys.
fn is_no_inventory(name: &str) -> bool {
    FILE_NAMES.contains(&name) || name.starts_with("known_hosts") || name.starts_with("id_")
}

/// Reads all sources, in order: files, folders of files, or lists `host1,host2,`.
pub fn load(files: &mut Files, sources: &[PathBuf]) -> Inventory {
    let mut builder = Builder::new(files);
    for source in sources {
        builder.source(source);
    }
    let mut inventory = builder.finish();
    inventory.sources = sources.to_vec();
    let dirs: IndexSet<PathBuf> = sources.iter().filter_map(|s| source_dir(s)).collect();
    inventory.adjacent = dirs.iter().map(|dir| adjacent(files, dir, &inventory)).collect();
    inventory
}

/// Returns the folder beside which variables and `cluster.yml` are looked for; `None` for a list of hosts.
pub fn source_dir(source: &Path) -> Option<PathBuf> {
    if is_list(source) {
        None
    } else if source.is_dir() {
        Some(source.to_path_buf())
    } else {
        Some(source.parent().map(Path::to_path_buf).unwrap_or_default())
    }
}

/// Reads `group_vars/` and `host_vars/` of one folder.
pub fn adjacent(files: &mut Files, dir: &Path, inventory: &Inventory) -> VarFiles {
    let mut found = VarFiles { dir: dir.to_path_buf(), ..VarFiles::default() };
    let group_names = inventory.groups.keys().cloned().collect();
    let host_names = inventory.hosts.keys().cloned().collect();
    found.groups = named_vars(files, &dir.join("group_vars"), &group_names, "group");
    found.hosts = named_vars(files, &dir.join("host_vars"), &host_names, "host");
    found
}

fn named_vars(
    files: &mut Files,
    dir: &Path,
    known: &IndexSet<Arc<str>>,
    what: &str,
) -> IndexMap<Arc<str>, Dict> {
    let mut all: IndexMap<Arc<str>, Dict> = IndexMap::new();
    for path in files::entries(dir) {
        let full = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = files::YAML_EXTENSIONS.iter().find_map(|e| full.strip_suffix(e)?.strip_suffix('.'));
        let name = match (known.contains(full.as_str()), stem) {
            (false, Some(stem)) if path.is_file() => stem,
            _ => full.as_str(),
        };
        let inside = if path.is_dir() { files::below(&path) } else { vec![path.clone()] };
        if !known.contains(name) {
            let near = suggest::did_you_mean(name, known.iter().map(AsRef::as_ref));
            // A host or group may come with another inventory; only what looks like a slip is worth a word.
            if let Some(hint) = near {
                let message = format!("`{}` belongs to no {what} of the inventory", path.display());
                files.out.push(Diagnostic::warning("unknown-group", message).hint(hint));
            }
            continue;
        }
        let vars = all.entry(name.into()).or_default();
        for file in inside {
            vars.extend(files.variables(&file, None));
        }
    }
    all
}

fn is_list(source: &Path) -> bool {
    source.to_string_lossy().contains(',') && !source.exists()
}

/// An inventory in the making.
pub struct Builder<'a> {
    pub files: &'a mut Files,
    hosts: IndexMap<Arc<str>, Host>,
    groups: IndexMap<Arc<str>, Group>,
    /// Groups that were only named as children, and where.
    named: IndexMap<Arc<str>, Span>,
    /// Groups that have a place of their own.
    defined: IndexSet<Arc<str>>,
    /// Where each host was put into each group.
    placed: IndexMap<(Arc<str>, Arc<str>), Span>,
    /// Keys that stand twice in a mapping of the file being read, with the place of the first.
    pub duplicate_keys: BTreeMap<Span, (Span, Diagnostic)>,
}

impl<'a> Builder<'a> {
    fn new(files: &'a mut Files) -> Builder<'a> {
        let mut builder = Builder {
            files,
            hosts: IndexMap::new(),
            groups: IndexMap::new(),
            named: IndexMap::new(),
            defined: IndexSet::new(),
            placed: IndexMap::new(),
            duplicate_keys: BTreeMap::new(),
        };
        for name in ["all", "ungrouped"] {
            builder.entry(name);
            builder.defined.insert(name.into());
        }
        builder
    }

    fn source(&mut self, source: &Path) {
        if is_list(source) {
            let text = source.to_string_lossy().into_owned();
            let file = self.files.sources.add("-i", text.as_str());
            let mut start = 0;
            for name in text.split(',') {
                let trimmed = name.trim();
                if !trimmed.is_empty() {
                    let span = Span::new(file, start, start + name.len());
                    self.hosts(Some("ungrouped"), trimmed, span, source, Vec::new());
                }
                start += name.len() + 1;
            }
        } else if source.is_dir() {
            self.folder(source);
        } else {
            self.file(source);
        }
    }

    fn folder(&mut self, dir: &Path) {
        let mut any = false;
        for path in files::entries(dir) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let extension = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                if name != "group_vars" && name != "host_vars" {
                    self.folder(&path);
                }
            } else if !IGNORED_EXTENSIONS.contains(&extension.as_str()) && !is_no_inventory(&name) {
                any = true;
                self.file(&path);
            }
        }
        if !any {
            let message = format!("the folder `{}` holds no inventory file", dir.display());
            let hint = "put a `hosts.yml` or `hosts` (INI) into it";
            self.files.out.push(Diagnostic::warning("empty-inventory", message).hint(hint));
        }
    }

    fn file(&mut self, path: &Path) {
        let Some((file, text)) = self.files.text(path, None) else { return };
        if text.starts_with("#!") {
            let message =
                format!("`{}` is a program, and inventories that are programs are not run", path.display());
            let hint = "write what it prints into a file: PROGRAM --list > hosts.json";
            let diagnostic =
                Diagnostic::error("inventory-program", message).at(Span::new(file, 0, 2)).hint(hint);
            self.files.out.push(diagnostic);
            return;
        }
        let extension = path.extension().map(|e| e.to_string_lossy().into_owned());
        if extension.is_some_and(|e| files::YAML_EXTENSIONS.contains(&e.as_str())) {
            self.yaml(path, file, &text);
        } else {
            ini::read(self, path, file, &text);
        }
    }

    fn yaml(&mut self, path: &Path, file: FileId, text: &str) {
        let (documents, problems): (Vec<Node>, _) = crate::source::yaml::read(file, text);
        for problem in problems.sorted() {
            // The reader keeps the last of two equal keys; among hosts that would lose a machine.
            match (problem.code, problem.span, problem.labels.first()) {
                ("duplicate-key", Some(span), Some(first)) => {
                    self.duplicate_keys.insert(span, (first.span, problem.clone()));
                }
                _ => self.files.out.push(problem.clone()),
            }
        }
        if let Some(document) = documents.first().filter(|d| !d.is_null()) {
            yaml::read(self, path, document);
        }
        for (_, (_, problem)) in std::mem::take(&mut self.duplicate_keys) {
            self.files.out.push(problem);
        }
    }

    fn entry(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.into()).or_insert_with_key(|name| Group {
            name: Arc::clone(name),
            span: None,
            hosts: IndexSet::new(),
            children: IndexMap::new(),
            vars: Dict::new(),
            depth: 0,
            priority: 1,
        })
    }

    /// Notes a group that stands at `span`.
    pub fn group(&mut self, name: &str, span: Span) {
        let group = self.entry(name);
        group.span = group.span.or(Some(span));
        self.defined.insert(name.into());
    }

    pub fn group_variable(&mut self, group: &str, name: Arc<str>, value: Value) {
        let (name, value) = files::variable(name, value);
        let entry = self.entry(group);
        if name.as_ref() == "ansible_group_priority" {
            let number = value.as_int().or_else(|| value.as_str().and_then(|t| t.parse().ok()));
            entry.priority = number.unwrap_or(1);
            return;
        }
        entry.vars.insert(name, value);
    }

    /// Notes that `child` belongs to `parent`.
    pub fn child(&mut self, parent: &str, child: &str, span: Span) {
        if !self.defined.contains(child) {
            self.named.entry(child.into()).or_insert(span);
        }
        self.entry(child);
        self.entry(parent).children.entry(child.into()).or_insert(span);
    }

    /// Adds the hosts that `pattern` stands for, with variables, to a group.
    pub fn hosts(
        &mut self,
        group: Option<&str>,
        pattern: &str,
        span: Span,
        file: &Path,
        vars: Vec<(Arc<str>, Value)>,
    ) {
        let (range, port) = ranges::split_port(pattern);
        let names = match ranges::expand(range) {
            Ok(names) => names,
            Err(error) => {
                self.files.out.push(Diagnostic::error("host-range", error.to_string()).at(span));
                return;
            }
        };
        for name in names {
            if let Some(bad) = name.chars().find(|c| c.is_whitespace() || "[]{}'\"=,;:".contains(*c)) {
                let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
                if !is_address {
                    let message = format!("`{name}` is no host name: it has `{bad}` in it");
                    self.files.out.push(Diagnostic::error("host-name", message).at(span));
                    return;
                }
            }
            let name: Arc<str> = name.into();
            if let Some(group) = group {
                self.place(group, &name, span);
            }
            let host = self.hosts.entry(name).or_insert_with_key(|name| Host {
                name: Arc::clone(name),
                span: Some(span),
                file: file.to_path_buf(),
                vars: Dict::new(),
            });
            if let Some(port) = port {
                host.vars.insert("ansible_port".into(), Value::from(i64::from(port)).with_origin(span));
            }
            host.vars
                .extend(vars.iter().map(|(name, value)| files::variable(Arc::clone(name), value.clone())));
        }
    }

    /// Puts a host into a group. Twice in one file is an error: one of the two lines would be lost.
    fn place(&mut self, group: &str, name: &Arc<str>, span: Span) {
        self.entry(group).hosts.insert(Arc::clone(name));
        let first = *self.placed.entry((group.into(), Arc::clone(name))).or_insert(span);
        if first != span && first.file == span.file {
            self.twice(group, name, span, first);
        }
    }

    /// Says that a host stands twice in one group of one file.
    pub fn twice(&mut self, group: &str, name: &str, span: Span, first: Span) {
        let message = format!("the host `{name}` stands twice in the group `{group}`");
        let hint = "give one of them another name, or put all its variables in one place";
        let diagnostic =
            Diagnostic::error("duplicate-host", message).at(span).label(first, "first written here");
        self.files.out.push(diagnostic.hint(hint));
    }

    fn finish(mut self) -> Inventory {
        self.undefined_children();
        self.cycles();
        self.names_twice();
        self.families();
        let mut inventory =
            Inventory { hosts: self.hosts, groups: self.groups, sources: Vec::new(), adjacent: Vec::new() };
        depths(&mut inventory.groups);
        inventory
    }

    fn undefined_children(&mut self) {
        for (name, span) in &self.named {
            if self.defined.contains(name) {
                continue;
            }
            let known = self.defined.iter().map(AsRef::as_ref);
            let hint = suggest::did_you_mean(name, known)
                .unwrap_or_else(|| format!("add the group: `[{name}]`, or `{name}:` with `hosts:` below it"));
            let message = format!("the group `{name}` is a child of another one, but nothing defines it");
            self.files.out.push(Diagnostic::error("unknown-group", message).at(*span).hint(hint));
        }
    }

    /// Reports each ring of children once, and cuts it, so that whoever walks the groups comes to an end.
    fn cycles(&mut self) {
        let names: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for start in names {
            while let Some(ring) = self.ring(&start) {
                self.report_ring(&ring);
                if let [.., parent, child] = ring.as_slice()
                    && let Some(group) = self.groups.get_mut(parent)
                {
                    group.children.shift_remove(child);
                }
            }
        }
    }

    /// Finds a way from `start` over children back to it: `a, b, a`.
    fn ring(&self, start: &Arc<str>) -> Option<Vec<Arc<str>>> {
        let mut open: Vec<Vec<Arc<str>>> = vec![vec![Arc::clone(start)]];
        let mut seen: IndexSet<Arc<str>> = IndexSet::new();
        while let Some(way) = open.pop() {
            let Some(group) = way.last().and_then(|name| self.groups.get(name)) else { continue };
            for child in group.children.keys() {
                let mut longer = way.clone();
                longer.push(Arc::clone(child));
                if child == start {
                    return Some(longer);
                }
                if seen.insert(Arc::clone(child)) {
                    open.push(longer);
                }
            }
        }
        None
    }

    fn report_ring(&mut self, ring: &[Arc<str>]) {
        let message = format!("the groups are children of each other in a ring: {}", ring.join(" → "));
        let mut diagnostic = Diagnostic::error("group-cycle", message)
            .hint("take one of these lines out; a group may not be its own ancestor");
        let mut links: Vec<(Span, String)> = Vec::new();
        for pair in ring.windows(2) {
            if let [parent, child] = pair
                && let Some(span) = self.groups.get(parent).and_then(|g| g.children.get(child))
            {
                links.push((*span, format!("`{child}` is a child of `{parent}`")));
            }
        }
        links.reverse();
        for (index, (span, words)) in links.into_iter().enumerate() {
            diagnostic = if index == 0 { diagnostic.at(span) } else { diagnostic.label(span, words) };
        }
        self.files.out.push(diagnostic);
    }

    fn names_twice(&mut self) {
        for (name, host) in &self.hosts {
            if let (Some(group), Some(span)) = (self.groups.get(name), host.span) {
                let message = format!("`{name}` is the name of a host and of a group");
                let diagnostic = Diagnostic::warning("host-and-group", message).at(span);
                self.files.out.push(match group.span {
                    Some(other) => diagnostic.label(other, "the group"),
                    None => diagnostic,
                });
            }
        }
    }

    /// Puts hosts without a group into `ungrouped`, and groups without a parent below `all`.
    fn families(&mut self) {
        let grouped: IndexSet<Arc<str>> = self
            .groups
            .values()
            .filter(|g| g.name.as_ref() != "all" && g.name.as_ref() != "ungrouped")
            .flat_map(|g| g.hosts.iter().cloned())
            .collect();
        let alone: IndexSet<Arc<str>> =
            self.hosts.keys().filter(|h| !grouped.contains(*h)).cloned().collect();
        self.entry("ungrouped").hosts = alone;
        self.entry("all").hosts.clear();
        let children: IndexSet<Arc<str>> = self
            .groups
            .values()
            .filter(|g| g.name.as_ref() != "all")
            .flat_map(|g| g.children.keys().cloned())
            .collect();
        let orphans: Vec<(Arc<str>, Option<Span>)> = self
            .groups
            .values()
            .filter(|g| g.name.as_ref() != "all" && !children.contains(&g.name))
            .map(|g| (Arc::clone(&g.name), g.span))
            .collect();
        let nowhere = Span::new(FileId(u32::MAX), 0, 0);
        for (name, span) in orphans {
            self.entry("all").children.entry(name).or_insert(span.unwrap_or(nowhere));
        }
    }
}

/// Sets each group's longest way from `all`. The rings are cut by then.
fn depths(groups: &mut IndexMap<Arc<str>, Group>) {
    let limit = groups.len();
    for depth in 1..=limit {
        let names: IndexSet<Arc<str>> = groups
            .values()
            .filter(|g| g.depth + 1 == depth && (depth > 1 || g.name.as_ref() == "all"))
            .flat_map(|g| g.children.keys().cloned())
            .collect();
        for name in names {
            if let Some(group) = groups.get_mut(&name) {
                group.depth = depth;
            }
        }
    }
}
