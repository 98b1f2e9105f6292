//! Runs a program, as `command` with a list of words and as `shell` with a shell that the user asked for.
//!
//! # What it manages
//! Nothing that it could compare: it does what it is told each time. `creates`, `removes`, `unless` and `onlyif` tell
//! when there is nothing to do, and make it foreseeable.
//!
//! # Example
//! ```yaml
//! command:
//!   cmd: /usr/sbin/locale-gen
//!   creates: /usr/lib/locale/locale-archive
//! ```
//!
//! # What it observes
//! Whether `creates` and `removes` exist, and how `unless` and `onlyif` end: those two run in plan and check as well, and
//! must change nothing.
//!
//! # What it never does
//! `command` uses no shell: `*`, `|` and `>` are plain characters.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Seen, Thing, words};
use crate::source::{Diagnostic, Diagnostics};
use crate::sys::clock;
use crate::sys::process::{self, Program};

/// Most bytes of output that a register keeps; roles read JSON of some hundred kilobytes from programs.
const OUTPUT_KEPT_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub struct Command;

#[derive(Debug)]
pub struct Shell;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The whole line.
    #[serde(rename = "cmd", alias = "_raw_params")]
    line: Option<String>,
    /// The words, for which nothing is split.
    argv: Option<Vec<String>>,
    /// The folder to run in.
    chdir: Option<String>,
    /// Do nothing if this is there; may hold `*` and `?`.
    creates: Option<String>,
    /// Do nothing if this is not there; may hold `*` and `?`.
    removes: Option<String>,
    /// Do nothing if this shell line ends with 0.
    unless: Option<String>,
    /// Do nothing if this shell line ends with something else than 0.
    onlyif: Option<String>,
    stdin: Option<String>,
    #[serde(default = "yes")]
    stdin_add_newline: bool,
    #[serde(default = "yes")]
    strip_empty_ends: bool,
    /// Whether `$NAME` and `~` in words are filled in.
    #[serde(default = "yes")]
    expand_argument_vars: bool,
    /// The shell to use, for `shell`.
    executable: Option<String>,
    /// Accepted for old roles: there are no warnings to switch off.
    #[serde(default = "yes", rename = "warn")]
    _warn: bool,
}

fn yes() -> bool {
    true
}

/// Why nothing is to do.
#[derive(Debug, Clone)]
enum Idle {
    Exists(String),
    Absent(String),
    Guard(&'static str),
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Idle::Exists(path) => write!(f, "Did not run command since '{path}' exists"),
            Idle::Absent(path) => write!(f, "Did not run command since '{path}' does not exist"),
            Idle::Guard(name) => write!(f, "Did not run command since `{name}` says that nothing is to do"),
        }
    }
}

#[derive(Debug)]
pub struct State {
    idle: Option<Idle>,
    ran: Option<Ran>,
}

#[derive(Debug, Clone)]
struct Ran {
    rc: i32,
    stdout: String,
    stderr: String,
    start: String,
    end: String,
    delta: String,
}

#[derive(Debug)]
pub struct Run(String);

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run `{}`", self.0)
    }
}

/// What was run, a list of words or the shell's line.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Cmd {
    Words(Vec<String>),
    Line(String),
}

#[derive(Debug, Serialize)]
pub struct Output {
    cmd: Cmd,
    rc: i32,
    stdout: String,
    stderr: String,
    stdout_lines: Vec<String>,
    stderr_lines: Vec<String>,
    start: Option<String>,
    end: Option<String>,
    delta: Option<String>,
    msg: String,
}

impl Params {
    /// Returns the words to run.
    fn words(&self, host: &Host) -> Result<Vec<String>, Fault> {
        let split = match (&self.argv, &self.line) {
            (Some(argv), _) => argv.clone(),
            (None, Some(line)) => words::split(line)
                .map_err(|why| Fault::params(format!("the command cannot be read: {why}")))?,
            (None, None) => Vec::new(),
        };
        if !self.expand_argument_vars {
            return Ok(split);
        }
        let lookup = |name: &str| host.variable(name);
        Ok(split.iter().map(|word| words::expand(word, &lookup)).collect())
    }

    fn shown(&self) -> String {
        match (&self.argv, &self.line) {
            (Some(argv), _) => argv.join(" "),
            (None, line) => line.clone().unwrap_or_default(),
        }
    }

    fn is_guarded(&self) -> bool {
        self.creates.is_some() || self.removes.is_some() || self.unless.is_some() || self.onlyif.is_some()
    }

    fn check(&self, name: &str) -> Diagnostics {
        let mut found = Diagnostics::default();
        let is_empty = self.line.as_ref().is_none_or(|l| l.trim().is_empty())
            && self.argv.as_ref().is_none_or(Vec::is_empty);
        if is_empty {
            found.push(Diagnostic::error("missing-parameter", format!("{name}: there is no command to run")));
        }
        if self.line.is_some() && self.argv.is_some() {
            found.push(Diagnostic::error(
                "parameter-value",
                format!("{name}: give the command by `cmd` or by `argv`, not both"),
            ));
        }
        found
    }

