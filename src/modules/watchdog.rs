//! Gives the guard a watchdog device, where there can be one.
//!
//! # What it manages
//! The device's owner, now and after a boot (a udev rule); the kernel module behind it, now and after a boot.
//!
//! # Example
//! ```yaml
//! watchdog:
//!   mode: automatic
//!   device: /dev/watchdog
//!   owner: postgres
//! ```
//!
//! # What it observes
//! The device, whether this is a container, whether the kernel has the module.
//!
//! # What it never does
//! It never opens the device: whoever opens a watchdog must go on feeding it. A container has no watchdog of its own:
//! `automatic` says so and goes on, `required` fails.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::attributes::{Owned, Wanted};
use crate::modules::text_file::{Desired, TextFile, Writing};
use crate::modules::{Fault, FaultKind, Host, HostMut, Kind, Module, Seen, Thing, attributes::ModeSpec};
use crate::sys::files::FileKind;
use crate::sys::process::Program;

const MODULES_LOAD: &str = "/etc/modules-load.d/keddah-watchdog.conf";
const UDEV_RULE: &str = "/etc/udev/rules.d/61-keddah-watchdog.rules";

#[derive(Debug)]
pub struct Watchdog;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Off,
    Automatic,
    Required,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    mode: Mode,
    #[serde(default = "device")]
    device: String,
    /// Who runs the guard.
    #[serde(default = "owner")]
    owner: String,
    /// The kernel module to load where there is no device.
    #[serde(default = "module")]
    module: String,
}

fn device() -> String {
    "/dev/watchdog".to_owned()
}

fn owner() -> String {
    "postgres".to_owned()
}

fn module() -> String {
    "softdog".to_owned()
}

/// What this host has.
#[derive(Debug)]
enum Device {
    /// Not asked for.
    Off,
    There(Owned),
    /// None, and the kernel's module could make one.
    Loadable,
    /// None, and none can be had; the reason.
    Impossible(String),
}

#[derive(Debug)]
pub struct State {
    device: Device,
    wanted: Wanted,
    load: Option<TextFile>,
    rule: Option<TextFile>,
}

