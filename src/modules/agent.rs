//! Installs the program itself: the very file that runs as this host's executor becomes the agent's and the guard's.
//!
//! # What it manages
//! One program file, its owner and mode. It is replaced in one step; who runs the old file goes on with it.
//!
//! # Example
//! ```yaml
//! agent:
//!   path: /usr/local/bin/keddah
//! ```
//!
//! # What it observes
//! The bytes of the file that is running this module, and those of the destination.
//!
//! # What it never does
//! It restarts nobody: what takes the new program is a handler of the role.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{ModeSpec, PathFacts};
use crate::modules::text_file::{self, Desired, TextFile, WriteChange, Writing};
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen, Thing};
use crate::sys::files;

/// The file of the running process, also when its name is gone or taken by another one.
const OWN_FILE: &str = "/proc/self/exe";

#[derive(Debug)]
pub struct Agent;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the program belongs.
    #[serde(default = "path", alias = "dest")]
    path: String,
    #[serde(default = "mode")]
    mode: ModeSpec,
    owner: Option<String>,
    group: Option<String>,
}

fn path() -> String {
    "/usr/local/bin/keddah".to_owned()
}

fn mode() -> ModeSpec {
    ModeSpec::Bits(0o755)
}

#[derive(Debug)]
pub struct State {
    file: TextFile,
    desired: Desired,
}

#[derive(Debug, Serialize)]
pub struct Output {
    path: String,
    /// SHA-256 of the program.
    sha256: String,
    version: &'static str,
    #[serde(flatten)]
    facts: PathFacts,
}

impl Module for Agent {
    const NAME: &'static str = "agent";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = WriteChange;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let (owner, group) = (params.owner.as_deref(), params.group.as_deref());
        TextFile::observe(&params.path, Some(&params.mode), owner, group, host)?.and_then(|file| {
            let desired = Desired::new(files::read(std::path::Path::new(OWN_FILE))?);
            Ok(Seen::Now(State { file, desired }))
        })
    }

    fn diff(_params: &Params, found: &State) -> Vec<WriteChange> {
        found.file.diff(Some(&found.desired))
    }

    fn apply(
        _params: &Params,
        found: &State,
        _changes: &[WriteChange],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        found.file.write(Some(&found.desired), Writing::default(), host)?;
        Ok(State { file: found.file.again(host)?, desired: found.desired.clone() })
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[WriteChange]) -> Output {
        let state = after.unwrap_or(before);
        Output {
            path: params.path.clone(),
            sha256: text_file::hex(&state.desired.sha256),
            version: env!("CARGO_PKG_VERSION"),
            facts: state.file.facts(),
        }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        vec![Thing::Path(params.path.clone())]
    }
}
