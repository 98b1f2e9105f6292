//! Waits until a port answers or a file is there, or the opposite.
//!
//! # What it manages
//! Nothing; it waits.
//!
//! # Example
//! ```yaml
//! wait_for:
//!   port: 5432
//!   host: 127.0.0.1
//!   timeout: 60
//! ```
//!
//! # What it observes
//! Whether a TCP connection can be made, what the other side says first, whether a file is there and what is in it.
//!
//! # What it never does
//! It waits for nothing beyond `timeout`, and does not wait in plan and check: there it says what is not so yet.

use std::fmt;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::line_edits;
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Seen};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::{clock, names};

/// Most bytes of a file or of what a server says that are searched.
const SEARCHED_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub struct WaitFor;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedState {
    #[default]
    Started,
    Present,
    Stopped,
    Absent,
    Drained,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(default = "localhost")]
    host: String,
    port: Option<u16>,
    path: Option<String>,
    #[serde(default)]
    state: WantedState,
    /// A regular expression that the file, or what the server says first, must fit.
    search_regex: Option<String>,
    /// Seconds after which it gives up.
    #[serde(default = "timeout")]
    timeout: f64,
    /// Seconds before the first look.
    #[serde(default)]
    delay: f64,
    /// Seconds between looks.
    #[serde(default = "sleep")]
    sleep: f64,
    /// Seconds for one connection.
    #[serde(default = "connect_timeout")]
    connect_timeout: f64,
    /// What to say when it gives up.
    msg: Option<String>,
}

fn localhost() -> String {
    "127.0.0.1".to_owned()
}

fn timeout() -> f64 {
    300.0
}

fn sleep() -> f64 {
    1.0
}

fn connect_timeout() -> f64 {
    5.0
}

#[derive(Debug)]
pub struct State {
    is_so: bool,
    elapsed: u64,
    groups: Vec<String>,
}

#[derive(Debug)]
pub struct NotYet(String);

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    elapsed: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    search_regex: Option<String>,
    match_groups: Vec<String>,
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}

impl Params {
    fn wants_presence(&self) -> bool {
        matches!(self.state, WantedState::Started | WantedState::Present)
    }

    /// Says what is waited for.
    fn wish(&self) -> String {
        let until = if self.wants_presence() { "" } else { "not " };
        let fitting = self.search_regex.as_ref().map(|r| format!(" and `{r}` fits")).unwrap_or_default();
        match (&self.path, self.port) {
            (Some(path), _) => format!("{path} is {until}there{fitting}"),
            (None, Some(port)) => format!("{}:{port} does {until}answer{fitting}", self.host),
            (None, None) => format!("{} s have passed", self.timeout),
        }
    }

    /// Looks once: whether the thing is there, and the groups of what fits.
    fn look(&self, host: &Host) -> Result<(bool, Vec<String>), Fault> {
        let text = match (&self.path, self.port) {
            (Some(path), _) if self.search_regex.is_some() => match host.stat_followed(path)? {
                Some(_) => String::from_utf8_lossy(&host.read(path)?).into_owned(),
                None => return Ok((false, Vec::new())),
            },
            (Some(path), _) => return Ok((host.stat_followed(path)?.is_some(), Vec::new())),
            (None, Some(port)) => match self.connect(port)? {
                Some(stream) if self.search_regex.is_some() => self.hear(stream),
                other => return Ok((other.is_some(), Vec::new())),
            },
            (None, None) => return Ok((false, Vec::new())),
        };
        let Some(pattern) = &self.search_regex else { return Ok((true, Vec::new())) };
        let regex = line_edits::regex(pattern, true)?;
        let Ok(Some(captures)) = regex.captures(&text) else { return Ok((false, Vec::new())) };
        let groups = captures.iter().skip(1).map(|g| g.map_or("", |g| g.as_str()).to_owned()).collect();
        Ok((true, groups))
    }

    fn connect(&self, port: u16) -> Result<Option<TcpStream>, Fault> {
        // A name that cannot be resolved yet is as absent as a port that does not answer.
        let Ok(addresses) = names::resolve_blocking(&self.host, port) else { return Ok(None) };
        let limit = seconds(self.connect_timeout).max(Duration::from_millis(10));
        Ok(addresses.iter().find_map(|address| TcpStream::connect_timeout(address, limit).ok()))
    }

    /// Reads what a server says until it is silent.
    fn hear(&self, mut stream: TcpStream) -> String {
        let mut heard = Vec::new();
        let mut buffer = [0_u8; 4096];
        if stream.set_read_timeout(Some(seconds(self.connect_timeout).max(Duration::from_millis(10)))).is_ok()
        {
            while heard.len() < SEARCHED_BYTES_MAX
                && let Ok(count @ 1..) = stream.read(&mut buffer)
            {
                heard.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    }
}

impl Module for WaitFor {
    const NAME: &'static str = "wait_for";
    const KIND: Kind = Kind::Wait;
    type Params = Params;
    type State = State;
    type Change = NotYet;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = Diagnostics::default();
        if params.port.is_some() && params.path.is_some() {
            found
                .push(Diagnostic::error("parameter-value", "wait_for: `port` and `path` exclude each other"));
        }
        if params.state == WantedState::Drained {
            found.push(Diagnostic::error("parameter-value", "wait_for: `state: drained` is not supported"));
        }
        if let Some(Err(fault)) = params.search_regex.as_ref().map(|r| line_edits::regex(r, true)) {
            found.push(Diagnostic::error("parameter-value", format!("wait_for: {fault}")));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let (is_there, groups) = params.look(host)?;
        // A delay, or a plain pause, is asked for whatever is there.
        let is_wish = params.delay > 0.0 || (params.port.is_none() && params.path.is_none());
        Ok(Seen::Now(State { is_so: is_there == params.wants_presence() && !is_wish, elapsed: 0, groups }))
    }

    fn diff(params: &Params, found: &State) -> Vec<NotYet> {
        if found.is_so { Vec::new() } else { vec![NotYet(format!("until {}", params.wish()))] }
    }

    fn apply(
        params: &Params,
        _found: &State,
        _changes: &[NotYet],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let start = clock::now();
        let end = start + seconds(params.timeout);
        if params.port.is_none() && params.path.is_none() {
            std::thread::sleep(seconds(params.timeout));
            return Ok(State {
                is_so: true,
                elapsed: clock::now().since(start).as_secs(),
                groups: Vec::new(),
            });
        }
        std::thread::sleep(seconds(params.delay));
        loop {
            let (is_there, groups) = params.look(host)?;
            if is_there == params.wants_presence() {
                return Ok(State { is_so: true, elapsed: clock::now().since(start).as_secs(), groups });
            }
            let now = clock::now();
            if now >= end {
                let message = format!("after {} s it is not so that {}", params.timeout, params.wish());
                let mut fault = Fault::new(FaultKind::TimedOut, params.msg.clone().unwrap_or(message));
                fault
                    .output
                    .insert("elapsed".into(), i64::try_from(now.since(start).as_secs()).unwrap_or(0).into());
                return Err(fault);
            }
            std::thread::sleep(seconds(params.sleep).min(end.since(now)).max(Duration::from_millis(20)));
        }
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[NotYet]) -> Output {
        let state = after.unwrap_or(before);
        Output {
            elapsed: state.elapsed,
            state: if params.wants_presence() { "started" } else { "stopped" },
            path: params.path.clone(),
            port: params.port,
            search_regex: params.search_regex.clone(),
            match_groups: state.groups.clone(),
        }
    }
}
