//! Who does the work on a host: the login user in this process, and one child process for each other identity.
//!
//! Start at [`Identities::call`]. A child is made when it is first needed and lives as long as the session: through
//! `sudo` or `doas` from a plain user, by changing the user directly from root. A child that is root keeps children of
//! its own, so one `sudo` per session is enough for root and postgres together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::getuid;
use serde::{Deserialize, Serialize};

use crate::executor::frame::{self, Down};
use crate::executor::upload::Marker;
use crate::executor::wire::Identity;
use crate::expr::{Dict, Value};
use crate::modules::{Fault, FaultKind, ModuleCall, ModuleReply, Thing};
use crate::sys::secret::Secret;
use crate::sys::users;

mod child;
mod credentials;

use child::{Ask, Running, command, start};
pub use credentials::{Numbers, become_numbers};

/// Work for a process of some identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Who does it; none is the process that the order is for.
    pub identity: Identity,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    Module(Box<ModuleCall>),
    /// Facts, with the arguments of `setup`.
    Facts(Value),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Module(Box<ModuleReply>),
    Facts(Result<Dict, Fault>),
    /// The identity cannot be taken.
    Identity(IdentityError),
}

/// Why work cannot be done as somebody else.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("the password for {program} is wrong, or {login} may not become {user}; {program} said: {said}")]
    WrongPassword { program: String, login: String, user: String, said: String },
    #[error("{program} wants a password to let {login} become {user}, and none was given; it said: {said}")]
    PasswordWanted { program: String, login: String, user: String, said: String },
    #[error("{program} does not let {login} become {user}: {said}")]
    Refused { program: String, login: String, user: String, said: String },
    #[error("{program} neither asked nor started anything within {seconds} s; it said: {said}")]
    Silent { program: String, seconds: u64, said: String },
    #[error("there is no user `{0}` on this host")]
    NoSuchUser(String),
    #[error("`{method}` cannot be used to become {user} here; use `become_method: sudo`, or log in as root")]
    Method { method: String, user: String },
    #[error("cannot start {program}: {why}")]
    Start { program: String, why: String },
    #[error("the process that works as {user} has ended: {how}")]
    Ended { user: String, how: String },
}

impl IdentityError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            IdentityError::WrongPassword { .. } | IdentityError::PasswordWanted { .. } => Some(
                "give the login user's password with ansible_become_password or --become-password-file, or allow \
                 NOPASSWD in sudoers",
            ),
            IdentityError::Refused { said, .. } if said.contains("tty") => {
                Some("take `requiretty` out of sudoers for this user")
            }
            IdentityError::Refused { .. } => Some("allow it in sudoers, or log in as a user who may"),
            IdentityError::NoSuchUser(_) => Some("an earlier step may have to make the user"),
            IdentityError::Silent { .. }
            | IdentityError::Method { .. }
            | IdentityError::Start { .. }
            | IdentityError::Ended { .. } => None,
        }
    }
}

impl From<IdentityError> for Fault {
    fn from(error: IdentityError) -> Fault {
        let kind = match &error {
            IdentityError::NoSuchUser(user) => FaultKind::Missing(Thing::User(user.clone())),
            _ => FaultKind::Refused,
        };
        let fault = Fault::new(kind, error.to_string());
        match error.hint() {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// The children's inputs, for what must reach them while they work.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Mutex<Vec<Link>>>);

#[derive(Debug)]
struct Link {
    pid: u32,
    stdin: Arc<Mutex<ChildStdin>>,
}

impl Links {
    /// Passes on that nothing more may be started, or that running programs are to end.
    pub fn tell(&self, message: &Down<Order>) {
        for link in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let mut stdin = link.stdin.lock().unwrap_or_else(PoisonError::into_inner);
            // A child that has ended needs not be told.
            frame::write(&mut *stdin, message).ok();
        }
    }

    /// Returns the processes that are children in the sense of this file, not programs that a module runs.
    pub fn pids(&self) -> Vec<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|link| link.pid).collect()
    }
}

/// The identities that one process can take.
#[derive(Debug)]
pub struct Identities {
    own: u32,
    login: String,
    program: OsString,
    password: Option<Secret>,
    children: BTreeMap<String, Running>,
    /// Who could not be become, and why: asked again, `sudo` might lock the account.
    refused: BTreeMap<String, IdentityError>,
    links: Links,
}