    fn folder(&self, program: Program) -> Program {
        match &self.chdir {
            Some(folder) => program.folder(folder),
            None => program,
        }
    }

    fn observe(&self, host: &Host) -> Result<Seen<State>, Fault> {
        if let Some(folder) = &self.chdir
            && host.stat_followed(folder)?.is_none()
        {
            return Ok(Seen::Blocked(Thing::Path(folder.clone())));
        }
        let full = |path: &str| match &self.chdir {
            Some(folder) if !path.starts_with('/') => format!("{}/{path}", folder.trim_end_matches('/')),
            _ => path.to_owned(),
        };
        let idle = |idle| Ok(Seen::Now(State { idle: Some(idle), ran: None }));
        if let Some(path) = &self.creates
            && exists(host, &full(path))?
        {
            return idle(Idle::Exists(path.clone()));
        }
        if let Some(path) = &self.removes
            && !exists(host, &full(path))?
        {
            return idle(Idle::Absent(path.clone()));
        }
        for (name, line, is_idle_when) in [("unless", &self.unless, true), ("onlyif", &self.onlyif, false)] {
            let Some(line) = line else { continue };
            let program = self.folder(Program::new("/bin/sh").args(["-c", line.as_str()]));
            if host.look(program)?.exit.is_success() == is_idle_when {
                return idle(Idle::Guard(name));
            }
        }
        Ok(Seen::Now(State { idle: None, ran: None }))
    }

    fn run(&self, program: Program, host: &mut HostMut<'_>) -> Result<State, Fault> {
        let mut program = self.folder(program).keep(OUTPUT_KEPT_BYTES);
        if let Some(text) = &self.stdin {
            let newline = if self.stdin_add_newline { "\n" } else { "" };
            program = program.stdin(format!("{text}{newline}"));
        }
        let name = program.name();
        let start = clock::wall();
        let output = match host.run(program.clone()) {
            Ok(output) => output,
            Err(fault) if matches!(fault.kind, FaultKind::Missing(_)) => {
                return Err(self.not_started(fault, &name));
            }
            Err(fault) => return Err(fault),
        };
        let end = clock::wall();
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            if self.strip_empty_ends { text.trim_end_matches(['\r', '\n']).to_owned() } else { text }
        };
        let stamp = |time: jiff::Timestamp| time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string();
        let micros = output.took.as_micros();
        let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
        let ran = Ran {
            rc: output.exit.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            start: stamp(start),
            end: stamp(end),
            delta: format!("{}:{:02}:{:02}.{rest:06}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        };
        Ok(State { idle: None, ran: Some(ran) })
    }

    fn not_started(&self, mut fault: Fault, name: &str) -> Fault {
        fault.output.insert("rc".into(), 2_i64.into());
        fault.output.insert("cmd".into(), self.shown().into());
        fault.output.insert("stdout".into(), "".into());
        fault.output.insert("stderr".into(), "".into());
        let msg = format!("[Errno 2] No such file or directory: b'{name}'");
        fault.output.insert("msg".into(), msg.into());
        fault
    }

    fn output(&self, cmd: Cmd, state: &State) -> Output {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        let shown = match &state.idle {
            Some(Idle::Exists(path)) => format!("skipped, since {path} exists"),
            Some(Idle::Absent(path)) => format!("skipped, since {path} does not exist"),
            Some(Idle::Guard(name)) => format!("skipped, since `{name}` says so"),
            None => String::new(),
        };
        let ran = state.ran.as_ref();
        let stdout = ran.map_or(shown, |r| r.stdout.clone());
        let stderr = ran.map(|r| r.stderr.clone()).unwrap_or_default();
        Output {
            cmd,
            rc: ran.map_or(0, |r| r.rc),
            stdout_lines: lines(&stdout),
            stderr_lines: lines(&stderr),
            stdout,
            stderr,
            start: ran.map(|r| r.start.clone()),
            end: ran.map(|r| r.end.clone()),
            delta: ran.map(|r| r.delta.clone()),
            msg: state.idle.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// Turns a bad exit status into a failure that carries what the program said.
    fn judge(&self, cmd: Cmd, state: State) -> Result<State, Fault> {
        let Some(ran) = state.ran.as_ref().filter(|r| r.rc != 0) else { return Ok(state) };
        let words = if ran.stderr.trim().is_empty() { &ran.stdout } else { &ran.stderr };
        let all: Vec<String> = words.lines().map(str::to_owned).collect();
        let mut fault =
            Fault::refused(format!("non-zero return code: `{}` ended with {}", self.shown(), ran.rc));
        fault.lines = all.get(all.len().saturating_sub(12)..).unwrap_or_default().to_vec();
        let output = Output { msg: "non-zero return code".to_owned(), ..self.output(cmd, &state) };
        if let Ok(json) = serde_json::to_value(&output)
            && let Some(dict) = crate::expr::Value::from_json(&json).as_dict()
        {
            *fault.output = dict.clone();
        }
        fault.output.insert("changed".into(), true.into());
        Err(fault)
    }

    fn opaque(&self) -> Option<String> {
        let why = "a command cannot be foreseen; `creates`, `removes`, `unless` or `onlyif` would tell";
        (!self.is_guarded()).then(|| why.to_owned())
    }
}

/// Returns whether a path is there; the last part may be a pattern.
fn exists(host: &Host, path: &str) -> Result<bool, Fault> {
    if !path.contains(['*', '?']) {
        return Ok(host.stat(path)?.is_some());
    }
    let at = Path::new(path);
    let (Some(folder), Some(pattern)) = (at.parent(), at.file_name()) else { return Ok(false) };
    if host.stat_followed(folder)?.is_none() {
        return Ok(false);
    }
    let pattern = pattern.to_string_lossy();
    Ok(host.list(folder)?.iter().any(|name| matches(&pattern, &name.to_string_lossy())))
}

/// Tells whether a name fits a pattern of `*` and `?`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // The row of the table for the pattern read so far: whether it fits each beginning of the name.
    let mut fits = vec![false; name.len() + 1];
    if let Some(first) = fits.first_mut() {
        *first = true;
    }
    for sign in pattern {
        let mut next = vec![false; name.len() + 1];
        let mut reached = false;
        for index in 0..=name.len() {
            let here = fits.get(index).copied().unwrap_or(false);
            reached |= here;
            let before = index.checked_sub(1).and_then(|i| fits.get(i).copied().zip(name.get(i)));
            let is_fit = match sign {
                '*' => reached,
                '?' => before.is_some_and(|(fit, _)| fit),
                sign => before.is_some_and(|(fit, char)| fit && *char == sign),
            };
            if let Some(slot) = next.get_mut(index) {
                *slot = is_fit;
            }
        }
        fits = next;
    }
    fits.last().copied().unwrap_or(false)
}

impl Module for Command {
    const NAME: &'static str = "command";
    const KIND: Kind = Kind::Action;
    const OBSERVES_WITH: &'static [&'static str] = &["/bin/sh -c"];
    const FREE_FORM: bool = true;
    type Params = Params;
    type State = State;
    type Change = Run;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        let mut found = params.check("command");
        if let (None, Some(line)) = (&params.argv, &params.line)
            && let Err(why) = words::split(line)
        {
            found.push(Diagnostic::error(
                "parameter-value",
                format!("command: the line cannot be split into words: {why}"),
            ));
        }
        found
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        params.observe(host)
    }