#[derive(Debug)]
pub enum Change {
    Load(String),
    LoadAtBoot(String),
    Give { device: String, owner: String },
    RuleAtBoot { device: String, owner: String },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Load(module) => write!(f, "load the kernel module {module}"),
            Change::LoadAtBoot(module) => write!(f, "load the kernel module {module} at boot"),
            Change::Give { device, owner } => write!(f, "{device} belongs to {owner}"),
            Change::RuleAtBoot { device, owner } => write!(f, "{device} belongs to {owner} after a boot"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Output {
    device: String,
    available: bool,
    msg: String,
}

impl Params {
    fn rule(&self) -> Desired {
        let name = self.device.trim_start_matches("/dev/");
        let text = format!(
            "# Made by keddah, module watchdog.\nKERNEL==\"{name}\", OWNER=\"{}\", MODE=\"0600\"\n",
            self.owner
        );
        Desired::new(text.into_bytes())
    }

    fn load(&self) -> Desired {
        Desired::new(format!("# Made by keddah, module watchdog.\n{}\n", self.module).into_bytes())
    }
}

/// Says what kind of container this is, if it is one.
fn container(host: &Host) -> Result<Option<String>, Fault> {
    if let Some(kind) = host.read_if_there("/run/systemd/container")? {
        return Ok(Some(String::from_utf8_lossy(&kind).trim().to_owned()));
    }
    for (mark, kind) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")] {
        if host.stat(mark)?.is_some() {
            return Ok(Some(kind.to_owned()));
        }
    }
    Ok(None)
}

/// Whether the running kernel's modules are on this host.
fn has_module(host: &Host, module: &str) -> Result<bool, Fault> {
    let release = host.read_if_there("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    let release = String::from_utf8_lossy(&release).trim().to_owned();
    let list = host.read_if_there(format!("/lib/modules/{release}/modules.dep"))?.unwrap_or_default();
    let file = format!("/{module}.ko");
    Ok(String::from_utf8_lossy(&list).lines().any(|l| l.split(':').next().is_some_and(|p| p.contains(&file))))
}

impl Module for Watchdog {
    const NAME: &'static str = "watchdog";
    const COLLECTION: &'static str = "keddah.cluster";
    const KIND: Kind = Kind::Resource;
    type Params = Params;
    type State = State;
    type Change = Change;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let off = |device| State { device, wanted: Wanted::default(), load: None, rule: None };
        if params.mode == Mode::Off {
            return Ok(Seen::Now(off(Device::Off)));
        }
        let found = host.stat_followed(&params.device)?.filter(|s| s.kind != FileKind::Directory);
        let device = match found {
            Some(stat) => Device::There(Owned::from(&stat)),
            None => match container(host)? {
                Some(kind) => Device::Impossible(format!(
                    "{} is not here, and this host is a container ({kind}), which has no watchdog of its own",
                    params.device
                )),
                None if has_module(host, &params.module)? => Device::Loadable,
                None => Device::Impossible(format!(
                    "{} is not here, and the running kernel has no module `{}` on this host",
                    params.device, params.module
                )),
            },
        };
        if let Device::Impossible(why) = &device {
            if params.mode == Mode::Required {
                let fault = Fault::new(FaultKind::NotOnThisHost, why.clone());
                return Err(fault.hint("`mode: automatic` goes on without a watchdog, and says so"));
            }
            return Ok(Seen::Now(off(device)));
        }
        let wanted = match Wanted::resolve(None, Some(&params.owner), None, host)? {
            Ok(wanted) => wanted,
            Err(missing) => return Ok(Seen::Blocked(missing)),
        };
        let mode = ModeSpec::Bits(0o644);
        let look = |path: &str| -> Result<Option<TextFile>, Fault> {
            Ok(match TextFile::observe(path, Some(&mode), None, None, host)? {
                Seen::Now(file) => Some(file),
                // A host without the folder has no udev or systemd that would read the file.
                Seen::Blocked(_) | Seen::Unknowable(_) => None,
            })
        };
        let is_ours = host.stat(format!("/sys/module/{}", params.module))?.is_some()
            || matches!(device, Device::Loadable);
        let load = if is_ours { look(MODULES_LOAD)? } else { None };
        Ok(Seen::Now(State { device, wanted, load, rule: look(UDEV_RULE)? }))
    }

    fn diff(params: &Params, found: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        let give = || Change::Give { device: params.device.clone(), owner: params.owner.clone() };
        match &found.device {
            Device::Off | Device::Impossible(_) => return changes,
            Device::Loadable => changes.extend([Change::Load(params.module.clone()), give()]),
            Device::There(owned) if !found.wanted.differences(owned, false).is_empty() => {
                changes.push(give());
            }
            Device::There(_) => {}
        }
        if found.load.as_ref().is_some_and(|f| !f.diff(Some(&params.load())).is_empty()) {
            changes.push(Change::LoadAtBoot(params.module.clone()));
        }
        if found.rule.as_ref().is_some_and(|f| !f.diff(Some(&params.rule())).is_empty()) {
            changes.push(Change::RuleAtBoot { device: params.device.clone(), owner: params.owner.clone() });
        }
        changes
    }

    fn apply(
        params: &Params,
        found: &State,
        changes: &[Change],
        host: &mut HostMut<'_>,
    ) -> Result<State, Fault> {
        for change in changes {
            match change {
                Change::Load(module) => {
                    host.must(
                        Program::new("modprobe").args(["--", module.as_str()]),
                        "the kernel module could not be loaded",
                    )?;
                }
                Change::LoadAtBoot(_) => {
                    if let Some(file) = &found.load {
                        file.write(Some(&params.load()), Writing::default(), host)?;
                    }
                }
                Change::Give { device, .. } => {
                    if let Some(stat) = host.stat_followed(device)? {
                        found.wanted.give(device, &Owned::from(&stat), stat.kind, host)?;
                    }
                }
                Change::RuleAtBoot { .. } => {
                    if let Some(file) = &found.rule {
                        file.write(Some(&params.rule()), Writing::default(), host)?;
                    }
                }
            }
        }
        Watchdog::observe(params, host)?.reached()
    }

    fn output(params: &Params, before: &State, after: Option<&State>, _changes: &[Change]) -> Output {
        let (available, msg) = match &after.unwrap_or(before).device {
            Device::Off => (false, "no watchdog is asked for".to_owned()),
            Device::There(_) => (true, String::new()),
            Device::Loadable => (true, "its kernel module is not loaded".to_owned()),
            Device::Impossible(why) => (false, why.clone()),
        };
        Output { device: params.device.clone(), available, msg }
    }

    fn makes(params: &Params) -> Vec<Thing> {
        if params.mode == Mode::Off { Vec::new() } else { vec![Thing::Path(params.device.clone())] }
    }
}
