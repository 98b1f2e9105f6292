//! From a configuration file to a running loop: everything that happens once.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::agent::act::callbacks::Callbacks;
use crate::agent::act::dcs::DcsActor;
use crate::agent::act::job::{Jobs, PROGRAMS};
use crate::agent::act::postgres::ServerActor;
use crate::agent::act::preflight::Preflights;
use crate::agent::api::access::Access;
use crate::agent::api::commands::Commands;
use crate::agent::api::{self, Api, Door};
use crate::agent::decide::Memory;
use crate::agent::handover::Received;
use crate::agent::instance::Instance;
use crate::agent::lease::gate::Gate;
use crate::agent::lease::keeper::{Before, Keeper};
use crate::agent::look::{dynamic_copy, settings_of, times, warn_of_tags, within_reach};
use crate::agent::mixed::Kinds;
use crate::agent::observe::dcs::{self, DcsRead};
use crate::agent::observe::disk::Volumes;
use crate::agent::observe::postgres::Observer;
use crate::agent::observe::probe::Probe;
use crate::agent::promises::{self, Promises};
use crate::agent::recorder::Recorder;
use crate::agent::shown::Window;
use crate::agent::state::{self, State};
use crate::agent::upgrade::Upgrade;
use crate::agent::view::Peers;
use crate::agent::wake::{self, Signals};
use crate::agent::{Agent, Ended, log};
use crate::cluster::MemberName;
use crate::contract::config::{AgentConfig, CtlSection, RestSection};
use crate::contract::keys::Keys;
use crate::etcd::mirror::Mirror;
use crate::etcd::{Client, Config, TlsFiles};
use crate::guard::client::GuardError;
use crate::guard::place::Place;
use crate::guard::protocol::{Hold, Refusal};
use crate::source::SourceMap;
use crate::sys::files::FileError;
use crate::sys::process::Program;
use crate::sys::service_manager::ServiceManager;
use crate::sys::tls::ClientFiles;
use crate::sys::{children, clock, http, lane, names, successor, tls};

/// The longest that one question to etcd may take. The loop waits for it; the keeper has limits of its own.
const ETCD_LIMIT: Duration = Duration::from_secs(2);

/// Pause between two questions at the start, while nothing can be done without an answer.
const START_RETRY: Duration = Duration::from_secs(1);

