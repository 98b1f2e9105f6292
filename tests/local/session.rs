//! Sessions with the executor of a host, as the tests of the transport and of the executor hold them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use keddah::executor::client::Client;
use keddah::executor::identity::{Order, Reply, What};
use keddah::executor::upload::Payload;
use keddah::executor::wire::{FromHost, Identity, ToHost};
use keddah::expr::{Dict, Value};
use keddah::modules::{Mode, ModuleCall, ModuleReply};
use keddah::transport::options::Target;
use keddah::transport::{Connector, Unreachable};

use crate::programs;
use crate::sshd::{TestUser, run};

pub type Session = Client<ToHost, FromHost>;

pub fn connector() -> Connector {
    Connector::new(Payload::of(Path::new(env!("CARGO_BIN_EXE_keddah"))).unwrap())
}

/// This program with a hash of its own: no session of another test has brought it to this machine.
pub struct Fresh {
    _folder: tempfile::TempDir,
    program: std::path::PathBuf,
}

impl Fresh {
    pub fn new() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("keddah");
        let mut content = std::fs::read(env!("CARGO_BIN_EXE_keddah")).unwrap();
        // Bytes after the end of an ELF file mean nothing to it.
        content.extend(folder.path().as_os_str().as_encoded_bytes());
        programs::put(&program, &content);
        Fresh { _folder: folder, program }
    }

    pub fn payload(&self) -> Payload {
        Payload::of(&self.program).unwrap()
    }

    pub async fn connect(&self, target: &Target) -> Result<Session, Unreachable> {
        Connector::new(self.payload()).connect(target).await
    }

    /// Where it lies on the host after a session of this user.
    pub fn file(&self, user: &TestUser) -> std::path::PathBuf {
        user.home.join(".cache/keddah").join(self.payload().hash())
    }
}

pub async fn connect(target: &Target) -> Result<Session, Unreachable> {
    connector().connect(target).await
}

pub fn sudo_to(user: &str) -> Identity {
    Identity::Other { method: "sudo".into(), user: user.into(), exe: None, flags: None }
}

async fn order(session: &mut Session, identity: Identity, what: What) -> Reply {
    session.send(ToHost::Order(Box::new(Order { identity, what }))).await.unwrap();
    match session.next().await.unwrap() {
        FromHost::Reply(reply) => *reply,
        other => panic!("expected a reply: {other:?}"),
    }
}

pub fn touch(path: &Path) -> What {
    let params = Value::from([("path", path.to_str().unwrap()), ("state", "touch")]);
    What::Module(Box::new(ModuleCall::new("file", params, Mode::Apply)))
}

/// Makes a file as somebody and returns whose it is, or why it was not made.
pub async fn touched_by(session: &mut Session, identity: Identity, path: &Path) -> Result<u32, String> {
    match order(session, identity, touch(path)).await {
        Reply::Module(reply) => done(*reply).map(|()| std::fs::metadata(path).unwrap().uid()),
        Reply::Identity(error) => Err(error.to_string()),
        Reply::Facts(_) => panic!("facts for a module"),
    }
}

fn done(reply: ModuleReply) -> Result<(), String> {
    reply.map(|_| ()).map_err(|fault| fault.message)
}

pub async fn facts(session: &mut Session, identity: Identity) -> Dict {
    match order(session, identity, What::Facts(Value::none())).await {
        Reply::Facts(facts) => facts.unwrap(),
        other => panic!("expected facts: {other:?}"),
    }
}

/// A folder in which everybody may make files.
pub fn shared_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run("chmod", &["1777", folder.path().to_str().unwrap()]);
    folder
}

pub fn shell(line: &str) -> What {
    What::Module(Box::new(ModuleCall::new("shell", Value::str(line), Mode::Apply)))
}
