//! Throwaway hosts on this machine: real systemd and sshd in containers, on a bridge of their own.
//!
//! Start at [`Lab::up`]. [`layout`] says which hosts, [`image`] makes what they boot from, [`network`] connects them,
//! [`host`] boots and kills one, [`fault`] cuts and heals, [`inventory`] writes what `apply` reads.
//!
//! Invariant: everything made here carries the lab's name, is written to its state file before it is made, and is
//! taken away by [`Lab::down`]; nothing that the lab did not make is touched.

pub mod fault;
pub mod group;
pub mod host;
pub mod image;
pub mod inventory;
pub mod layout;
pub mod look;
pub mod network;
pub mod program;
pub mod requirements;
pub mod state;

use std::path::{Path, PathBuf};

use layout::Layout;
use state::State;

use crate::sys::files::{self, FileError};
use crate::sys::process::ProcessError;

/// What can go wrong while hosts are made, broken or taken away.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("there is no lab `{name}` on this machine; `keddah lab up --name {name}` makes it")]
    NoSuchLab { name: String },
    #[error("there is no host `{host}` in lab `{lab}`; it has {known}")]
    NoSuchHost { host: String, lab: String, known: String },
    #[error("host `{host}` of lab `{lab}` is not running; `keddah lab heal` starts killed hosts again")]
    NotRunning { host: String, lab: String },
    #[error("`{name}` is no name for a lab: use 1 to 9 of a-z, 0-9 and `-`, beginning with a letter")]
    BadName { name: String },
    #[error("{path}: {message}")]
    BadLayout { path: PathBuf, message: String },
    #[error("hosts cannot be made here: {missing}")]
    Impossible { missing: String },
    #[error("lab `{name}` exists already with another layout; `keddah lab down --name {name}` takes it away")]
    OtherLayout { name: String },
    #[error("all of 10.89.1.0/24 to 10.89.250.0/24 are in use on this machine")]
    NoSubnet,
    #[error("host `{host}` did not answer on port 22 within {seconds} s; its console says:\n{console}")]
    NoAnswer { host: String, seconds: u64, console: String },
    #[error("another keddah works on lab `{name}` just now")]
    Busy { name: String },
    #[error("`{command}` failed ({status}): {said}")]
    Program { command: String, status: String, said: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{path} is not a state file of a lab: {source}")]
    BadState { path: PathBuf, source: serde_json::Error },
}

/// Where the labs of this machine keep their hosts and state.
const LABS: &str = "/var/lib/keddah/lab";

/// A lab of this machine, by name.
#[derive(Debug, Clone)]
pub struct Lab {
    name: String,
    folder: PathBuf,
}

impl Lab {
    /// Names a lab; nothing is looked up or made.
    ///
    /// # Errors
    /// The name would not fit into interface names (15 bytes in all).
    pub fn named(name: &str) -> Result<Lab, LabError> {
        let fits = (1..=9).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !fits {
            return Err(LabError::BadName { name: name.to_owned() });
        }
        Ok(Lab { name: name.to_owned(), folder: Path::new(LABS).join(name) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads what is known of this lab.
    ///
    /// # Errors
    /// There is no such lab, or its state file cannot be read.
    pub fn state(&self) -> Result<State, LabError> {
        State::read(&self.folder)?.ok_or_else(|| LabError::NoSuchLab { name: self.name.clone() })
    }

    /// Makes the lab's hosts and waits until all of them answer; what an interrupted run left is used or replaced.
    ///
    /// `say` is told what is done next. Returns the state with all hosts running.
    ///
    /// # Errors
    /// This machine cannot make hosts, a program failed, or a host did not boot.
    pub fn up(
        &self,
        layout: &Layout,
        inventory: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<State, LabError> {
        requirements::install(say)?;
        let _lock = state::lock(&self.folder, &self.name)?;
        let image = image::ensure(say)?;
        let state = match State::read(&self.folder)? {
            Some(state) if state.layout() == *layout => state,
            Some(_) => return Err(LabError::OtherLayout { name: self.name.clone() }),
            None => State::plan(&self.name, layout, &image, inventory)?,
        };
        state.write(&self.folder)?;
        network::up(&state)?;
        inventory::write(&state, &self.folder)?;
        say("booting the hosts");
        for spec in &state.hosts {
            host::start(&state, spec, &self.folder)?;
        }
        for spec in &state.hosts {
            host::wait_for_sshd(spec, &self.folder)?;
        }
        Ok(state)
    }

    /// Takes away everything that this lab made: processes, mounts, links, rules, files.
    ///
    /// # Errors
    /// There is no such lab, or something refuses to go.
    pub fn down(&self) -> Result<(), LabError> {
        let state = self.state()?;
        let _lock = state::lock(&self.folder, &self.name)?;
        state.hosts.iter().try_for_each(|spec| host::shoot(&state, spec))?;
        state.hosts.iter().try_for_each(|spec| host::stop(&state, spec))?;
        for spec in &state.hosts {
            group::remove(&host::machine(&state, spec));
            host::unmount(spec, &self.folder)?;
        }
        network::down(&state)?;
        inventory::remove(&state)?;
        files::remove(&self.folder)?;
        network::restore_forwarding(Path::new(LABS))?;
        Ok(files::remove(&state::lock_file(&self.folder))?)
    }

    /// Returns the folder of the lab's hosts, logs and state.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit_into_an_interface_name_are_taken() {
        assert!(Lab::named("demo").is_ok());
        for bad in ["", "Demo", "1a", "much-too-long", "a/b", "../x"] {
            assert!(Lab::named(bad).is_err(), "{bad}");
        }
    }
}
