//! Installs, upgrades and removes packages of a Debian family.
//!
//! # What it manages
//! Whether packages are installed, and the lists of what could be installed.
//!
//! # Example
//! ```yaml
//! package:
//!   name: [etcd-server, etcd-client]
//!   install_recommends: false
//! ```
//!
//! # What it observes
//! dpkg's status file, read natively; for `state: latest` what `apt-cache policy` knows.
//!
//! # What it never does
//! It asks no question while installing, and replaces no configuration file that somebody changed.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Risk, Seen, Thing, apt_get, command};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::clock;
use crate::sys::process::Program;

#[derive(Debug)]
pub struct Package;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedState {
    #[default]
    #[serde(alias = "installed")]
    Present,
    #[serde(alias = "removed")]
    Absent,
    Latest,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Upgrade {
    #[default]
    #[serde(alias = "False", alias = "false")]
    No,
    #[serde(alias = "True", alias = "true")]
    Yes,
    Safe,
    Full,
    Dist,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Names, with `=version` (may hold `*`) or `:architecture`.
    #[serde(default, alias = "pkg", alias = "package")]
    name: Vec<String>,
    #[serde(default)]
    state: WantedState,
    /// Read the lists of packages again first.
    #[serde(default, alias = "update-cache")]
    update_cache: bool,
    /// Seconds for which lists count as fresh.
    #[serde(default)]
    cache_valid_time: u64,
    #[serde(alias = "install-recommends")]
    install_recommends: Option<bool>,
    #[serde(default, alias = "allow-downgrade", alias = "allow_downgrades", alias = "allow-downgrades")]
    allow_downgrade: bool,
    #[serde(default)]
    allow_change_held_packages: bool,
    #[serde(default, alias = "allow-unauthenticated")]
    allow_unauthenticated: bool,
    #[serde(default)]
    force: bool,
    /// Remove configuration, too.
    #[serde(default)]
    purge: bool,
    #[serde(default)]
    autoremove: bool,
    #[serde(default)]
    only_upgrade: bool,
    #[serde(default)]
    upgrade: Upgrade,
    #[serde(alias = "default-release")]
    default_release: Option<String>,
    /// A package file on the host, or the address of one.
    deb: Option<String>,
    dpkg_options: Option<String>,
    /// Seconds to wait for another package manager.
    lock_timeout: Option<u32>,
    /// Accepted for Ansible's sake: `apt-get` is what is used.
    #[serde(rename = "force_apt_get")]
    _force_apt_get: Option<bool>,
    #[serde(rename = "use")]
    _use: Option<String>,
    #[serde(rename = "update_cache_retries")]
    _update_cache_retries: Option<u32>,
    #[serde(rename = "update_cache_retry_max_delay")]
    _update_cache_retry_max_delay: Option<u32>,
}

/// A name as written, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// As apt takes it.
    text: String,
    name: String,
    version: Option<String>,
}

impl Wish {
    fn parse(text: &str) -> Wish {
        let (name, version) = match text.split_once('=') {
            Some((name, version)) => (name.trim(), Some(version.trim().to_owned())),
            None => (text.split_once('/').map_or(text, |(name, _release)| name).trim(), None),
        };
        Wish { text: text.trim().to_owned(), name: name.to_owned(), version }
    }
}

#[derive(Debug)]
pub struct State {
    /// For each wish: the installed version, and the one that apt would install where that was asked.
    packages: Vec<(Wish, Option<String>, Option<String>)>,
    is_cache_fresh: bool,
    has_upgraded: bool,
    /// The installed version of the package file, and its own.
    deb: Option<(String, Option<String>, String)>,
    cache_time: i64,
    transcript: String,
    lists: u64,
}

