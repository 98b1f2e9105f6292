//! Runs the cases: check mode, apply, apply again, each over a host that is a temporary folder with scripted programs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keddah::expr::{Data, Dict, Value};
use keddah::modules::{self, Answer, Fault, Host, Kind, Mode, ModuleCall, ModuleReply, SuppliedFile};
use keddah::sys::process::{Exit, Output, ProcessError, Program};
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    params: Json,
    /// Names of parameters that are secrets.
    #[serde(default)]
    secrets: Vec<String>,
    /// What is on the host, by path.
    #[serde(default)]
    found: BTreeMap<String, Entry>,
    /// The file of the controller that comes along.
    supplied: Option<Supplied>,
    #[serde(default)]
    programs: Vec<Script>,
    /// The lines of check mode; of apply, too.
    #[serde(default)]
    changes: Vec<String>,
    /// What is on the host afterwards, by path; `null`: nothing.
    #[serde(default)]
    after: BTreeMap<String, Option<Entry>>,
    /// What `register` must see, at least.
    #[serde(default)]
    output: BTreeMap<String, Json>,
    /// The programs that apply runs to change something, in order.
    #[serde(default)]
    commands: Vec<String>,
    /// What a check mode that cannot tell must say.
    unknown: Option<String>,
    /// What check mode says is missing.
    blocked: Option<String>,
    /// How the failure of apply begins.
    fault: Option<String>,
    /// A step that does something each time.
    #[serde(default)]
    repeats: bool,
    /// The parameters are only judged: what the module talks to is a server, and its tests are in the local tier.
    #[serde(default)]
    only_parameters: bool,
    /// The sentences of a judgement that finds errors.
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    content: Option<String>,
    mode: Option<String>,
    #[serde(default)]
    folder: bool,
    link: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Supplied {
    name: String,
    content: String,
}

/// What a program does. The last one that fits answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// How its command line begins.
    run: String,
    /// Answers only once a program that begins so has run.
    after: Option<String>,
    #[serde(default)]
    rc: i32,
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
    /// Files that it writes.
    #[serde(default)]
    writes: BTreeMap<String, String>,
}

fn fill(text: &str) -> String {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let own = fs::metadata("/proc/self/exe").map_or(0, |m| m.len());
    text.replace("@uid@", &uid.to_string())
        .replace("@gid@", &gid.to_string())
        .replace("@own-size@", &own.to_string())
}

fn place(root: &Path, path: &str, entry: &Entry) {
    let at = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    if let Some(target) = &entry.link {
        std::os::unix::fs::symlink(target, &at).unwrap();
        return;
    }
    if entry.folder {
        fs::create_dir_all(&at).unwrap();
    } else {
        fs::write(&at, fill(entry.content.as_deref().unwrap_or_default())).unwrap();
    }
    let mode = entry.mode.as_deref().unwrap_or(if entry.folder { "0755" } else { "0644" });
    fs::set_permissions(&at, fs::Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap())).unwrap();
}

/// Path, mode, size, time and bytes of all that is below a folder.
fn snapshot(folder: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            let bytes = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            if meta.is_dir() {
                folders.push(entry.path());
            }
            all.push((entry.path(), meta.mode(), meta.mtime_nsec() + meta.mtime() * 1_000_000_000, bytes));
        }
    }
    all.sort();
    all
}

type Ran = Arc<Mutex<Vec<String>>>;

fn host(root: &Path, scripts: &[Script], ran: &Ran) -> Host {
    let (root, scripts, ran) = (root.to_owned(), scripts.to_vec(), ran.clone());
    let folder = root.clone();
    Host::under(root).with_runner(Box::new(move |program: &Program| -> Result<Output, ProcessError> {
        let line = program.argv().join(" ").replace(&folder.display().to_string(), "");
        let mut ran = ran.lock().unwrap();
        let fits = |s: &&Script| {
            line.starts_with(&s.run)
                && s.after.as_ref().is_none_or(|a| ran.iter().any(|r| r.starts_with(a.as_str())))
        };
        let script = scripts.iter().rev().find(fits).cloned();
        ran.push(line);
        let Some(script) = script else { return Err(ProcessError::NotFound { program: program.name() }) };
        for (path, content) in &script.writes {
            place(&folder, path, &Entry { content: Some(content.clone()), ..Entry::default() });
        }
        Ok(Output {
            exit: Exit::Code(script.rc),
            stdout: fill(&script.stdout).into_bytes(),
            stderr: script.stderr.into_bytes(),
            took: Duration::ZERO,
        })
    }))
}