/// Where work of an identity is done.
enum Way {
    Here,
    Child(String),
    /// By the child of the first name, which passes it on.
    Through(String),
}

impl Identities {
    /// Makes the identities of this process; `password` is the login user's, for `sudo`.
    ///
    /// # Errors
    /// The path of this program cannot be found out.
    pub fn new(password: Option<Secret>, links: Links) -> io::Result<Identities> {
        let own = getuid();
        let user = users::find_user(Path::new("/"), &own.to_string()).ok().flatten();
        Ok(Identities {
            own: own.as_raw(),
            login: user.map_or_else(|| own.to_string(), |user| user.name),
            program: std::env::current_exe()?.into_os_string(),
            password,
            children: BTreeMap::new(),
            refused: BTreeMap::new(),
            links,
        })
    }

    /// Does an order: with `here` in this process, or in the child of its identity.
    pub fn call(&mut self, order: Order, here: impl FnOnce(What) -> Reply) -> Reply {
        let way = match self.way(&order.identity) {
            Ok(way) => way,
            Err(error) => return Reply::Identity(error),
        };
        match way {
            Way::Here => here(order.what),
            Way::Child(user) => self.pass(&user, Order { identity: Identity::Login, what: order.what }),
            Way::Through(user) => self.pass(&user, order),
        }
    }

    fn pass(&mut self, user: &str, order: Order) -> Reply {
        let Some(running) = self.children.get_mut(user) else {
            return Reply::Identity(IdentityError::Ended {
                user: user.to_owned(),
                how: "it was not started".into(),
            });
        };
        let how = match running.exchange(order) {
            Ok(reply) => return reply,
            Err(how) => how,
        };
        self.children.remove(user);
        Reply::Identity(IdentityError::Ended { user: user.to_owned(), how })
    }