#[derive(Debug)]
pub enum Change {
    UpdateLists,
    Install { name: String, version: Option<String> },
    Upgrade { name: String, from: String, to: String },
    Remove { name: String, version: String },
    UpgradeAll,
    InstallFile(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::UpdateLists => write!(f, "read the lists of packages again"),
            Change::Install { name, version: None } => write!(f, "install {name}"),
            Change::Install { name, version: Some(version) } => write!(f, "install {name} {version}"),
            Change::Upgrade { name, from, to } => write!(f, "{name} {from} → {to}"),
            Change::Remove { name, version } => write!(f, "remove {name} {version}"),
            Change::UpgradeAll => write!(f, "upgrade all packages"),
            Change::InstallFile(path) => write!(f, "install the file {path}"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    cache_updated: bool,
    cache_update_time: i64,
    stdout: String,
    stdout_lines: Vec<String>,
}

impl Params {
    fn wishes(&self) -> Vec<Wish> {
        self.name.iter().filter(|n| !n.trim().is_empty()).map(|n| Wish::parse(n)).collect()
    }

    fn apt_get(&self) -> Program {
        let mut program = apt_get::program(self.lock_limit());
        let options = self.dpkg_options.as_deref().unwrap_or("force-confdef,force-confold");
        for option in options.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            program = program.args(["-o", &format!("Dpkg::Options::=--{option}")]);
        }
        if let Some(release) = &self.default_release {
            program = program.args(["-t", release.as_str()]);
        }
        program
    }

    fn install(&self) -> Program {
        let mut program = self.apt_get();
        for (is_asked, option) in [
            (self.install_recommends == Some(false), "--no-install-recommends"),
            (self.install_recommends == Some(true), "--install-recommends"),
            (self.allow_downgrade || self.force, "--allow-downgrades"),
            (self.allow_change_held_packages || self.force, "--allow-change-held-packages"),
            (self.allow_unauthenticated || self.force, "--allow-unauthenticated"),
            (self.only_upgrade, "--only-upgrade"),
            (self.autoremove, "--auto-remove"),
        ] {
            if is_asked {
                program = program.arg(option);
            }
        }
        program.arg("install")
    }

    fn update_lists(&self, transcript: &mut String, host: &mut HostMut<'_>) -> Result<(), Fault> {
        transcript.push_str(&apt_get::update(self.apt_get(), self.lock_limit(), host)?);
        Ok(())
    }

    /// Seconds for which another package manager is waited for.
    fn lock_limit(&self) -> u32 {
        self.lock_timeout.unwrap_or(apt_get::LOCK_LIMIT_S)
    }

    fn run(&self, program: &Program, tried: &str, host: &mut HostMut<'_>) -> Result<String, Fault> {
        apt_get::run(program, self.lock_limit(), tried, host)
    }
}

impl Module for Package {
    const NAME: &'static str = "package";
    const ALIASES: &'static [&'static str] = &["apt"];
    const KIND: Kind = Kind::Resource;
    const OBSERVES_WITH: &'static [&'static str] = &["apt-cache policy", "dpkg-deb -f"];
    const LASTING: bool = false;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        let asks = !params.name.is_empty()
            || params.update_cache
            || params.deb.is_some()
            || params.upgrade != Upgrade::No;
        if !asks {
            found.push(Diagnostic::error("missing-parameter", "package: `name` is missing: which package?"));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let packages = host.packages()?;
        if !packages.has_dpkg() {
            let what = "this host has no dpkg: only the Debian family is supported by `package`";
            return Err(Fault::new(FaultKind::NotOnThisHost, what));
        }
        let mut all = Vec::new();
        for wish in params.wishes() {
            let installed = packages.installed(&wish.name).map(|p| p.version.clone());
            let provided = packages.provider(&wish.name).and_then(|name| packages.installed(name));
            let found = match params.state {
                // What only stands in for the name is not the package that is to go.
                WantedState::Absent => installed,
                _ => installed.or_else(|| provided.map(|p| p.version.clone())),
            };
            all.push((wish, found, None));
        }
        let is_latest = params.state == WantedState::Latest;
        let lists = apt_get::lists_time(host)?;
        if is_latest && !all.is_empty() && lists.is_some() {
            let names: Vec<String> = all.iter().map(|(wish, ..)| wish.name.clone()).collect();
            let output = host.look(Program::new("apt-cache").arg("policy").args(names))?;
            for (name, candidate) in apt_get::candidates(&output.stdout_text()) {
                for (wish, _, best) in &mut all {
                    if wish.name == name || wish.name.split(':').next() == Some(name.as_str()) {
                        *best = Some(candidate.clone());
                    }
                }
            }
        }
        let mut deb = None;
        if let Some(path) = params.deb.as_ref().filter(|p| !p.contains("://")) {
            if host.stat_followed(path)?.is_none() {
                return Ok(Seen::Blocked(Thing::Path(path.clone())));
            }
            let program = Program::new("dpkg-deb").args(["-f", path.as_str(), "Package", "Version"]);
            let output = host.look(program.clone())?;
            if !output.exit.is_success() {
                return Err(Fault::program(
                    &program,
                    &output,
                    &format!("{path} could not be read as a package"),
                ));
            }
            let text = output.stdout_text();
            let field = |key: &str| {
                text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim().to_owned()
            };
            let (name, version) = (field("Package:"), field("Version:"));
            let installed = packages.installed(&name).map(|p| p.version.clone());
            deb = Some((name, installed, version));
        }
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        let cache_time = lists.unwrap_or(0.0) as i64;
        let now = clock::wall().as_second();
        let age = now.saturating_sub(cache_time);
        let limit = i64::try_from(params.cache_valid_time).unwrap_or(i64::MAX);
        let is_cache_fresh = lists.is_some_and(|time| !apt_get::sources_newer(host, time)) && age <= limit;
        let entries = apt_get::fingerprint(host);
        Ok(Seen::Now(State {
            packages: all,
            is_cache_fresh,
            has_upgraded: false,
            deb,
            cache_time,
            transcript: String::new(),
            lists: entries,
        }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        for (wish, installed, candidate) in &found.packages {
            match (params.state, installed) {
                (WantedState::Absent, Some(version)) => {
                    changes.push(Change::Remove { name: wish.name.clone(), version: version.clone() });
                }
                (WantedState::Absent, None) => {}
                (_, None) if params.only_upgrade => {}
                (_, None) => {
                    let version = wish.version.clone().or_else(|| candidate.clone());
                    changes.push(Change::Install { name: wish.name.clone(), version });
                }
                (_, Some(has)) => {
                    let to = match (&wish.version, candidate) {
                        (Some(asked), _) if !command::matches(asked, has) => Some(asked),
                        (None, Some(best)) if params.state == WantedState::Latest && best != has => {
                            Some(best)
                        }
                        _ => None,
                    };
                    if let Some(to) = to {
                        changes.push(Change::Upgrade {
                            name: wish.name.clone(),
                            from: has.clone(),
                            to: to.clone(),
                        });
                    }
                }
            }
        }
        if let Some((name, installed, version)) = &found.deb
            && installed.as_ref() != Some(version)
        {
            changes.push(Change::InstallFile(format!(
                "{} ({name} {version})",
                params.deb.as_deref().unwrap_or_default()
            )));
        }
        if params.upgrade != Upgrade::No && !found.has_upgraded {
            changes.push(Change::UpgradeAll);
        }
        let installs = changes.iter().any(|c| !matches!(c, Change::Remove { .. }));
        let has_no_lists = found.cache_time == 0 && installs;
        let only_lists = params.name.is_empty() && params.deb.is_none();
        let is_due = params.update_cache && (installs || only_lists || params.cache_valid_time > 0);
        if !found.is_cache_fresh && (is_due || has_no_lists) {
            changes.insert(0, Change::UpdateLists);
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let mut transcript = String::new();
        if params.state == WantedState::Latest && matches!(changes.first(), Some(Change::UpdateLists)) {
            // What is latest is known only once the lists are read.
            params.update_lists(&mut transcript, host)?;
            let Seen::Now(mut again) = Package::observe(params, host)? else {
                return Err(Fault::refused("the packages could not be looked at after the lists were read"));
            };
            again.is_cache_fresh = true;
            let rest = Package::diff(params, &again);
            return Package::apply(params, &again, &rest, host);
        }
        let (mut install, mut remove) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                Change::UpdateLists => params.update_lists(&mut transcript, host)?,
                Change::Install { name, .. } | Change::Upgrade { name, .. } => install.push(name.clone()),
                Change::Remove { name, .. } => remove.push(name.clone()),
                Change::UpgradeAll => {
                    let verb = match params.upgrade {
                        Upgrade::Full | Upgrade::Dist => "dist-upgrade",
                        Upgrade::No | Upgrade::Yes | Upgrade::Safe => "upgrade",
                    };
                    let program = params.apt_get().arg(verb);
                    transcript.push_str(&params.run(&program, "the packages could not be upgraded", host)?);
                }
                Change::InstallFile(_) => {
                    let path = params.deb.clone().unwrap_or_default();
                    transcript.push_str(&params.run(
                        &params.install().args(["--", &path]),
                        "the package file could not be installed",
                        host,
                    )?);
                }
            }
        }
        if !install.is_empty() {
            let texts = found
                .packages
                .iter()
                .filter(|(wish, ..)| install.contains(&wish.name))
                .map(|(wish, ..)| wish.text.clone());
            let program = params.install().arg("--").args(texts);
            let what = format!("{} could not be installed", install.join(", "));
            transcript.push_str(&params.run(&program, &what, host)?);
        }
        if !remove.is_empty() {
            let verb = if params.purge { "purge" } else { "remove" };
            let mut program = params.apt_get();
            if params.autoremove {
                program = program.arg("--auto-remove");
            }
            let what = format!("{} could not be removed", remove.join(", "));
            transcript.push_str(&params.run(&program.arg(verb).arg("--").args(remove), &what, host)?);
        }
        let reached = Package::observe(params, host)?.reached()?;
        Ok(State { is_cache_fresh: true, has_upgraded: true, transcript, ..reached })
    }

    fn output(_params: &Params, before: &State, after: Option<&State>, changes: &[Change]) -> Output {
        let state = after.unwrap_or(before);
        Output {
            cache_updated: after.is_some() && changes.iter().any(|c| matches!(c, Change::UpdateLists)),
            cache_update_time: state.cache_time,
            stdout_lines: state.transcript.lines().map(str::to_owned).collect(),
            stdout: state.transcript.clone(),
        }
    }

    fn risk(change: &Change) -> Risk {
        match change {
            // What a package restarts is its maintainer's choice; a version that changes usually restarts its services.
            Change::Upgrade { .. } | Change::UpgradeAll | Change::Remove { .. } => Risk::Restart,
            Change::UpdateLists | Change::Install { .. } | Change::InstallFile(_) => Risk::None,
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        match params.state {
            WantedState::Absent => Vec::new(),
            _ => params.wishes().into_iter().map(|w| Thing::Package(w.name)).collect(),
        }
    }

    fn changed(params: &Params, before: &State, after: &State) -> bool {
        let only_lists = params.name.is_empty() && params.deb.is_none() && params.upgrade == Upgrade::No;
        !only_lists || before.lists != after.lists
    }
}
