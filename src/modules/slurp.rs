//! Returns a file's content in base64.
//!
//! # What it manages
//! Nothing; it only tells.
//!
//! # Example
//! ```yaml
//! slurp:
//!   src: /etc/hostname
//! ```
//!
//! # What it observes
//! The file's bytes.
//!
//! # What it never does
//! It reads no file above 64 MiB into a variable.

use base64::Engine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::{Fault, Host, Kind, Module, Never, Seen, Thing};

/// A variable of this size is a mistake; it would travel to the controller and stay in its memory.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug)]
pub struct Slurp;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "path")]
    src: String,
}

#[derive(Debug, Serialize)]
pub struct Output {
    content: String,
    encoding: &'static str,
    source: String,
}

impl Module for Slurp {
    const NAME: &'static str = "slurp";
    const KIND: Kind = Kind::Query;
    type Params = Params;
    type State = Vec<u8>;
    type Change = Never;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<Vec<u8>>, Fault> {
        match host.stat_followed(&params.src)? {
            None => Ok(Seen::Blocked(Thing::Path(params.src.clone()))),
            Some(stat) if stat.size > BYTES_MAX => Err(Fault::refused(format!(
                "{} has {} bytes, too many for a variable",
                params.src, stat.size
            ))),
            Some(_) => Ok(Seen::Now(host.read(&params.src)?)),
        }
    }

    fn diff(_params: &Params, _found: &Vec<u8>) -> Vec<Never> {
        Vec::new()
    }

    fn output(params: &Params, before: &Vec<u8>, _after: Option<&Vec<u8>>, _changes: &[Never]) -> Output {
        let content = base64::engine::general_purpose::STANDARD.encode(before);
        Output { content, encoding: "base64", source: params.src.clone() }
    }
}
