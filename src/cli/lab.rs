//! `keddah lab`: throwaway hosts on this machine.

use std::path::PathBuf;

use crate::cli::exit::Exit;
use crate::lab::layout::Layout;
use crate::lab::{Lab, LabError};

/// Makes throwaway hosts on this machine: real systemd and sshd, in containers (needs root).
///
/// Example: keddah lab up && keddah apply -i inventory/lab playbooks/site.yml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lab's name; several may live side by side.
    #[arg(long, global = true, default_value = "demo")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Makes and boots the hosts, and writes their inventory.
    Up {
        /// This many bare hosts instead of three etcd, three Postgres, two HAProxy and a spare.
        #[arg(long, conflicts_with = "layout")]
        hosts: Option<usize>,
        /// A file that maps host names to lists of groups.
        #[arg(long)]
        layout: Option<PathBuf>,
        /// Where the inventory is written [default: inventory/lab, with -NAME for another name than demo].
        #[arg(long)]
        inventory: Option<PathBuf>,
    },
    /// Takes the lab away and leaves nothing behind.
    Down,
    /// Shows the hosts, their addresses and faults.
    Status,
    /// Runs a command on a host, as root.
    Exec {
        host: String,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Ends hosts (or groups, comma-separated) as a power cut does, until `heal`.
    Kill { hosts: String },
    /// Cuts hosts (or groups) from others, until `heal`.
    Partition {
        hosts: String,
        from: String,
        /// Drop only what the first hosts send to the others.
        #[arg(long)]
        one_way: bool,
    },
    /// Ends all partitions and boots killed hosts again.
    Heal,
    /// Shows the journal of a host, or of one unit on it.
    Logs {
        host: String,
        #[arg(short, long)]
        unit: Option<String>,
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u32,
    },
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    let lab = Lab::named(&args.name)?;
    match args.action {
        Action::Up { hosts, layout, inventory } => {
            let layout = match (hosts, layout) {
                (Some(count), _) => Layout::bare(count)?,
                (None, Some(path)) => Layout::read(&path)?,
                (None, None) => Layout::default(),
            };
            up(&lab, &layout, inventory)?;
        }
        Action::Down => match lab.down() {
            Err(LabError::NoSuchLab { name }) => println!("there is no lab `{name}`; nothing to do"),
            done => done?,
        },
        Action::Status => status(&lab)?,
        Action::Exec { host, command } => return Ok(Exit::Passed(lab.exec(&host, &command)?)),
        Action::Kill { hosts } => lab.kill(&hosts)?,
        Action::Partition { hosts, from, one_way } => lab.partition(&hosts, &from, one_way)?,
        Action::Heal => lab.heal()?,
        Action::Logs { host, unit, lines } => {
            let mut command =
                vec!["journalctl".to_owned(), "--no-pager".to_owned(), format!("--lines={lines}")];
            command.extend(unit.map(|unit| format!("--unit={unit}")));
            return Ok(Exit::Passed(lab.exec(&host, &command)?));
        }
    }
    Ok(Exit::Ok)
}

fn up(lab: &Lab, layout: &Layout, inventory: Option<PathBuf>) -> anyhow::Result<()> {
    let default = || match lab.name() {
        "demo" => PathBuf::from("inventory/lab"),
        name => PathBuf::from(format!("inventory/lab-{name}")),
    };
    let inventory = std::path::absolute(inventory.unwrap_or_else(default))?;
    let state = lab.up(layout, &inventory, &mut |step| eprintln!("{step} ..."))?;
    status(lab)?;
    println!("inventory: {}", state.inventory.display());
    Ok(())
}

fn status(lab: &Lab) -> Result<(), LabError> {
    let status = lab.status()?;
    for host in &status.hosts {
        let groups = host.groups.join(",");
        let up = host.uptime_s.map_or_else(|| "dead".to_owned(), |seconds| format!("up {seconds} s"));
        println!("{:<12} {:<15} {:<10} {up}", host.name, host.address.to_string(), groups);
    }
    if status.cuts > 0 {
        println!("{} directions between hosts are cut; `keddah lab heal` mends them", status.cuts);
    }
    Ok(())
}