fn call(name: &str, case: &Case, mode: Mode) -> ModuleCall {
    let mut params = Value::from_json(&case.params);
    if let Data::Dict(dict) = &params.data {
        let marked: Dict = dict
            .iter()
            .map(|(k, v)| {
                (
                    k.clone(),
                    if case.secrets.iter().any(|s| **s == **k) { v.clone().secret() } else { v.clone() },
                )
            })
            .collect();
        params = Value::from(marked);
    }
    let mut call = ModuleCall::new(name, params, mode);
    call.diff = true;
    call.verify = true;
    if let Some(Supplied { name, content }) = &case.supplied {
        let bytes: Arc<[u8]> = content.as_bytes().into();
        let sha256 = Sha256::digest(&bytes).into();
        call.files.push(SuppliedFile {
            name: name.clone(),
            sha256,
            size: bytes.len() as u64,
            mode: 0o644,
            bytes: Some(bytes),
        });
    }
    call
}

/// Whether a program only looks, by the beginnings that observing modules may run.
fn only_looks(line: &str) -> bool {
    ["systemctl show", "apt-cache", "dpkg-deb -f", "journalctl", "/bin/sh -c"]
        .iter()
        .any(|l| line.starts_with(l))
}

fn no_secret(case: &Case, what: &str, reply: &ModuleReply) {
    let shown = match reply {
        Ok(outcome) => format!("{:?} {:?} {:?}", outcome.answer, outcome.changes, outcome.diff),
        Err(fault) => format!("{fault} {:?} {:?}", fault.lines, fault.hint),
    };
    for name in &case.secrets {
        if let Some(secret) = case.params[name].as_str() {
            assert!(!shown.contains(secret), "{what}: the secret `{name}` is shown: {shown}");
        }
    }
    if let Ok(outcome) = reply {
        let redacted = Value::from(outcome.output.clone()).redacted();
        for name in &case.secrets {
            if let Some(secret) = case.params[name].as_str() {
                let text = redacted.to_json().to_string();
                assert!(!text.contains(secret), "{what}: the secret `{name}` is in the register: {text}");
            }
        }
    }
}

fn lines(reply: &ModuleReply) -> Vec<String> {
    reply.as_ref().map(|o| o.changes.iter().map(|c| c.text.clone()).collect()).unwrap_or_default()
}

fn fault_text(fault: &Fault) -> String {
    format!("{fault}\n{}", fault.lines.join("\n"))
}

