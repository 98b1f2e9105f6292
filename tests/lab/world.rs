//! The lab of this run, and the ways into it.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use keddah::lab::Lab;
use serde_json::Value;

use crate::programs;

#[derive(Clone)]
pub struct World {
    pub name: String,
    pub inventory: PathBuf,
    pub lab: Lab,
    binary: PathBuf,
    logs: PathBuf,
}

/// Most that any single command of a scenario may take on a busy machine.
const COMMAND_LIMIT: &str = "900";

impl World {
    /// Boots a lab of its own beside others of this machine.
    pub fn new() -> Result<World, String> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let binary =
            std::env::var_os("KEDDAH").map_or_else(|| env!("CARGO_BIN_EXE_keddah").into(), PathBuf::from);
        let name = format!("t{}", std::process::id() % 1_000_000);
        let inventory = root.join(format!("target/lab-tests/{name}"));
        let logs = root.join(format!("target/lab-logs/{name}"));
        let lab = Lab::named(&name).map_err(|error| error.to_string())?;
        let world = World { name, inventory, lab, binary, logs };
        let inventory = world.inventory.display().to_string();
        world.succeed(&["lab", "--name", &world.name, "up", "--inventory", &inventory])?;
        Ok(world)
    }

    /// Returns the same lab with a changed copy of the program that is called there.
    pub fn beside(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<World, String> {
        let binary = self.inventory.with_extension(name);
        let failed = |error: std::io::Error| format!("{}: {error}", binary.display());
        let mut program = std::fs::read(&self.binary).map_err(failed)?;
        change(&mut program);
        programs::put(&binary, &program);
        Ok(World { binary, ..self.clone() })
    }

    pub fn down(&self) -> Result<(), String> {
        self.succeed(&["lab", "--name", &self.name, "down"]).map(|_| ())
    }

    /// Runs keddah to its end.
    pub fn keddah(&self, arguments: &[&str]) -> Result<Output, String> {
        Command::new("timeout")
            .arg(COMMAND_LIMIT)
            .arg(&self.binary)
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .map_err(|error| format!("keddah could not be started: {error}"))
    }

    /// Runs keddah and demands an exit code; returns what it printed.
    pub fn exits(&self, code: i32, arguments: &[&str]) -> Result<String, String> {
        let output = self.keddah(arguments)?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(found) if found == code => Ok(text),
            found => Err(format!(
                "keddah {} exits {found:?}, expected {code}; it said:\n{text}",
                arguments.join(" ")
            )),
        }
    }

    pub fn succeed(&self, arguments: &[&str]) -> Result<String, String> {
        self.exits(0, arguments)
    }

    /// Runs a playbook command on this lab's inventory and demands an exit code.
    pub fn playbook(
        &self,
        code: i32,
        command: &str,
        playbook: &str,
        more: &[&str],
    ) -> Result<String, String> {
        let inventory = self.inventory.display().to_string();
        let mut arguments = vec![command, "-i", &inventory, playbook];
        arguments.extend(more);
        self.exits(code, &arguments)
    }

    /// Runs a command as root on a host, past its network.
    pub fn on(&self, host: &str, command: &[&str]) -> Result<String, String> {
        self.lab.output(host, command).map_err(|error| error.to_string())
    }

    pub fn sh(&self, host: &str, script: &str) -> Result<String, String> {
        self.on(host, &["sh", "-c", script])
    }

    pub fn address(&self, host: &str) -> Result<String, String> {
        let state = self.lab.state().map_err(|error| error.to_string())?;
        state.host(host).map(|spec| spec.address.to_string()).map_err(|error| error.to_string())
    }

    /// Returns a variable of the lab's secrets file.
    pub fn secret(&self, name: &str) -> Result<String, String> {
        let path = self.inventory.join("group_vars/all/secrets.yml");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let prefix = format!("{name}: ");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .map(str::to_owned)
            .ok_or_else(|| format!("{} has no {name}", path.display()))
    }

    /// Returns the rows of `keddah list`.
    pub fn members(&self) -> Result<Vec<Value>, String> {
        let inventory = self.inventory.display().to_string();
        let text = self.succeed(&["list", "-i", &inventory, "-f", "json"])?;
        serde_json::from_str(&text)
            .map_err(|error| format!("`keddah list -f json` is no JSON ({error}):\n{text}"))
    }

    /// Waits until there is one leader and two replicas that stream its timeline; returns the leader.
    pub fn healthy(&self, limit: Duration) -> Result<String, String> {
        let mut last = String::new();
        until(limit, || {
            let rows = match self.members() {
                Ok(rows) => rows,
                Err(error) => {
                    last = error;
                    return None;
                }
            };
            last = rows.iter().map(|row| format!("{row}\n")).collect();
            let leaders: Vec<&Value> = rows.iter().filter(|row| row["Role"] == "Leader").collect();
            let timeline = leaders.first().map(|row| &row["TL"])?;
            let streaming =
                rows.iter().filter(|row| row["State"] == "streaming" && row["TL"] == *timeline).count();
            let running = leaders.iter().filter(|row| row["State"] == "running").count();
            (rows.len() == 3 && running == 1 && leaders.len() == 1 && streaming == 2)
                .then(|| leaders[0]["Member"].as_str().map(str::to_owned))
                .flatten()
        })
        .ok_or_else(|| format!("the cluster is not healthy after {} s:\n{last}", limit.as_secs()))
    }

    /// Keeps the journals and the cluster's own view of a failed scenario in one folder.
    pub fn collect(&self, scenario: &str) -> Result<PathBuf, String> {
        let folder = self.logs.join(scenario);
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let state = self.lab.state().map_err(|error| error.to_string())?;
        for host in &state.hosts {
            let journal = self.on(&host.name, &["journalctl", "--no-pager", "-o", "short-precise"]);
            std::fs::write(
                folder.join(format!("{}.journal", host.name)),
                journal.unwrap_or_else(|error| error),
            )
            .map_err(failed)?;
        }
        let inventory = self.inventory.display().to_string();
        for command in ["list", "explain", "history"] {
            let output = self.keddah(&[command, "-i", &inventory])?;
            std::fs::write(folder.join(command), [output.stdout, output.stderr].concat()).map_err(failed)?;
        }
        Ok(folder)
    }
}

/// Looks until `condition` gives something, at most for `limit`.
pub fn until<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
