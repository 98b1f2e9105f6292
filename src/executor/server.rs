//! The executor's process on the host, and the processes of its other identities.
//!
//! Start at [`serve`] (the main process) or [`serve_identity`] (a child). One thread does the work, one thing at a time;
//! another reads messages, so that a cancel is heard while work is under way. When the connection is lost, the change
//! in flight is finished and nothing more is started.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use sha2::Digest;

use crate::executor::facts;
use crate::executor::frame::{self, Begin, Down, FrameError, Sha256, Up};
use crate::executor::identity::{Identities, Links, Order, Reply, What};
use crate::executor::lock::HostLock;
use crate::executor::runner::Runner;
use crate::executor::upload::{self, Marker};
use crate::executor::wire::{Answer, FromHost, Identity, Question, SegmentId, ToHost};
use crate::expr::{Dict, Value};
use crate::modules::{self, Fault, ModuleCall, ModuleReply};
use crate::sys::clock;
use crate::sys::secret::Secret;

/// Why the process on the host ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the streams cannot be taken over")]
    Streams(#[source] io::Error),
    #[error("the first message cannot be read")]
    Begin(#[from] FrameError),
    #[error("there was no first message")]
    NoBegin,
    #[error("this program's own path cannot be found out")]
    Program(#[source] io::Error),
}

/// What the reading thread leaves for the working one.
#[derive(Debug)]
struct Inbox<T> {
    state: Mutex<State<T>>,
    woken: Condvar,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    arriving: BTreeMap<Sha256, Vec<u8>>,
    contents: BTreeMap<Sha256, Result<Arc<[u8]>, String>>,
    /// The other end is gone.
    lost: bool,
    /// Nothing more may be started.
    cancelled: bool,
}

impl<T> Inbox<T> {
    fn new() -> Arc<Inbox<T>> {
        let state = State {
            queue: VecDeque::new(),
            arriving: BTreeMap::new(),
            contents: BTreeMap::new(),
            lost: false,
            cancelled: false,
        };
        Arc::new(Inbox { state: Mutex::new(state), woken: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        change(&mut self.lock());
        self.woken.notify_all();
    }

    /// Waits until `find` finds something; none when the connection is lost first.
    fn wait<R>(&self, mut find: impl FnMut(&mut State<T>) -> Option<R>) -> Option<R> {
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&mut state) {
                return Some(found);
            }
            if state.lost {
                return None;
            }
            state = self.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn may_start(&self) -> bool {
        let state = self.lock();
        !state.lost && !state.cancelled
    }
}

/// Takes over standard input and output, so that nothing else in this process reads or writes them, says the first word
/// and reads the first message.
fn begin<T: DeserializeOwned>(marker: &Marker) -> Result<(File, File, Begin), ServerError> {
    // In a session of its own and deaf to the terminal's end: a change in flight outlives the connection. A leader of
    // a session stays what it is. The mask is not inherited: programs are started with an empty one.
    nix::unistd::setsid().ok();
    let mut hangup = SigSet::empty();
    hangup.add(Signal::SIGHUP);
    hangup.thread_block().map_err(|errno| ServerError::Streams(errno.into()))?;
    let (mut input, mut output) = take_streams().map_err(ServerError::Streams)?;
    output.write_all(format!("{} ready\n", marker.as_str()).as_bytes()).map_err(ServerError::Streams)?;
    match frame::read::<Down<T>>(&mut input)? {
        Some(Down::Begin(begin)) => Ok((input, output, begin)),
        Some(_) | None => Err(ServerError::NoBegin),
    }
}

fn take_streams() -> io::Result<(File, File)> {
    let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let output: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    nix::unistd::dup2_stdout(io::stderr().as_fd())?;
    Ok((input.into(), output.into()))
}

/// Reads messages until the other end is gone.
fn read_messages<T: DeserializeOwned>(mut input: impl Read, inbox: &Inbox<T>, links: &Links) {
    loop {
        match frame::read::<Down<T>>(&mut input) {
            Ok(Some(Down::Work(message))) => inbox.change(|state| state.queue.push_back(message)),
            Ok(Some(Down::Part { sha256, bytes, last })) => {
                inbox.change(|state| take_part(state, sha256, &bytes, last));
            }
            Ok(Some(Down::Missing { sha256, why })) => inbox.change(|state| {
                state.arriving.remove(&sha256);
                state.contents.insert(sha256, Err(why));
            }),
            Ok(Some(Down::Cancel)) => {
                inbox.change(|state| state.cancelled = true);
                links.tell(&Down::Cancel);
            }
            Ok(Some(Down::Kill)) => {
                inbox.change(|state| state.cancelled = true);
                links.tell(&Down::Kill);
                end_programs(&links.pids());
            }
            Ok(Some(Down::Begin(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    inbox.change(|state| state.lost = true);
}

fn take_part<T>(state: &mut State<T>, sha256: Sha256, bytes: &[u8], last: bool) {
    let content = state.arriving.entry(sha256).or_default();
    content.extend_from_slice(bytes);
    if !last {
        return;
    }
    let content = state.arriving.remove(&sha256).unwrap_or_default();
    let found: Sha256 = sha2::Sha256::digest(&content).into();
    let whole = if found == sha256 {
        Ok(content.into())
    } else {
        Err("the file has changed on the controller since the run began".to_owned())
    };
    state.contents.insert(sha256, whole);
}

/// Ends the programs that modules run: children of this process, each with a process group of its own.
fn end_programs(spared: &[u32]) {
    let own = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // After the name, which may hold anything, come the state, the parent and the group.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(1);
        let parent = fields.next().and_then(|text| text.parse::<u32>().ok());
        let group = fields.next().and_then(|text| text.parse::<u32>().ok());
        if parent == Some(own)
            && group == Some(pid)
            && !spared.contains(&pid)
            && let Ok(group) = i32::try_from(pid)
        {
            // One that has just ended by itself is as good.
            killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
        }
    }
}

/// Does an order in this process.
fn do_here(what: What, host: &mut modules::Host) -> Reply {
    match what {
        What::Module(call) => {
            let done = catch_unwind(AssertUnwindSafe(|| modules::run(&call, host)));
            Reply::Module(Box::new(
                done.unwrap_or_else(|panic| Err(bug(&format!("the module `{}`", call.name), &*panic))),
            ))
        }
        What::Facts(args) => {
            let done = catch_unwind(AssertUnwindSafe(|| facts::gather(&args)));
            Reply::Facts(done.unwrap_or_else(|panic| Err(bug("gathering facts", &*panic))))
        }
    }
}

fn bug(what: &str, panic: &(dyn std::any::Any + Send)) -> Fault {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let why = text.unwrap_or_else(|| "no reason given".to_owned());
    Fault::refused(format!("{what} broke off: {why}")).hint("this is a bug of keddah's; please report it")
}

/// Serves as a child of another identity until its input ends.
///
/// # Errors
/// The streams cannot be taken over, or the parent said nothing.
pub fn serve_identity(marker: &Marker) -> Result<(), ServerError> {
    let (input, mut output, _begin) = begin::<Order>(marker)?;
    let links = Links::default();
    let mut identities = Identities::new(None, links.clone()).map_err(ServerError::Program)?;
    let inbox = Inbox::new();
    let reading = Arc::clone(&inbox);
    std::thread::spawn(move || read_messages(input, &reading, &links));
    while let Some(order) = inbox.wait(|state| state.queue.pop_front()) {
        // What another process has changed since the last order must be seen.
        let mut host = modules::Host::local();
        let reply = identities.call(order, |what| do_here(what, &mut host));
        if frame::write(&mut output, &Up::Work(reply)).is_err() {
            break;
        }
    }
    if nix::unistd::getuid().is_root() {
        // Only speed is lost where that is not possible.
        upload::share_this_program().ok();
    }
    Ok(())
}

/// Keeps the segments that are open and works on them.
pub trait Evaluator {
    /// Takes a message about a segment: [`ToHost::Open`], [`ToHost::Advance`] or [`ToHost::Close`].
    fn handle(&mut self, message: ToHost, runner: &dyn Runner);
}

/// Serves a controller until the connection ends.
///
/// # Errors
/// The streams cannot be taken over, or the controller said nothing.
pub fn serve(marker: &Marker, evaluator: &mut dyn Evaluator) -> Result<(), ServerError> {
    let (input, output, begin) = begin::<ToHost>(marker)?;
    let links = Links::default();
    let password = begin.become_password.map(Secret::new);
    let identities = Identities::new(password, links.clone()).map_err(ServerError::Program)?;
    let inbox = Inbox::new();
    let reading = Arc::clone(&inbox);
    std::thread::spawn(move || read_messages(input, &reading, &links));
    let worker = Worker {
        inbox,
        output: RefCell::new(output),
        identities: RefCell::new(identities),
        segment: Cell::new(0),
        asked: Cell::new(0),
    };
    worker.work(evaluator);
    Ok(())
}

/// The working thread of the main process.
struct Worker {
    inbox: Arc<Inbox<ToHost>>,
    output: RefCell<File>,
    identities: RefCell<Identities>,
    /// The segment that is being worked on.
    segment: Cell<SegmentId>,
    asked: Cell<u32>,
}

impl Worker {
    fn work(&self, evaluator: &mut dyn Evaluator) {
        let mut lock: Option<HostLock> = None;
        while let Some(message) = self.inbox.wait(|state| state.queue.pop_front()) {
            match message {
                ToHost::Lock { holder } => {
                    // One that this session holds already is given back first.
                    drop(lock.take());
                    let (taken, answer) = match HostLock::take(&holder) {
                        Ok(taken) => (Some(taken), Ok(())),
                        Err(error) => (None, Err(crate::sys::chain(&error))),
                    };
                    lock = taken;
                    self.tell(FromHost::Lock(answer));
                }
                ToHost::Unlock => drop(lock.take()),
                ToHost::Order(order) => {
                    let reply = if self.inbox.may_start() {
                        self.order(*order)
                    } else {
                        let reason = "it was not started: the run is cancelled";
                        Reply::Module(Box::new(Err(Fault::refused(reason))))
                    };
                    self.tell(FromHost::Reply(Box::new(reply)));
                }
                // To a question that nobody waits for any more.
                ToHost::Answer { .. } => {}
                ToHost::Open(..) | ToHost::Advance(_) | ToHost::Close(_) => self.evaluate(evaluator, message),
            }
        }
    }

    fn evaluate(&self, evaluator: &mut dyn Evaluator, message: ToHost) {
        self.segment.set(match &message {
            ToHost::Open(segment, _) => segment.id,
            ToHost::Advance(advance) => advance.segment,
            _ => 0,
        });
        let done = catch_unwind(AssertUnwindSafe(|| evaluator.handle(message, self)));
        if let Err(panic) = done {
            let fault = bug("evaluating the segment", &*panic);
            self.tell(FromHost::Broken(format!("{fault}; please report it")));
        }
    }

    fn order(&self, order: Order) -> Reply {
        let mut host = modules::Host::local();
        self.identities.borrow_mut().call(order, |what| do_here(what, &mut host))
    }

    /// Returns a content that the work names: from an earlier step, from this program itself, or from the controller.
    fn content(&self, sha256: Sha256) -> Result<Arc<[u8]>, String> {
        let known = self.inbox.lock().contents.get(&sha256).cloned();
        if let Some(Ok(bytes)) = known {
            return Ok(bytes);
        }
        if self.is_this_program(sha256)
            && let Ok(bytes) = std::fs::read("/proc/self/exe")
            && <Sha256>::from(sha2::Sha256::digest(&bytes)) == sha256
        {
            let bytes: Arc<[u8]> = bytes.into();
            self.inbox.lock().contents.insert(sha256, Ok(Arc::clone(&bytes)));
            return Ok(bytes);
        }
        self.inbox.lock().contents.remove(&sha256);
        self.write(&Up::Need { sha256 });
        let arrived = self.inbox.wait(|state| state.contents.get(&sha256).cloned());
        arrived.unwrap_or_else(|| Err("the connection to the controller is lost".to_owned()))
    }

    /// The executor's file is named by its hash: installing it needs no second transfer.
    fn is_this_program(&self, sha256: Sha256) -> bool {
        let program = std::env::current_exe().unwrap_or_default();
        program.file_name().is_some_and(|name| *name == *upload::hex(&sha256))
    }

    fn write(&self, message: &Up<FromHost>) {
        if frame::write(&mut *self.output.borrow_mut(), message).is_err() {
            self.inbox.change(|state| state.lost = true);
        }
    }
}

impl Runner for Worker {
    fn run(&self, identity: &Identity, call: ModuleCall) -> ModuleReply {
        match self.order(Order { identity: identity.clone(), what: What::Module(Box::new(call)) }) {
            Reply::Module(reply) => *reply,
            Reply::Identity(error) => Err(error.into()),
            Reply::Facts(_) => Err(Fault::refused("facts came where a module was asked for")),
        }
    }

    fn facts(&self, identity: &Identity, args: &Value) -> Result<Dict, Fault> {
        match self.order(Order { identity: identity.clone(), what: What::Facts(args.clone()) }) {
            Reply::Facts(reply) => reply,
            Reply::Identity(error) => Err(error.into()),
            Reply::Module(_) => Err(Fault::refused("a module answered where facts were asked for")),
        }
    }

    fn ask(&self, question: Question) -> Result<Answer, String> {
        if let Question::Content { sha256 } = question {
            return self.content(sha256).map(Answer::Content);
        }
        let ask = self.asked.get();
        self.asked.set(ask.wrapping_add(1));
        self.tell(FromHost::Ask { ask, segment: self.segment.get(), question });
        let answer = self.inbox.wait(|state| {
            let at = state.queue.iter().position(
                |message| matches!(message, ToHost::Answer { ask: answered, .. } if *answered == ask),
            )?;
            state.queue.remove(at)
        });
        match answer {
            Some(ToHost::Answer { answer, .. }) => answer,
            Some(_) | None => Err("the connection to the controller is lost".to_owned()),
        }
    }

    fn tell(&self, message: FromHost) {
        self.write(&Up::Work(message));
    }

    fn is_cancelled(&self) -> bool {
        !self.inbox.may_start()
    }

    fn pause(&self, time: Duration) {
        let until = clock::now() + time;
        let mut state = self.inbox.lock();
        while !state.lost && !state.cancelled {
            let left = until.since(clock::now());
            if left.is_zero() {
                return;
            }
            state = self.inbox.woken.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(content: &[u8], sha256: Sha256) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (one, two) = content.split_at(content.len() / 2);
        frame::write(&mut bytes, &Down::<String>::Part { sha256, bytes: one.to_vec(), last: false }).unwrap();
        frame::write(&mut bytes, &Down::<String>::Part { sha256, bytes: two.to_vec(), last: true }).unwrap();
        bytes
    }

    #[test]
    fn a_content_arrives_in_parts_and_is_verified() {
        let content = b"a file of the controller".to_vec();
        let sha256: Sha256 = sha2::Sha256::digest(&content).into();
        let inbox: Arc<Inbox<String>> = Inbox::new();

        let mut input = parts(&content, sha256);
        input.extend(parts(b"something else", [0; 32]));
        read_messages(input.as_slice(), &inbox, &Links::default());

        let state = inbox.lock();
        assert_eq!(state.contents.get(&sha256).unwrap().as_deref(), Ok(content.as_slice()));
        assert!(state.contents.get(&[0; 32]).unwrap().is_err());
        assert!(state.arriving.is_empty());
    }

    #[test]
    fn the_end_of_the_input_forbids_to_start_more_but_leaves_what_came_before() {
        let inbox: Arc<Inbox<String>> = Inbox::new();
        let mut input = Vec::new();
        frame::write(&mut input, &Down::Work("first".to_owned())).unwrap();
        assert!(inbox.may_start());

        read_messages(input.as_slice(), &inbox, &Links::default());

        assert!(!inbox.may_start());
        assert_eq!(inbox.wait(|state| state.queue.pop_front()).as_deref(), Some("first"));
        assert_eq!(inbox.wait(|state| state.queue.pop_front()), None);
    }

    #[test]
    fn a_cancel_is_heard_while_work_waits() {
        let inbox: Arc<Inbox<String>> = Inbox::new();
        let mut input = Vec::new();
        frame::write(&mut input, &Down::Work("first".to_owned())).unwrap();
        frame::write(&mut input, &Down::<String>::Cancel).unwrap();

        read_messages(input.as_slice(), &inbox, &Links::default());

        assert!(inbox.lock().cancelled);
    }

    #[test]
    fn a_module_that_panics_is_a_fault_and_not_the_end() {
        let fault = bug("the module `x`", &"index out of range");
        assert!(fault.message.contains("index out of range"));
        assert!(fault.hint.unwrap().contains("report"));
    }
}
