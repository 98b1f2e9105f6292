//! Who does the work on a host: the login user in this process, and one child process for each other identity.
//!
//! Start at [`Identities::call`]. A child is made when it is first needed and lives as long as the session: through
//! `sudo` or `doas` from a plain user, by changing the user directly from root. A child that is root keeps children of
//! its own, so one `sudo` per session is enough for root and postgres together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, getuid};
use serde::{Deserialize, Serialize};

use crate::executor::frame::{self, Begin, Down, Up};
use crate::executor::upload::Marker;
use crate::executor::wire::Identity;
use crate::expr::{Dict, Value};
use crate::modules::{Fault, FaultKind, ModuleCall, ModuleReply, Thing};
use crate::sys::clock;
use crate::sys::process;
use crate::sys::secret::Secret;
use crate::sys::users;

/// How long `sudo` may take until it either asks, refuses or starts the child. PAM stacks that ask a directory or delay
/// after a wrong password stay below it; a wrong password is not recognized by it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Most bytes of what `sudo` says that an error shows.
const SAID_BYTES: usize = 2048;

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

/// A child that does work as somebody.
#[derive(Debug)]
struct Running {
    child: Child,
    stdin: Arc<Mutex<ChildStdin>>,
    stdout: ChildStdout,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child ends by itself when its input ends; it may be a program of root's that could not be ended from here.
        self.child.try_wait().ok();
    }
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
        let sent = {
            let mut stdin = running.stdin.lock().unwrap_or_else(PoisonError::into_inner);
            frame::write(&mut *stdin, &Down::Work(order))
        };
        let answer = sent.and_then(|()| frame::read::<Up<Reply>>(&mut running.stdout));
        let how = match answer {
            Ok(Some(Up::Work(reply))) => return reply,
            Ok(Some(Up::Need { .. })) => "it asked for a file, which it has no way to get".to_owned(),
            Ok(None) => said(&running.said),
            Err(error) => format!("{error}; {}", said(&running.said)),
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
                let link = Link { pid: running.child.id(), stdin: Arc::clone(&running.stdin) };
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

/// What to say and whom to name while a child starts.
struct Ask<'a> {
    program: &'a str,
    login: &'a str,
    user: &'a str,
    /// What the program says when it wants the password.
    prompt: Option<(&'a Marker, &'a Secret)>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the door for children that live as long as the session and are spoken with all the while"
)]
fn command(program: &OsString) -> Command {
    Command::new(program)
}

/// Starts the child and waits for its first word.
fn start(mut command: Command, marker: &Marker, ask: &Ask<'_>) -> Result<Running, IdentityError> {
    let start_error = |why: String| IdentityError::Start { program: ask.program.to_owned(), why };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::start(&mut command).map_err(|error| start_error(error.to_string()))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = pipes else {
        return Err(start_error("a pipe is missing".to_owned()));
    };
    let mut told = Vec::new();
    let heard = listen(&mut stdin, &mut stdout, &mut stderr, &mut told, marker, ask);
    let words = || tail(&told);
    let (program, login, user) = (ask.program.to_owned(), ask.login.to_owned(), ask.user.to_owned());
    let failed = match heard {
        Ok(Heard::Ready) => {
            let begin = frame::write(&mut stdin, &Down::<Order>::Begin(Begin::default()));
            begin.map_err(|error| start_error(error.to_string()))?;
            let said = Arc::new(Mutex::new(told));
            drain_in_background(stderr, Arc::clone(&said));
            return Ok(Running { child, stdin: Arc::new(Mutex::new(stdin)), stdout, said });
        }
        Ok(Heard::AskedAgain) => IdentityError::WrongPassword { program, login, user, said: words() },
        Ok(Heard::Ended) => {
            // Its status comes with the end of its output; it says nothing that its words do not.
            child.wait().ok();
            let words = words();
            // A policy of one try does not ask again.
            if ask.prompt.is_some() && words.contains("incorrect password") {
                IdentityError::WrongPassword { program, login, user, said: words }
            } else {
                IdentityError::Refused { program, login, user, said: words }
            }
        }
        Ok(Heard::Nothing) => {
            IdentityError::Silent { program, seconds: START_LIMIT.as_secs(), said: words() }
        }
        Err(error) => start_error(error.to_string()),
    };
    // sudo ends when its input does, or is ended where that is allowed.
    drop(stdin);
    child.kill().ok();
    Err(failed)
}