    fn diff(params: &Params, found: &State) -> Vec<Run> {
        if found.idle.is_some() { Vec::new() } else { vec![Run(params.shown())] }
    }

    fn apply(
        params: &Params,
        _found: &State,
        _changes: &[Run],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let words = params.words(host)?;
        let mut rest = words.iter();
        let program = Program::new(rest.next().cloned().unwrap_or_default()).args(rest);
        let state = params.run(program, host)?;
        params.judge(Cmd::Words(words), state)
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Run]) -> Output {
        let words = match (&params.argv, &params.line) {
            (Some(argv), _) => argv.clone(),
            (None, line) => words::split(line.as_deref().unwrap_or_default()).unwrap_or_default(),
        };
        params.output(Cmd::Words(words), after.unwrap_or(before))
    }

    fn opaque(params: &Params) -> Option<String> {
        params.opaque()
    }

    fn makes(params: &Params) -> Vec<Thing> {
        params.creates.iter().map(|p| Thing::Path(p.clone())).collect()
    }
}

impl Module for Shell {
    const NAME: &'static str = "shell";
    const KIND: Kind = Kind::Action;
    const OBSERVES_WITH: &'static [&'static str] = &["/bin/sh -c"];
    const FREE_FORM: bool = true;
    type Params = Params;
    type State = State;
    type Change = Run;
    type Output = Output;

    fn check(params: &Params) -> Diagnostics {
        params.check("shell")
    }

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        params.observe(host)
    }

    fn diff(params: &Params, found: &State) -> Vec<Run> {
        if found.idle.is_some() { Vec::new() } else { vec![Run(params.shown())] }
    }

    fn apply(
        params: &Params,
        _found: &State,
        _changes: &[Run],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        let shell = params.executable.as_deref().unwrap_or("/bin/sh");
        if !process::is_installed(shell) && host.is_live() {
            return Err(Fault::missing(Thing::Program(shell.to_owned())));
        }
        let line = params.shown();
        let state = params.run(Program::new(shell).args(["-c", line.as_str()]), host)?;
        params.judge(Cmd::Line(line), state)
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Run]) -> Output {
        params.output(Cmd::Line(params.shown()), after.unwrap_or(before))
    }

    fn opaque(params: &Params) -> Option<String> {
        params.opaque()
    }

    fn makes(params: &Params) -> Vec<Thing> {
        params.creates.iter().map(|p| Thing::Path(p.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        assert!(matches("*.conf", "a.conf") && matches("a?c*", "abcd") && matches("*", ""));
        assert!(!matches("*.conf", "a.confx") && !matches("a?c", "ac"));
    }
}
