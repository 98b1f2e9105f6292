//! Keeps users.
//!
//! # What it manages
//! Whether a user is there; number, groups, home, shell, comment, password hash; a key pair for SSH.
//!
//! # Example
//! ```yaml
//! user:
//!   name: backup
//!   system: true
//!   groups: [ssl-cert]
//!   append: true
//!   shell: /bin/bash
//! ```
//!
//! # What it observes
//! The user and group databases (files, then `getent`), the shadow file where a password is asked for, the key file.
//!
//! # What it never does
//! It shows no password hash, not even on a command line, and replaces no key that is there.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::lineinfile::Presence;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::sys::process::Program;
use crate::sys::secret::Secret;
use crate::sys::users;

#[derive(Debug)]
pub struct User;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdatePassword {
    #[default]
    Always,
    OnCreate,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "user")]
    name: String,
    #[serde(default)]
    state: Presence,
    uid: Option<u32>,
    /// The primary group.
    group: Option<String>,
    /// Other groups.
    groups: Option<Vec<String>>,
    /// Keep the groups that are not named.
    #[serde(default)]
    append: bool,
    comment: Option<String>,
    home: Option<String>,
    #[serde(default = "yes", alias = "createhome")]
    create_home: bool,
    #[serde(default)]
    move_home: bool,
    shell: Option<String>,
    #[serde(default)]
    system: bool,
    /// A hash as in the shadow file, or `!` or `*`.
    #[schemars(with = "Option<String>")]
    password: Option<Secret>,
    #[serde(default)]
    update_password: UpdatePassword,
    /// Remove the home folder, too.
    #[serde(default)]
    remove: bool,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    non_unique: bool,
    #[serde(default)]
    generate_ssh_key: bool,
    #[serde(default = "key_type")]
    ssh_key_type: String,
    ssh_key_bits: Option<u32>,
    /// Relative to the home folder.
    ssh_key_file: Option<String>,
    ssh_key_comment: Option<String>,
}

fn yes() -> bool {
    true
}

fn key_type() -> String {
    "rsa".to_owned()
}

#[derive(Debug)]
pub struct State {
    user: Option<users::User>,
    /// The names of its other groups.
    groups: BTreeSet<String>,
    primary: Option<String>,
    /// The number of the primary group that is asked for.
    wanted_gid: Option<u32>,
    /// Whether the hash is the one that is asked for; `None` where none is asked for.
    has_password: Option<bool>,
    has_key: Option<bool>,
    public_key: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
    Number { from: u32, to: u32 },
    PrimaryGroup { from: String, to: String },
    Groups { add: Vec<String>, remove: Vec<String> },
    Comment { from: String, to: String },
    Home { from: String, to: String },
    Shell { from: String, to: String },
    Password,
    Key,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add => write!(f, "add the user"),
            Change::Remove => write!(f, "remove the user"),
            Change::Number { from, to } => write!(f, "number {from} → {to}"),
            Change::PrimaryGroup { from, to } => write!(f, "group {from} → {to}"),
            Change::Groups { add, remove } => {
                let signed =
                    add.iter().map(|g| format!("+{g}")).chain(remove.iter().map(|g| format!("-{g}")));
                write!(f, "groups {}", signed.collect::<Vec<_>>().join(" "))
            }
            Change::Comment { from, to } => write!(f, "comment `{from}` → `{to}`"),
            Change::Home { from, to } => write!(f, "home {from} → {to}"),
            Change::Shell { from, to } => write!(f, "shell {from} → {to}"),
            Change::Password => write!(f, "password"),
            Change::Key => write!(f, "make a key pair for SSH"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    name: String,
    state: &'static str,
    append: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    home: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_key_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_public_key: Option<String>,
}

impl Params {
    fn key_file(&self, home: &str) -> String {
        let default = format!(".ssh/id_{}", self.ssh_key_type);
        let file = self.ssh_key_file.as_deref().unwrap_or(&default);
        if file.starts_with('/') { file.to_owned() } else { format!("{}/{file}", home.trim_end_matches('/')) }
    }

