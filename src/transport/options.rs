//! How a host is reached: what the inventory's variables and the command line say, as one [`Target`].
//!
//! Pure apart from [`Target::from_vars`] asking for the home folder and the login name that defaults rest on, and from
//! `~/.ssh/config`, which is read for each host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::secret::Secret;
use crate::transport::host_keys::Checking;

mod openssh;

/// How long a TCP connection, the SSH handshake and the login shell may each take, unless the user says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle connection is probed, and how many probes may stay unanswered: a host that vanished is noticed
/// within a minute, and a host under load is not taken for one.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const ALIVE_COUNT_MAX: usize = 4;

/// What goes between the controller and a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    Ssh,
    /// The controller is the host.
    Local,
}

/// Everything that a connection needs to know.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name in the inventory, for messages.
    pub name: String,
    pub connection: Connection,
    /// The name or address to connect to.
    pub address: String,
    pub port: u16,
    pub user: String,
    /// Tried in this order, before the agent's other keys and the default files.
    pub key_files: Vec<PathBuf>,
    /// Nothing but `key_files`.
    pub identities_only: bool,
    /// The socket of the SSH agent.
    pub agent: Option<PathBuf>,
    /// Tried after the keys.
    pub password: Option<Secret>,
    pub checking: Checking,
    /// The first is added to.
    pub known_hosts: Vec<PathBuf>,
    pub connect_timeout: Duration,
    pub alive_interval: Duration,
    pub alive_count_max: usize,
    pub become_password: Option<Secret>,
}

/// What the command line, the environment and ansible.cfg say for all hosts.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// `--user`.
    pub user: Option<String>,
    /// `--private-key`.
    pub private_key: Option<PathBuf>,
    /// `--ssh-common-args`, added to each host's.
    pub ssh_common_args: Option<String>,
    /// `--connection`: `ssh` or `local`.
    pub connection: Option<String>,
    /// `host_key_checking = False` of ansible.cfg or its environment variable: new keys are accepted and stored.
    pub accept_host_keys: bool,
    /// `--timeout`.
    pub connect_timeout: Option<Duration>,
    /// The password that `--ask-become-pass` or a file gave.
    pub become_password: Option<Secret>,
}

/// What cannot be honored, or is no value of an option.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    #[error("`{option}` ({source_of}) cannot be honored: {why}")]
    Unsupported { name: String, option: String, source_of: String, why: &'static str },
    #[error("`{value}` is no value of `{option}` ({source_of}); expected {expected}")]
    Value { name: String, option: String, value: String, source_of: String, expected: &'static str },
    #[error("`{text}` ({source_of}) ends within quotes")]
    Quotes { name: String, text: String, source_of: String },
}

impl Target {
    /// Puts together what `vars` (the host's variables, rendered as text) and `defaults` say of the host `name`.
    ///
    /// # Errors
    /// An option cannot be honored, or has a value that means nothing.
    pub fn from_vars(
        name: &str,
        vars: &dyn Fn(&str) -> Option<String>,
        defaults: &Defaults,
    ) -> Result<Target, OptionError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
        let login = std::env::var("USER").ok().or_else(|| std::env::var("LOGNAME").ok());
        let me = Around { home, agent, login: login.unwrap_or_else(|| "root".to_owned()) };
        from_vars(name, vars, defaults, &me)
    }
}

/// What the controller's session gives.
struct Around {
    home: Option<PathBuf>,
    agent: Option<PathBuf>,
    login: String,
}

impl Around {
    /// Opens `~` and gives relative paths a meaning: the folder in which the command runs.
    fn path(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(text),
        }
    }
}

