//! Looking at a lab and into its hosts.

use std::net::Ipv4Addr;

use super::program;
use super::{Lab, LabError, host, network};

/// A host as `lab status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostStatus {
    pub name: String,
    pub address: Ipv4Addr,
    pub groups: Vec<String>,
    /// Seconds since its boot; `None` if it is dead.
    pub uptime_s: Option<u64>,
}

/// A lab as `lab status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub hosts: Vec<HostStatus>,
    /// Directions between two hosts that are cut.
    pub cuts: usize,
}

impl Lab {
    /// Returns what runs and what is cut.
    ///
    /// # Errors
    /// There is no such lab, or the kernel does not tell.
    pub fn status(&self) -> Result<Status, LabError> {
        let state = self.state()?;
        let mut hosts = Vec::new();
        for spec in &state.hosts {
            let uptime_s = host::uptime(&state, spec)?;
            let (name, groups) = (spec.name.clone(), spec.groups.clone());
            hosts.push(HostStatus { name, address: spec.address, groups, uptime_s });
        }
        Ok(Status { hosts, cuts: network::cuts(&state)? })
    }

    /// Runs a command as root on a host, past its network, with this process's own input and output.
    ///
    /// Returns the command's exit code.
    ///
    /// # Errors
    /// The host is unknown or dead.
    pub fn exec(&self, host: &str, command: &[String]) -> Result<u8, LabError> {
        program::inherited("nsenter", &self.inside(host, command)?)
    }

    /// Runs a command as [`Lab::exec`] does and returns what it printed.
    ///
    /// # Errors
    /// The host is unknown or dead, or the command failed.
    pub fn output(&self, host: &str, command: &[&str]) -> Result<String, LabError> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let arguments = self.inside(host, &command)?;
        program::output("nsenter", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn inside(&self, name: &str, command: &[String]) -> Result<Vec<String>, LabError> {
        let state = self.state()?;
        let leader = host::leader(&state, state.host(name)?)?
            .ok_or_else(|| LabError::NotRunning { host: name.to_owned(), lab: self.name().to_owned() })?;
        let target = leader.to_string();
        let enter =
            ["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"];
        Ok(enter.iter().map(|word| (*word).to_owned()).chain(command.iter().cloned()).collect())
    }
}