fn run(name: &str, path: &Path) {
    let what = path.display().to_string();
    let text = fs::read_to_string(path).unwrap();
    let mut case: Case = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{what}: {e}"));
    case.changes = case.changes.iter().map(|c| fill(c)).collect();
    let case = case;
    let module = modules::find(name).unwrap_or_else(|| panic!("{what}: no module `{name}`"));
    let found = module.check(&call(name, &case, Mode::Check).params);
    let messages: Vec<String> = found.sorted().iter().map(|d| d.message.clone()).collect();
    assert_eq!(messages, case.errors, "{what}: the judgement of the parameters");
    if case.only_parameters || !case.errors.is_empty() {
        return;
    }

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (path, entry) in &case.found {
        place(root, path, entry);
    }
    let before = snapshot(root);
    let ran = Ran::default();
    let checked = module.run(&call(name, &case, Mode::Check), &mut host(root, &case.programs, &ran));
    no_secret(&case, &what, &checked);
    assert_eq!(snapshot(root), before, "{what}: check mode touched the host");
    let looked = std::mem::take(&mut *ran.lock().unwrap());
    assert!(looked.iter().all(|l| only_looks(l)), "{what}: check mode ran {looked:?}");
    match (&checked, &case.unknown, &case.blocked) {
        (Ok(outcome), Some(why), _) => match &outcome.answer {
            Answer::Unknown(said) => assert!(said.starts_with(why), "{what}: {said}"),
            other => panic!("{what}: check mode claims to know: {other:?}"),
        },
        (Ok(outcome), None, Some(thing)) => match &outcome.answer {
            Answer::Blocked(missing) => assert_eq!(&missing.to_string(), thing, "{what}"),
            other => panic!("{what}: check mode is not blocked: {other:?}"),
        },
        (Ok(outcome), None, None) => {
            assert_eq!(outcome.answer, Answer::Known, "{what}");
            assert_eq!(lines(&checked), case.changes, "{what}: what check mode says");
            assert_eq!(outcome.changed, !case.changes.is_empty(), "{what}");
        }
        (Err(fault), ..) => assert!(case.fault.is_some(), "{what}: check mode failed: {}", fault_text(fault)),
    }

    let applied = module.run(&call(name, &case, Mode::Apply), &mut host(root, &case.programs, &ran));
    no_secret(&case, &what, &applied);
    let commands: Vec<String> =
        std::mem::take(&mut *ran.lock().unwrap()).into_iter().filter(|l| !only_looks(l)).collect();
    match (&applied, &case.fault) {
        (Err(fault), Some(beginning)) => {
            assert!(fault.to_string().starts_with(beginning.as_str()), "{what}: {}", fault_text(fault));
        }
        (Err(fault), None) if case.blocked.is_none() => panic!("{what}: {}", fault_text(fault)),
        (Err(_), None) => {}
        (Ok(_), Some(beginning)) => panic!("{what}: no failure, but `{beginning}` was expected"),
        (Ok(_), None) => {
            if case.unknown.is_none() {
                assert_eq!(lines(&applied), case.changes, "{what}: what apply says");
            }
        }
    }
    if !case.commands.is_empty() || module.kind() == Kind::Resource {
        let own = format!("keddah-{}-", std::process::id());
        let shown: Vec<String> = commands.iter().map(|c| hide_number(c, &own)).collect();
        assert_eq!(shown, case.commands, "{what}: the programs that apply ran");
    }
    expect_files(root, &case, &what);
    let Ok(outcome) = &applied else { return };
    let seen = Value::from(outcome.output.clone()).to_json();
    for (key, value) in &case.output {
        assert_eq!(&seen[key], value, "{what}: `{key}` of {seen}");
    }
    if module.kind() == Kind::Resource && !case.repeats {
        let again =
            module.run(&call(name, &case, Mode::Apply), &mut host(root, &case.programs, &after(&case)));
        match again {
            Ok(outcome) => {
                let text: Vec<String> = outcome.changes.iter().map(|c| c.text.clone()).collect();
                assert!(!outcome.changed, "{what}: a second apply changes {text:?}");
            }
            Err(fault) => panic!("{what}: a second apply failed: {}", fault_text(&fault)),
        }
    }
}

/// The programs that count as run when a host is looked at after the case's apply.
fn after(case: &Case) -> Ran {
    Arc::new(Mutex::new(case.commands.clone()))
}

/// Takes the numbers of a temporary file's name away.
fn hide_number(line: &str, own: &str) -> String {
    match line.split_once(own) {
        Some((before, rest)) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}TEMPORARY{rest}")
        }
        None => line.to_owned(),
    }
}

fn expect_files(root: &Path, case: &Case, what: &str) {
    for (path, entry) in &case.after {
        let at = root.join(path.trim_start_matches('/'));
        let Some(entry) = entry else {
            assert!(at.symlink_metadata().is_err(), "{what}: {path} is still there");
            continue;
        };
        let meta = at.symlink_metadata().unwrap_or_else(|_| panic!("{what}: {path} is not there"));
        if let Some(content) = &entry.content {
            assert_eq!(fs::read_to_string(&at).unwrap(), fill(content), "{what}: {path}");
        }
        if let Some(mode) = &entry.mode {
            assert_eq!(format!("{:04o}", meta.mode() & 0o7777), *mode, "{what}: mode of {path}");
        }
        if let Some(target) = &entry.link {
            assert_eq!(fs::read_link(&at).unwrap(), Path::new(target), "{what}: {path}");
        }
        assert_eq!(meta.is_dir(), entry.folder, "{what}: {path}");
    }
}

#[test]
fn every_case_comes_out_as_written() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modules/cases");
    let (mut count, mut failed) = (0, Vec::new());
    for module in modules::MODULES {
        let folder = cases.join(module.name());
        let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
            .unwrap_or_else(|_| panic!("{}: every module has a folder of cases", folder.display()))
            .flatten()
            .map(|e| e.path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{}: no case", folder.display());
        for path in paths {
            // All that is wrong is told at once; the reasons are printed above.
            let name = module.name();
            if std::panic::catch_unwind(|| run(name, &path)).is_err() {
                failed.push(path);
            }
            count += 1;
        }
    }
    assert!(failed.is_empty(), "{} of {count} cases: {failed:#?}", failed.len());
}