fn from_vars(
    name: &str,
    vars: &dyn Fn(&str) -> Option<String>,
    defaults: &Defaults,
    me: &Around,
) -> Result<Target, OptionError> {
    let var = |names: &[&str]| names.iter().find_map(|name| vars(name)).filter(|text| !text.is_empty());
    let home = |file: &str| me.home.as_deref().unwrap_or(Path::new("/")).join(file);
    let mut target = Target {
        name: name.to_owned(),
        connection: connection(name, var(&["ansible_connection"]).as_deref(), defaults)?,
        address: var(&["ansible_host", "ansible_ssh_host"]).unwrap_or_else(|| name.to_owned()),
        port: 22,
        user: me.login.clone(),
        key_files: Vec::new(),
        identities_only: false,
        agent: me.agent.clone(),
        password: var(&["ansible_password", "ansible_ssh_pass", "ansible_ssh_password"]).map(Secret::new),
        checking: if defaults.accept_host_keys { Checking::AcceptNew } else { Checking::Strict },
        known_hosts: vec![
            home(".ssh/known_hosts"),
            home(".ssh/known_hosts2"),
            "/etc/ssh/ssh_known_hosts".into(),
            "/etc/ssh/ssh_known_hosts2".into(),
        ],
        connect_timeout: defaults.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        alive_interval: ALIVE_INTERVAL,
        alive_count_max: ALIVE_COUNT_MAX,
        become_password: var(&["ansible_become_password", "ansible_become_pass", "ansible_sudo_pass"])
            .map(Secret::new)
            .or_else(|| defaults.become_password.clone()),
    };
    openssh::from_config(&mut target, me)?;
    // Free text first, so that the variables made for one purpose win.
    for option in ["ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"] {
        if let Some(text) = var(&[option]) {
            openssh::arguments(&mut target, &text, option, me)?;
        }
    }
    if let Some(text) = &defaults.ssh_common_args {
        openssh::arguments(&mut target, text, "--ssh-common-args", me)?;
    }
    if let Some(user) = &defaults.user {
        target.user.clone_from(user);
    }
    if let Some(user) = var(&["ansible_user", "ansible_ssh_user"]) {
        target.user = user;
    }
    if let Some(text) = var(&["ansible_port", "ansible_ssh_port"]) {
        target.port = port(name, "ansible_port", &text, "a variable of the host")?;
    }
    let key = var(&["ansible_ssh_private_key_file", "ansible_private_key_file"]).map(|text| me.path(&text));
    if let Some(key) = key.or_else(|| defaults.private_key.clone()) {
        target.key_files.insert(0, key);
    }
    if !target.identities_only {
        let usual = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|file| home(&format!(".ssh/{file}")));
        // A usual file need not be there; one that was named must.
        target.key_files.extend(usual.into_iter().filter(|file| file.exists()));
    }
    Ok(target)
}

fn connection(name: &str, var: Option<&str>, defaults: &Defaults) -> Result<Connection, OptionError> {
    let said = var.or(defaults.connection.as_deref());
    match said {
        Some("local" | "ansible.builtin.local") => Ok(Connection::Local),
        // Ansible's implicit localhost.
        None if name == "localhost" => Ok(Connection::Local),
        None | Some("ssh" | "smart" | "paramiko" | "ansible.builtin.ssh") => Ok(Connection::Ssh),
        Some(other) => Err(OptionError::Value {
            name: name.to_owned(),
            option: "ansible_connection".to_owned(),
            value: other.to_owned(),
            source_of: "a variable of the host".to_owned(),
            expected: "`ssh` or `local`",
        }),
    }
}