    /// Finds out where the work of an identity is done, and makes that process ready.
    fn way(&mut self, identity: &Identity) -> Result<Way, IdentityError> {
        let Identity::Other { method, user, exe, flags } = identity else { return Ok(Way::Here) };
        let found = users::find_user(Path::new("/"), user).ok().flatten();
        let found = found.ok_or_else(|| IdentityError::NoSuchUser(user.clone()))?;
        if found.uid == self.own {
            return Ok(Way::Here);
        }
        if self.own == 0 {
            self.ensure(&found.name, |me| me.directly(&found))?;
            return Ok(Way::Child(found.name));
        }
        if !matches!(method.as_str(), "sudo" | "doas") {
            return Err(IdentityError::Method { method: method.clone(), user: user.clone() });
        }
        let wish = Wish { method, exe: exe.as_deref(), flags: flags.as_deref() };
        if found.uid != 0 && !self.children.contains_key(&found.name) {
            // One sudo for everybody: root can become whom it likes. A user who may only become this one is asked for that.
            let root = users::find_user(Path::new("/"), "0").ok().flatten().map(|root| root.name);
            let root = root.unwrap_or_else(|| "root".to_owned());
            match self.ensure(&root, |me| me.asking(&wish, &root)) {
                Ok(()) => return Ok(Way::Through(root)),
                Err(error @ IdentityError::WrongPassword { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        self.ensure(&found.name, |me| me.asking(&wish, &found.name))?;
        Ok(Way::Child(found.name))
    }

    fn ensure(
        &mut self,
        user: &str,
        make: impl FnOnce(&Identities) -> Result<Running, IdentityError>,
    ) -> Result<(), IdentityError> {
        if self.children.contains_key(user) {
            return Ok(());
        }
        if let Some(error) = self.refused.get(user) {
            return Err(error.clone());
        }
        match make(self) {
            Ok(running) => {
                let link = Link { pid: running.pid(), stdin: running.input() };
                self.links.0.lock().unwrap_or_else(PoisonError::into_inner).push(link);
                self.children.insert(user.to_owned(), running);
                Ok(())
            }
            Err(error) => {
                self.refused.insert(user.to_owned(), error.clone());
                Err(error)
            }
        }
    }

    /// Starts a child as `user` from root, without asking anybody.
    fn directly(&self, user: &users::User) -> Result<Running, IdentityError> {
        let start_error =
            |why: String| IdentityError::Start { program: self.program.display().to_string(), why };
        let identity =
            users::identity(Path::new("/"), user).map_err(|error| start_error(crate::sys::chain(&error)))?;
        let groups: Vec<String> = identity.groups.iter().map(ToString::to_string).collect();
        let become_as = format!("{}:{}:{}", identity.uid, identity.gid, groups.join(","));
        let marker = Marker::random();
        let mut command = command(&self.program);
        command.args(["executor", "--as"]).arg(become_as).arg(marker.as_str());
        for (name, value) in [("USER", &user.name), ("LOGNAME", &user.name), ("HOME", &user.home)] {
            command.env(name, value);
        }
        let ask = Ask { program: "keddah", login: &self.login, user: &user.name, prompt: None };
        start(command, &marker, &ask)
    }

    /// Starts a child as `user` through `sudo` or `doas`: first without a password, then with it.
    fn asking(&self, wish: &Wish<'_>, user: &str) -> Result<Running, IdentityError> {
        let marker = Marker::random();
        let program = wish.exe.unwrap_or(wish.method);
        let silent = self.become_command(wish, user, &marker, &["-n"]);
        let ask = Ask { program, login: &self.login, user, prompt: None };
        let refused = match start(silent, &marker, &ask) {
            Ok(running) => return Ok(running),
            Err(IdentityError::Refused { said, .. }) => said,
            Err(error) => return Err(error),
        };
        let wants_password = refused.contains("password is required") || refused.contains("Authentication");
        let (login, program) = (self.login.clone(), program.to_owned());
        let Some(password) = self.password.as_ref().filter(|_| wish.method == "sudo") else {
            let user = user.to_owned();
            return Err(if wants_password {
                IdentityError::PasswordWanted { program, login, user, said: refused }
            } else {
                IdentityError::Refused { program, login, user, said: refused }
            });
        };
        let prompt = Marker::random();
        let with_password = self.become_command(wish, user, &marker, &["-k", "-S", "-p", prompt.as_str()]);
        let ask = Ask { program: &program, login: &self.login, user, prompt: Some((&prompt, password)) };
        start(with_password, &marker, &ask)
    }

    fn become_command(&self, wish: &Wish<'_>, user: &str, marker: &Marker, how: &[&str]) -> Command {
        let mut command = command(&OsString::from(wish.exe.unwrap_or(wish.method)));
        // Its messages are read, by people and (one of them) by this file.
        command.env("LC_ALL", "C").env("LANGUAGE", "C");
        let default = if wish.method == "sudo" { "-H" } else { "" };
        // Ansible's users write `-n` and `-S` among the flags; whether to ask is decided here.
        let flags = wish.flags.unwrap_or(default).split_whitespace();
        command.args(flags.filter(|flag| !matches!(*flag, "-n" | "-S")));
        command.args(how).args(["-u", user]);
        if wish.method == "sudo" {
            command.arg("--");
        }
        let program = if user == "root" { None } else { self.copy_for_all() };
        let program = program.unwrap_or_else(|| self.program.clone());
        command.arg(program).args(["executor", "--child", marker.as_str()]);
        command
    }

    /// Makes a copy of this program that users without rights of their own can start: the cache of the login user is
    /// closed to them. None where that is not possible; then the other user must be able to reach the program itself.
    fn copy_for_all(&self) -> Option<OsString> {
        let folder = Path::new("/var/tmp").join(format!("keddah-{}", self.own));
        let name = Path::new(&self.program).file_name()?;
        let copy = folder.join(name);
        if let Err(error) = std::fs::create_dir(&folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return None;
        }
        let about = std::fs::symlink_metadata(&folder).ok()?;
        if !about.is_dir() || about.uid() != self.own {
            return None;
        }
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).ok()?;
        if !copy.exists() {
            let temporary = folder.join(format!(".copy.{}", std::process::id()));
            std::fs::copy(&self.program, &temporary).ok()?;
            std::fs::set_permissions(&temporary, Permissions::from_mode(0o755)).ok()?;
            std::fs::rename(&temporary, &copy).ok()?;
        }
        Some(copy.into_os_string())
    }
}

/// How the user wants identities to be taken.
struct Wish<'a> {
    method: &'a str,
    exe: Option<&'a str>,
    flags: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_identities_say_what_to_do() {
        let error = IdentityError::PasswordWanted {
            program: "sudo".into(),
            login: "admin".into(),
            user: "root".into(),
            said: "sudo: a password is required".into(),
        };
        let fault = Fault::from(error);
        assert!(fault.hint.unwrap().contains("ansible_become_password"));
    }
}