    fn change(&self, change: &Change, found: &State, host: &mut HostMut<'_>) -> Result<(), Fault> {
        let name = self.name.as_str();
        let tried = format!("the user `{name}` could not be changed");
        let program = match change {
            Change::Add => return self.add(host),
            Change::Remove => {
                let mut program = Program::new("userdel");
                for (is_asked, option) in [(self.remove, "-r"), (self.force, "-f")] {
                    if is_asked {
                        program = program.arg(option);
                    }
                }
                program
            }
            Change::Number { to, .. } => {
                let program = Program::new("usermod").args(["-u", &to.to_string()]);
                if self.non_unique { program.arg("-o") } else { program }
            }
            Change::PrimaryGroup { to, .. } => Program::new("usermod").args(["-g", to.as_str()]),
            Change::Groups { add, .. } if self.append => {
                Program::new("usermod").args(["-a", "-G", &add.join(",")])
            }
            Change::Groups { .. } => {
                let all = self.groups.clone().unwrap_or_default();
                Program::new("usermod").args(["-G", &all.join(",")])
            }
            Change::Comment { to, .. } => Program::new("usermod").args(["-c", to.as_str()]),
            Change::Home { to, .. } => {
                let program = Program::new("usermod").args(["-d", to.as_str()]);
                if self.move_home { program.arg("-m") } else { program }
            }
            Change::Shell { to, .. } => Program::new("usermod").args(["-s", to.as_str()]),
            Change::Password => return self.set_password(host),
            Change::Key => return self.make_key(found, host),
        };
        host.must(program.arg(name), &tried)?;
        Ok(())
    }

    fn add(&self, host: &mut HostMut<'_>) -> Result<(), Fault> {
        let mut program = Program::new("useradd");
        let uid = self.uid.map(|u| u.to_string());
        let groups = self.groups.as_ref().filter(|g| !g.is_empty()).map(|g| g.join(","));
        let own_group =
            (self.group.is_none() && host.group(&self.name)?.is_some()).then(|| self.name.clone());
        for (option, value) in [
            ("-u", &uid),
            ("-g", if self.group.is_some() { &self.group } else { &own_group }),
            ("-G", &groups),
            ("-c", &self.comment),
            ("-d", &self.home),
            ("-s", &self.shell),
        ] {
            if let Some(value) = value {
                program = program.args([option, value.as_str()]);
            }
        }
        if self.non_unique && self.uid.is_some() {
            program = program.arg("-o");
        }
        if self.system {
            program = program.arg("-r");
        }
        program = program.arg(if self.create_home { "-m" } else { "-M" }).arg(self.name.as_str());
        host.must(program, &format!("the user `{}` could not be added", self.name))?;
        if self.password.is_some() {
            self.set_password(host)?;
        }
        Ok(())
    }

    /// Sets the hash through standard input: a command line can be read by everybody.
    fn set_password(&self, host: &mut HostMut<'_>) -> Result<(), Fault> {
        let Some(password) = &self.password else { return Ok(()) };
        let line = format!("{}:{}\n", self.name, password.reveal());
        host.must(
            Program::new("chpasswd").arg("-e").stdin(line),
            &format!("the password of `{}` could not be set", self.name),
        )?;
        Ok(())
    }