enum Heard {
    Ready,
    AskedAgain,
    Ended,
    Nothing,
}

/// Listens to both outputs until the child is ready or something ends the wait; gives the password when it is asked for.
fn listen(
    stdin: &mut ChildStdin,
    stdout: &mut ChildStdout,
    stderr: &mut ChildStderr,
    told: &mut Vec<u8>,
    marker: &Marker,
    ask: &Ask<'_>,
) -> io::Result<Heard> {
    let ready = format!("{} ready\n", marker.as_str()).into_bytes();
    let deadline = clock::now() + START_LIMIT;
    let mut heard = Vec::new();
    let mut given = false;
    let mut stderr_open = true;
    loop {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return Ok(Heard::Nothing);
        }
        let mut fds = vec![PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        if stderr_open {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, limit) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let is_readable = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any().unwrap_or(true));
        let (out, err) = (is_readable(fds.first()), is_readable(fds.get(1)));
        if err {
            stderr_open = take(stderr, told)? > 0;
            if let Some((prompt, password)) = ask.prompt
                && cut(told, prompt.as_str().as_bytes())
            {
                if given {
                    return Ok(Heard::AskedAgain);
                }
                given = true;
                stdin.write_all(password.reveal().as_bytes())?;
                stdin.write_all(b"\n")?;
                stdin.flush()?;
            }
        }
        if out {
            if take(stdout, &mut heard)? == 0 {
                // What it said last may still be in the other pipe.
                while stderr_open && take(stderr, told)? > 0 {}
                return Ok(Heard::Ended);
            }
            if heard.windows(ready.len()).any(|window| window == ready) {
                return Ok(Heard::Ready);
            }
        }
    }
}

fn take(from: &mut impl Read, to: &mut Vec<u8>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(length) => {
                to.extend_from_slice(bytes.get(..length).unwrap_or_default());
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the first `wanted` out of `text`, if it is there.
fn cut(text: &mut Vec<u8>, wanted: &[u8]) -> bool {
    let found = text.windows(wanted.len()).position(|window| window == wanted);
    if let Some(at) = found {
        text.drain(at..at + wanted.len());
    }
    found.is_some()
}

fn drain_in_background(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stderr.read(&mut bytes) {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(bytes.get(..length).unwrap_or_default());
            let surplus = said.len().saturating_sub(SAID_BYTES);
            said.drain(..surplus);
        }
    });
}

fn said(bytes: &Mutex<Vec<u8>>) -> String {
    tail(&bytes.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Returns the last lines in one.
fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(SAID_BYTES);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "(nothing)".to_owned() } else { lines.join("; ") }
}

/// Whom a child of root's becomes before its first work: `UID:GID:GROUP,GROUP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl std::str::FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let bad = || format!("`{text}` is not UID:GID:GROUP,GROUP");
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        let parts: Vec<&str> = text.split(':').collect();
        let [uid, gid, groups] = parts.as_slice() else { return Err(bad()) };
        let groups =
            groups.split(',').filter(|group| !group.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Numbers { uid: number(uid)?, gid: number(gid)?, groups })
    }
}

/// Changes this process to another user for good, and to a folder that this user may be in.
///
/// # Errors
/// This process is not root.
pub fn become_numbers(numbers: &Numbers) -> nix::Result<()> {
    let groups: Vec<nix::unistd::Gid> =
        numbers.groups.iter().map(|group| nix::unistd::Gid::from_raw(*group)).collect();
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setgid(nix::unistd::Gid::from_raw(numbers.gid))?;
    nix::unistd::setuid(Uid::from_raw(numbers.uid))?;
    if std::fs::read_dir(".").is_err() {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
        nix::unistd::chdir(home.as_os_str()).or_else(|_| nix::unistd::chdir("/"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_user_are_read_and_nothing_else() {
        let numbers: Numbers = "105:112:112,27".parse().unwrap();
        assert_eq!(numbers, Numbers { uid: 105, gid: 112, groups: vec![112, 27] });
        assert!("postgres".parse::<Numbers>().is_err());
        assert!("1:2".parse::<Numbers>().is_err());
    }

    #[test]
    fn a_prompt_is_taken_out_of_what_was_said_once() {
        let mut text = b"lecture PROMPTSorry PROMPT".to_vec();
        assert!(cut(&mut text, b"PROMPT"));
        assert_eq!(text, b"lecture Sorry PROMPT");
    }

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
