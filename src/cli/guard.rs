//! `keddah guard`: the process between an agent and its Postgres.

use std::path::PathBuf;

use crate::cli::exit::Exit;
use crate::guard::detach::{Side, split};
use crate::guard::place::Place;
use crate::guard::protocol::{self, WatchdogDriver, WatchdogMode, WatchdogSettings};
use crate::guard::serve::{Options, serve};
use crate::guard::succession::{self, Birth};

/// Guard one data directory: start, promote and stop its Postgres for the agent, and let nothing writable outlive the lease.
///
/// The agent starts it; under systemd it is a unit of its own. Example:
///
///   keddah guard --data-dir /var/lib/postgresql/17/main --bin-dir /usr/lib/postgresql/17/bin
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data directory; it need not exist yet
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// The folder of Postgres's programs
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,

    /// The server's program in that folder
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    bin_name: String,

    /// Listen here instead of in $RUNTIME_DIRECTORY, /run/keddah or --socket-dir; the lock lies beside it
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,

    /// The folder of Postgres's sockets, used where neither $RUNTIME_DIRECTORY nor /run/keddah can be
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    socket_dir: PathBuf,

    /// Use a watchdog device until the agent says otherwise: off, automatic, required
    #[arg(long, value_name = "MODE", value_parser = watchdog_mode, default_value = "off")]
    watchdog: WatchdogMode,

    /// The watchdog device
    #[arg(long, value_name = "FILE", default_value = "/dev/watchdog")]
    watchdog_device: String,

    /// Seconds after which an unfed watchdog resets the host
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    watchdog_timeout: u32,

    /// Only tell which versions this program speaks, if the other arguments are understood
    #[arg(long)]
    check: bool,

    /// Go on in the background once it listens
    #[arg(long)]
    detach: bool,

    /// Where the background side writes its lines
    #[arg(long, value_name = "FILE", requires = "detach")]
    log: Option<PathBuf>,
}

fn watchdog_mode(text: &str) -> Result<WatchdogMode, String> {
    match text {
        "off" => Ok(WatchdogMode::Off),
        "automatic" => Ok(WatchdogMode::Automatic),
        "required" => Ok(WatchdogMode::Required),
        _ => Err("expected off, automatic or required".to_owned()),
    }
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    if args.check {
        println!("protocol {}, succession {}", protocol::VERSION, succession::VERSION);
        return Ok(Exit::Ok);
    }
    // Before anything else opens descriptors.
    let birth = Birth::of_this_process();
    let place = match &args.socket {
        Some(socket) => Place::at(socket),
        None => Place::of(&args.data_dir, &args.socket_dir),
    };
    let watchdog = (args.watchdog != WatchdogMode::Off).then(|| WatchdogSettings {
        mode: args.watchdog,
        device: args.watchdog_device.clone(),
        driver: WatchdogDriver::Default,
        timeout_s: args.watchdog_timeout,
        timeout_s_max: args.watchdog_timeout,
    });
    let server = args.bin_dir.join(&args.bin_name);
    let options = Options { data_dir: args.data_dir, server, place, watchdog };
    // A successor is in the background already if that was wanted.
    if !args.detach || matches!(birth, Birth::Successor(_)) {
        serve(&options, birth, || ())?;
        return Ok(Exit::Ok);
    }
    match split(args.log.as_deref())? {
        Side::Caller(true) => Ok(Exit::Ok),
        Side::Caller(false) => anyhow::bail!(
            "the guard did not come up; its reason is in {}",
            args.log.map_or("no log: name one with --log".to_owned(), |log| log.display().to_string())
        ),
        Side::Background(ready) => {
            serve(&options, birth, || ready.tell())?;
            Ok(Exit::Ok)
        }
    }
}