/// How long another node of the same name may take to show itself.
const NAME_CHECK: Duration = Duration::from_secs(3);

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read the configuration")]
    Read(#[from] FileError),
    #[error("{0}")]
    Config(String),
    #[error("`{0}` cannot be the name of a member")]
    Name(String),
    #[error("the REST API cannot listen at {address}")]
    Listen {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the REST API cannot speak TLS")]
    Tls(#[from] tls::TlsError),
    #[error("cannot find the address to listen at")]
    Address(#[from] names::NameError),
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("Can't start; there is already a node named '{0}' running")]
    NameTaken(String),
    #[error("another agent (pid {0}) serves this data directory; end it first")]
    SecondAgent(u32),
}

/// The guard as a program of ours, for hosts without a service manager.
#[derive(Debug, Clone)]
pub(super) struct GuardProgram {
    arguments: Vec<String>,
}

impl GuardProgram {
    fn new(instance: &Instance, place: &Place) -> GuardProgram {
        let text = |path: &Path| path.display().to_string();
        let log = place.socket.with_extension("log");
        let arguments = vec![
            "guard".to_owned(),
            "--data-dir".to_owned(),
            text(instance.data_dir()),
            "--bin-dir".to_owned(),
            text(&instance.installation.bin_dir),
            "--bin-name".to_owned(),
            instance.installation.server.clone(),
            "--socket".to_owned(),
            text(&place.socket),
            "--detach".to_owned(),
            "--log".to_owned(),
            text(&log),
        ];
        GuardProgram { arguments }
    }

    /// Starts the guard; returns when it listens, or has told why not.
    pub(super) async fn start(&self) {
        let Ok(program) = std::env::current_exe() else {
            return;
        };
        tracing::info!("the guard is started");
        let run = Program::new(program).args(self.arguments.clone()).limit(Duration::from_secs(10));
        match run.run_async().await {
            Ok(output) if output.exit.is_success() => {}
            Ok(output) => tracing::error!(words = output.last_words(3), "the guard did not start"),
            Err(error) => tracing::error!(error = %crate::sys::chain(&error), "the guard did not start"),
        }
    }
}

/// Reads the configuration file with the environment over it.
///
/// # Errors
/// It cannot be read, or something in it is wrong; all problems are told.
pub(super) fn read_config(path: &Path) -> Result<AgentConfig, StartError> {
    let bytes = crate::sys::files::read(path)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut sources = SourceMap::default();
    let file = sources.add(path, text.as_str());
    let (config, diagnostics) = AgentConfig::parse(file, &text, &|name| std::env::var(name).ok());
    config.ok_or_else(|| StartError::Config(tell(&sources, &diagnostics)))
}

/// Reads the configuration file and says what is wrong with it.
///
/// # Errors
/// It cannot be read, or something in it is wrong; all problems are told.
pub fn check_config(path: &Path) -> Result<(), StartError> {
    read_config(path).map(drop)
}

/// Writes problems one to a line, each with its place.
pub(super) fn tell(sources: &SourceMap, diagnostics: &crate::source::Diagnostics) -> String {
    let line = |diagnostic: &&crate::source::Diagnostic| {
        let place = diagnostic.span.and_then(|span| sources.location(span));
        let place = place.map_or_else(String::new, |place| format!("{place}: "));
        let hint = diagnostic.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("{place}{}{hint}", diagnostic.message)
    };
    diagnostics.sorted().iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Runs the agent until it is told to end.
///
/// The lease, the line to the guard and all of etcd live on the thread that calls this, and nothing there blocks. The loop
/// and the REST API have a thread each: a disk that hangs holds up the one that touches it, and never the lease.
///
/// # Errors
/// The configuration is wrong, a port is taken, or another agent or member is in the way.
pub async fn run(config_path: &Path) -> Result<Ended, StartError> {
    let config = read_config(config_path)?;
    log::start(&config.log);
    clock::print_as_wall();
    warn_of_tags(&config);
    let me: MemberName = config.name.parse().map_err(|_| StartError::Name(config.name.clone()))?;
    let wake = Arc::new(Notify::new());
    let signals = Arc::new(Signals::default());
    wake::listen(&signals, &wake).map_err(StartError::Signals)?;
    successor::unblock_signals();
    let mut handed = Received::take(&config);
    let client = etcd_client(&config);
    let keys = Keys::new(&config.namespace, &config.scope);

    let dynamic = config.bootstrap.dcs.clone();
    let instance = Instance::new(&config, &dynamic);
    let place = Place::of(instance.data_dir(), &instance.socket_dir());
    for stray in children::end_strays(&PROGRAMS[..4], instance.data_dir()) {
        tracing::warn!(program = stray, "a job of an earlier agent is ended");
    }
    let state_path = state::path(&place.socket);
    let before = State::load(&state_path, &config.scope, &config.name);
    if let Some(before) = &before
        && before.cluster_id != 0
    {
        client.pin(before.cluster_id);
    }

    let guard_program = own_guard(&config).then(|| GuardProgram::new(&instance, &place));
    let gate = Gate::new(place.socket.clone(), wake.clone());
    let shown_before = resume_guard(&gate, handed.as_mut()).await;
    reach_guard(&gate, shown_before, guard_program.as_ref()).await?;
    // Renewed from here on, whether etcd answers the first read or not.
    let handed_on = handed.as_ref().and_then(|handed| Some((handed.lease?, handed.times)));
    let handed_on = handed_on.map(|(lease, times)| {
        Keeper::start(client.clone(), gate.clone(), times, Before::Handed(lease), wake.clone())
    });

    let mut manager = ServiceManager::from_environment();
    let Some(read) = first_read(&client, &keys, &signals, &mut manager).await else {
        return Ok(Ended::Clean);
    };
    let warm = client.clone();
    tokio::spawn(async move { warm.warm_up().await });
    let tls = members_client(&config.ctl)?;
    let (access, rules) = watch::channel(Arc::new(Access::of(&config.restapi).await?));
    let adopted = before.as_ref().and_then(|before| before.adoptable(&me, &read.snapshot));
    if handed.is_none() && adopted.is_none() {
        refuse_taken_name(&me, &read, &tls).await?;
    }
    let dynamic = read.config.clone().or_else(|| dynamic_copy(instance.data_dir())).unwrap_or(dynamic);
    let (settings, complaints) = settings_of(&dynamic, &config.section("postgresql"));
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    let mut kinds = Kinds::default();
    let mixed = kinds.are_mixed(&read, &me);
    let settings = within_reach(settings, config.guard_fences, mixed);
    let keeper = match handed_on {
        Some(keeper) => {
            keeper.set_times(times(&settings));
            keeper
        }
        None => {
            let before = adopted.map_or(Before::Nothing, Before::Found);
            Keeper::start(client.clone(), gate.clone(), times(&settings), before, wake.clone())
        }
    };
    tokio::spawn(gate.clone().listen());
    let mirror = Arc::new(Mirror::default());
    wake::watch_keys(&client, &keys, me.as_str(), mirror.clone(), wake.clone());

    let (asks, inbox) = mpsc::channel(16);
    let (shown, window) = watch::channel(None);
    let window = Window { shown: window, keeper: keeper.clone(), gate: gate.clone() };
    let mut instance = Instance::new(&config, &dynamic);
    instance.weigh(None);
    let promises = Promises::load(promises::path(&state_path), settings.ttl);
    let api = Api {
        promises: promises.clone(),
        scope: config.scope.clone(),
        window,
        commands: Commands { client: client.clone(), keys: keys.clone(), asks },
        access: rules,
        probe: Probe::new(&instance),
    };
    let upgrade = Upgrade::new(handed.is_some());
    let (listeners, scheduled) = handed.map_or_else(Default::default, |it| (it.listeners, it.scheduled));
    let door = lane("rest")?.spawn(listen(api, config.restapi.clone(), listeners));
    let door = ended(door.await)?;

    let told = read.shown.reasons.get(me.as_str()).cloned().unwrap_or_default();
    let dcs = DcsActor {
        client: client.clone(),
        keys: keys.clone(),
        keeper: keeper.clone(),
        me: me.clone(),
        bootstrap_config: config.bootstrap.dcs.clone(),
    };
    let agent = Agent {
        config_path: config_path.to_owned(),
        recorder: Recorder::new(client.clone(), &keys, me.as_str(), told),
        server: ServerActor {
            gate: gate.clone(),
            keeper: keeper.clone(),
            preflights: Preflights::new(wake.clone()),
        },
        jobs: Jobs::new(wake.clone()),
        callbacks: Callbacks::default(),
        observer: Observer::default(),
        volumes: Volumes::default(),
        memory: Memory::default(),
        peers: Peers::default(),
        outcomes: Vec::new(),
        answered: None,
        silent_since: None,
        asks: inbox,
        scheduled,
        restart: None,
        reinitialize: None,
        next_request: 0,
        state: before.unwrap_or_default(),
        watchdog_told: None,
        warned_of_solitude: false,
        hurried: false,
        called: true,
        promises,
        lead: None,
        lead_slots: BTreeMap::new(),
        reload_due: false,
        config,
        me,
        instance,
        settings,
        kinds,
        mixed,
        client,
        mirror,
        tls,
        access,
        keys,
        gate,
        keeper,
        dcs,
        read: Arc::new(read),
        dynamic,
        signals,
        manager,
        wake,
        shown,
        state_path,
        door,
        upgrade,
        guard_program,
    };
    Ok(ended(lane("loop")?.spawn(agent.live()).await))
}

fn lane(name: &str) -> Result<tokio::runtime::Handle, StartError> {
    lane::start(name).map_err(StartError::Thread)
}

/// Takes what a task of a lane has come to; its panic goes on here.
fn ended<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Tells whether the agent starts its guard: not under a service manager, in whose unit for the agent Postgres would
/// end with it. `guard.start` says otherwise.
pub(super) fn own_guard(config: &AgentConfig) -> bool {
    let configured = config.section("guard").get("start").and_then(crate::contract::document::boolean);
    configured.unwrap_or_else(|| std::env::var_os("INVOCATION_ID").is_none())
}

/// Goes on with the connection to the guard that was handed over. Returns what the program before had shown there.
async fn resume_guard(gate: &Gate, handed: Option<&mut Received>) -> Option<Hold> {
    let (fd, next_id, hold) = handed?.guard.take()?;
    if let Err(error) = gate.resume(fd, next_id, hold).await {
        tracing::warn!(error = %crate::sys::chain(&error), "the connection to the guard is made anew");
    }
    hold
}

/// Says hello to the guard, and starts it if that is this agent's business. One that is not there yet is waited for in
/// the loop.
async fn reach_guard(
    gate: &Gate,
    hold: Option<Hold>,
    program: Option<&GuardProgram>,
) -> Result<(), StartError> {
    let mut greeting = gate.hold(hold).await;
    if let (Err(GuardError::Connect { .. }), Some(program)) = (&greeting, program) {
        program.start().await;
        greeting = gate.hold(hold).await;
    }
    match greeting {
        Ok(_) => Ok(()),
        Err(error) => match error.refusal() {
            Some(Refusal::Busy { pid }) => Err(StartError::SecondAgent(*pid)),
            Some(_) | None => {
                tracing::warn!(error = %crate::sys::chain(&error), "the guard cannot be reached yet");
                Ok(())
            }
        },
    }
}

/// Returns the client of the configured etcd; nothing is asked of it yet.
pub(super) fn etcd_client(config: &AgentConfig) -> Client {
    Client::new(Config {
        endpoints: config.etcd.hosts.clone(),
        protocol: config.etcd.protocol.clone(),
        user: config.etcd.username.clone(),
        password: config.etcd.password.clone(),
        tls: TlsFiles {
            anchors: config.etcd.cacert.clone(),
            certificate: config.etcd.cert.clone(),
            key: config.etcd.key.clone(),
        },
        limit: ETCD_LIMIT,
    })
}

/// Waits for etcd's first answer; None: the agent was told to end meanwhile.
async fn first_read(
    client: &Client,
    keys: &Keys,
    signals: &Signals,
    manager: &mut ServiceManager,
) -> Option<DcsRead> {
    loop {
        manager.alive(clock::now());
        match client.get_prefix(keys.prefix()).await {
            Ok(range) => return Some(dcs::read(keys, &range)),
            Err(error) => {
                tracing::warn!(error = %crate::sys::chain(&error), "etcd does not answer; nothing is done before it does");
            }
        }
        if signals.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return None;
        }
        tokio::time::sleep(START_RETRY).await;
    }
}

/// Returns what the other members' REST API is asked with.
pub(super) fn members_client(ctl: &CtlSection) -> Result<tls::Client, tls::TlsError> {
    let CtlSection { authentication: _, insecure, cacert, certfile, keyfile, keyfile_password } = ctl;
    let files = ClientFiles {
        key_password: keyfile_password.clone(),
        ..ClientFiles::for_members(cacert.as_ref(), certfile.as_ref(), keyfile.as_ref(), *insecure)
    };
    tls::Client::load(&files)
}

/// Refuses to start beside a running node of the same name.
async fn refuse_taken_name(me: &MemberName, read: &DcsRead, tls: &tls::Client) -> Result<(), StartError> {
    let Some(url) = read.documents.get(me).and_then(|document| document.api_url()) else {
        return Ok(());
    };
    let liveness = url.replace("/patroni", "/liveness");
    match http::send(&http::Request::get(&liveness, NAME_CHECK).over(tls)).await {
        Ok(_) => Err(StartError::NameTaken(me.as_str().to_owned())),
        Err(_) => Ok(()),
    }
}

async fn listen(
    api: Api,
    section: RestSection,
    handed: Vec<(SocketAddr, TcpListener)>,
) -> Result<Door, StartError> {
    let address = section.listen;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for host in address.host.split(',').map(str::trim) {
        match host {
            "*" | "" => addresses.push(SocketAddr::from(([0, 0, 0, 0], address.port))),
            host => addresses.extend(names::resolve(host, address.port).await?.into_iter().take(1)),
        }
    }
    api::serve(api, &addresses, section.request_queue_size, handed)
        .await
        .map_err(|source| StartError::Listen { address: address.to_string(), source })
}