fn port(name: &str, option: &str, text: &str, source_of: &str) -> Result<u16, OptionError> {
    text.trim().parse().ok().filter(|port| *port != 0).ok_or_else(|| OptionError::Value {
        name: name.to_owned(),
        option: option.to_owned(),
        value: text.to_owned(),
        source_of: source_of.to_owned(),
        expected: "a port from 1 to 65535",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(vars: &[(&str, &str)], defaults: &Defaults) -> Result<Target, OptionError> {
        let lookup = |wanted: &str| {
            vars.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        let me = Around { home: Some("/nonexistent/me".into()), agent: None, login: "me".to_owned() };
        from_vars("db1", &lookup, defaults, &me)
    }

    fn with(args: &str) -> Result<Target, OptionError> {
        target(&[("ansible_ssh_common_args", args)], &Defaults::default())
    }

    #[test]
    fn a_host_without_variables_is_reached_by_its_name_with_verified_keys() {
        let target = target(&[], &Defaults::default()).unwrap();
        assert_eq!((target.address.as_str(), target.port, target.user.as_str()), ("db1", 22, "me"));
        assert_eq!(target.connection, Connection::Ssh);
        assert_eq!(target.checking, Checking::Strict);
        assert_eq!(target.known_hosts.first().unwrap(), Path::new("/nonexistent/me/.ssh/known_hosts"));
    }

    #[test]
    fn variables_of_the_host_win_over_the_command_line_and_old_names_work() {
        let defaults = Defaults {
            user: Some("cli".to_owned()),
            private_key: Some("/k/cli".into()),
            ssh_common_args: Some("-p 2200".to_owned()),
            ..Defaults::default()
        };
        let from_cli = target(&[], &defaults).unwrap();
        assert_eq!((from_cli.user.as_str(), from_cli.port), ("cli", 2200));
        assert_eq!(from_cli.key_files, vec![PathBuf::from("/k/cli")]);

        let vars = [
            ("ansible_ssh_host", "10.0.0.1"),
            ("ansible_ssh_user", "admin"),
            ("ansible_port", "2222"),
            ("ansible_ssh_private_key_file", "~/key"),
        ];
        let from_host = target(&vars, &defaults).unwrap();
        assert_eq!((from_host.address.as_str(), from_host.port), ("10.0.0.1", 2222));
        assert_eq!(from_host.user, "admin");
        assert_eq!(from_host.key_files, vec![PathBuf::from("/nonexistent/me/key")]);
    }

    #[test]
    fn arguments_of_ssh_are_read_as_ssh_reads_them() {
        let target = with(
            "-o UserKnownHostsFile='/lab/known hosts' -oStrictHostKeyChecking=accept-new -i ~/lab -p2201 \
             -o \"ConnectTimeout 3\" -o ControlMaster=auto -C -o IdentitiesOnly=yes",
        );
        let target = target.unwrap();
        assert_eq!(target.checking, Checking::AcceptNew);
        assert_eq!(target.known_hosts.first().unwrap(), Path::new("/lab/known"));
        assert_eq!(target.key_files, vec![PathBuf::from("/nonexistent/me/lab")]);
        assert_eq!(target.port, 2201);
        assert_eq!(target.connect_timeout, Duration::from_secs(3));
        assert!(target.identities_only);
    }

    #[test]
    fn what_cannot_be_honored_is_named_with_where_it_was_said() {
        for args in
            ["-J jump", "-o ProxyJump=jump", "-o ProxyCommand='nc %h'", "-A", "-F x", "-o Ciphers=none"]
        {
            let error = with(args).unwrap_err().to_string();
            assert!(error.contains("ansible_ssh_common_args"), "{error}");
            assert!(error.contains("cannot be honored"), "{error}");
        }
        assert!(with("-o ProxyJump=none").is_ok());
    }

    #[test]
    fn the_users_ssh_config_comes_before_everything_else_and_its_jumps_are_refused_by_line() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let config = "Host db1\n HostName %h.example.com\n User anna\n Port 2200\n Ciphers x\nHost db2\n ProxyJump gate\n";
        let path = home.path().join(".ssh/config");
        crate::sys::files::replace(&path, config.as_bytes(), crate::sys::files::Attributes::default())
            .unwrap();
        let me = Around { home: Some(home.path().to_owned()), agent: None, login: "me".to_owned() };
        let vars = |name: &str| (name == "ansible_user").then(|| "bert".to_owned());

        let target = from_vars("db1", &vars, &Defaults::default(), &me).unwrap();
        assert_eq!((target.address.as_str(), target.port), ("db1.example.com", 2200));
        assert_eq!(target.user, "bert");

        let error = from_vars("db2", &vars, &Defaults::default(), &me).unwrap_err().to_string();
        assert!(error.contains("proxyjump") && error.contains("config:7"), "{error}");
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        assert!(with("-o StrictHostKeyChecking=maybe").unwrap_err().to_string().contains("accept-new"));
        assert!(with("-p abc").unwrap_err().to_string().contains("65535"));
        assert!(matches!(with("-o 'x"), Err(OptionError::Quotes { .. })));
        assert!(target(&[("ansible_connection", "winrm")], &Defaults::default()).is_err());
    }

    #[test]
    fn passwords_do_not_show() {
        let vars = [("ansible_password", "hunter2"), ("ansible_become_password", "hunter3")];
        let target = target(&vars, &Defaults::default()).unwrap();
        assert!(!format!("{target:?}").contains("hunter"));
        assert_eq!(target.become_password.unwrap().reveal(), "hunter3");
    }
}