    fn make_key(&self, found: &State, host: &mut HostMut<'_>) -> Result<(), Fault> {
        let user = match &found.user {
            Some(user) => user.clone(),
            None => host.user(&self.name)?.ok_or_else(|| Fault::missing(Thing::User(self.name.clone())))?,
        };
        let file = self.key_file(&user.home);
        if let Some(folder) = std::path::Path::new(&file).parent() {
            for made in host.make_folders(folder)? {
                let made = host.outside(&made);
                host.set_owner(&made, Some(user.uid), Some(user.gid))?;
                host.set_mode(&made, 0o700)?;
            }
        }
        let comment = self.ssh_key_comment.clone().unwrap_or_else(|| "ansible-generated".to_owned());
        let mut program = Program::new("ssh-keygen").args([
            "-q",
            "-t",
            &self.ssh_key_type,
            "-N",
            "",
            "-C",
            &comment,
            "-f",
            &file,
        ]);
        if let Some(bits) = self.ssh_key_bits {
            program = program.args(["-b", &bits.to_string()]);
        }
        host.must(program, "the key pair could not be made")?;
        for file in [file.clone(), format!("{file}.pub")] {
            host.set_owner(&file, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }
}

impl Module for User {
    const NAME: &'static str = "user";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let user = host.user(&params.name)?.filter(|u| u.name == params.name);
        let mut wanted_gid = None;
        if params.state == Presence::Present {
            for name in params.group.iter().chain(params.groups.iter().flatten()) {
                let Some(group) = host.group(name)? else {
                    return Ok(Seen::Blocked(Thing::Group(name.clone())));
                };
                if Some(name) == params.group.as_ref() {
                    wanted_gid = Some(group.gid);
                }
            }
        }
        let all = host.groups()?;
        let primary_gid = user.as_ref().map(|u| u.gid);
        let groups = all.iter().filter(|g| g.members.contains(&params.name) && Some(g.gid) != primary_gid);
        let groups = groups.map(|g| g.name.clone()).collect();
        let primary = all.iter().find(|g| Some(g.gid) == primary_gid).map(|g| g.name.clone());
        let has_password = match (&params.password, &user) {
            (Some(password), Some(_)) => Some(has_password(host, &params.name, password)?),
            _ => None,
        };
        let (mut has_key, mut public_key) = (None, None);
        if params.generate_ssh_key {
            let home =
                user.as_ref().map(|u| u.home.clone()).or_else(|| params.home.clone()).unwrap_or_default();
            let file = params.key_file(&home);
            has_key = Some(host.stat(&file)?.is_some());
            public_key = host
                .read_if_there(format!("{file}.pub"))?
                .map(|b| String::from_utf8_lossy(&b).trim().to_owned());
        }
        Ok(Seen::Now(State { user, groups, primary, wanted_gid, has_password, has_key, public_key }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let Some(user) = &found.user else {
            if params.state == Presence::Absent {
                return Vec::new();
            }
            let key = params.generate_ssh_key.then_some(Change::Key);
            return std::iter::once(Change::Add).chain(key).collect();
        };
        if params.state == Presence::Absent {
            return vec![Change::Remove];
        }
        let mut changes = Vec::new();
        if let Some(uid) = params.uid.filter(|u| *u != user.uid) {
            changes.push(Change::Number { from: user.uid, to: uid });
        }
        if let (Some(gid), Some(group)) = (found.wanted_gid, &params.group)
            && gid != user.gid
        {
            let from = found.primary.clone().unwrap_or_else(|| user.gid.to_string());
            changes.push(Change::PrimaryGroup { from, to: group.clone() });
        }
        if let Some(groups) = &params.groups {
            let is_primary = |name: &String| found.primary.as_ref() == Some(name) && params.group.is_none();
            let add: Vec<String> =
                groups.iter().filter(|g| !found.groups.contains(*g) && !is_primary(g)).cloned().collect();
            let remove: Vec<String> =
                found.groups.iter().filter(|g| !params.append && !groups.contains(*g)).cloned().collect();
            if !add.is_empty() || !remove.is_empty() {
                changes.push(Change::Groups { add, remove });
            }
        }
        let differs = |wanted: &Option<String>, found: &str| wanted.clone().filter(|w| w != found);
        if let Some(to) = differs(&params.comment, &user.comment) {
            changes.push(Change::Comment { from: user.comment.clone(), to });
        }
        if let Some(to) = differs(&params.home, &user.home) {
            changes.push(Change::Home { from: user.home.clone(), to });
        }
        if let Some(to) = differs(&params.shell, &user.shell) {
            changes.push(Change::Shell { from: user.shell.clone(), to });
        }
        if found.has_password == Some(false) && params.update_password == UpdatePassword::Always {
            changes.push(Change::Password);
        }
        if found.has_key == Some(false) {
            changes.push(Change::Key);
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        for change in changes {
            params.change(change, found, host)?;
        }
        User::observe(params, host)?.reached()
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let state = after.unwrap_or(before);
        let user = state.user.as_ref();
        Output {
            name: params.name.clone(),
            state: if params.state == Presence::Absent { "absent" } else { "present" },
            append: params.append,
            uid: user.map(|u| u.uid),
            group: user.map(|u| u.gid),
            groups: params.groups.as_ref().map(|g| g.join(",")),
            comment: user.map(|u| u.comment.clone()),
            home: user.map(|u| u.home.clone()),
            shell: user.map(|u| u.shell.clone()),
            ssh_key_file: user.filter(|_| params.generate_ssh_key).map(|u| params.key_file(&u.home)),
            ssh_public_key: state.public_key.clone(),
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        match params.state {
            Presence::Present => vec![Thing::User(params.name.clone())],
            Presence::Absent => Vec::new(),
        }
    }
}

/// Whether the shadow file has this very hash for the user.
fn has_password(host: &Host, name: &str, password: &Secret) -> Result<bool, Fault> {
    let shadow = host.read_if_there("/etc/shadow")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&shadow);
    let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')));
    Ok(line.is_some_and(|rest| rest.split(':').next() == Some(password.reveal())))
}
