//! Sets the administrative state of one server of a running HAProxy.
//!
//! # What it manages
//! Whether a server takes part (`ready`), takes no new connections (`drain`) or is out (`maint`), through the runtime
//! socket; HAProxy forgets it with its next start.
//!
//! # Example
//! ```yaml
//! haproxy_backend:
//!   socket: /run/haproxy/admin.sock
//!   config: /etc/haproxy/haproxy.cfg
//!   backend: read-write
//!   server: db1
//!   state: ready
//! ```
//!
//! # What it observes
//! The line of that server in `show servers state`. A server that is not there yet is waited for: a reload answers
//! before the new configuration does.
//!
//! # What it never does
//! It changes no configuration file and takes no part in health checks.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::outcome::ProxyServer;
use crate::modules::remote;
use crate::modules::{Fault, Host, HostMut, Kind, Module, Seen, Thing};

#[derive(Debug)]
pub struct HaproxyBackend;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// `show servers state` prints about 100 bytes a server.
const ANSWER_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The bits of `srv_admin_state` that mean maintenance, forced or inherited, and those that mean drain.
/// Source: HAProxy management guide, "show servers state".
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20;
const DRAIN: u32 = 0x08 | 0x10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    Ready,
    Drain,
    Maint,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Admin::Ready => "ready",
            Admin::Drain => "drain",
            Admin::Maint => "maint",
        })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// HAProxy's runtime socket, with level admin.
    socket: String,
    /// The configuration file that names the server; a change of it may bring the server.
    config: String,
    /// The proxy that the server is in.
    backend: String,
    server: String,
    state: Admin,
}

#[derive(Debug)]
pub struct Change {
    server: String,
    from: Admin,
    to: Admin,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.server, self.from, self.to)
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    state: Admin,
}

fn command(socket: &Path, line: &str) -> Result<String, Fault> {
    let talk = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    };
    talk().map_err(|error: std::io::Error| {
        Fault::refused(format!("{} does not answer: {error}", socket.display()))
    })
}

/// Finds a server's administrative state among the lines of `show servers state`.
fn parse(answer: &str, server: &str) -> Option<Admin> {
    let line = answer.lines().find(|line| line.split(' ').nth(3) == Some(server))?;
    let bits: u32 = line.split(' ').nth(6)?.parse().ok()?;
    Some(match (bits & MAINTENANCE != 0, bits & DRAIN != 0) {
        (true, _) => Admin::Maint,
        (false, true) => Admin::Drain,
        (false, false) => Admin::Ready,
    })
}

/// Asks for the state of the server; `None`: HAProxy runs without it.
fn look(params: &Params, socket: &Path) -> Result<Option<Admin>, Fault> {
    let answer = command(socket, &format!("show servers state {}", params.backend))?;
    Ok(parse(&answer, &params.server))
}

fn wanted(params: &Params) -> Thing {
    let name = format!("{}/{}", params.backend, params.server);
    Thing::ProxyServer(Box::new(ProxyServer { name, config: params.config.clone() }))
}

impl Module for HaproxyBackend {
    const NAME: &'static str = "haproxy_backend";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = Admin;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<Admin>, Fault> {
        let socket = host.path(&params.socket);
        if UnixStream::connect(&socket).is_err() {
            return Ok(Seen::Blocked(Thing::Path(params.socket.clone())));
        }
        Ok(look(params, &socket)?.map_or_else(|| Seen::Blocked(wanted(params)), Seen::Now))
    }

    fn diff(params: &Params, found: &Admin) -> Vec<Change> {
        if *found == params.state {
            return Vec::new();
        }
        vec![Change {
            server: format!("{}/{}", params.backend, params.server),
            from: *found,
            to: params.state,
        }]
    }

    fn patience(_params: &Params) -> std::time::Duration {
        remote::RETURN_LIMIT
    }

    fn apply(
        params: &Params,
        _found: &Admin,
        _changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<Admin, Fault> {
        let socket = host.path(&params.socket);
        let line = format!("set server {}/{} state {}", params.backend, params.server, params.state);
        let answer = command(&socket, &line)?;
        if !answer.trim().is_empty() {
            return Err(Fault::refused(format!("HAProxy refused `{line}`: {}", answer.trim())));
        }
        look(params, &socket)?.ok_or_else(|| Fault::missing(wanted(params)))
    }

    fn output(_params: &Params, before: &Admin, after: Option<&Admin>, _changes: &[Change]) -> Output {
        Output { state: *after.unwrap_or(before) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As HAProxy 3.0 prints it.
    const ANSWER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n\
        3 read-write 1 db1 10.0.0.1 2 0 1 1 10 6 3 4 6 0 0 0 - 5432 - 0 0 - - 0\n\
        3 read-write 2 db2 10.0.0.2 0 1 1 1 10 6 3 4 6 0 0 0 - 5432 - 0 0 - - 0\n\
        3 read-write 3 db3 10.0.0.3 2 8 1 1 10 6 3 4 6 0 0 0 - 5432 - 0 0 - - 0\n";

    #[test]
    fn the_bits_of_the_admin_state_become_words() {
        assert_eq!(parse(ANSWER, "db1"), Some(Admin::Ready));
        assert_eq!(parse(ANSWER, "db2"), Some(Admin::Maint));
        assert_eq!(parse(ANSWER, "db3"), Some(Admin::Drain));
        assert_eq!(parse(ANSWER, "db4"), None);
    }
}
