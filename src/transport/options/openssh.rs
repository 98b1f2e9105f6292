//! Options as OpenSSH spells them, in arguments of `ssh` and in `~/.ssh/config`, put into a [`Target`].

use std::time::Duration;

use crate::transport::host_keys::Checking;
use crate::transport::ssh_config::{self, Setting};

use super::{Around, OptionError, Target, port};

/// Options of `~/.ssh/config` that decide whether and how a host is reached; the rest of that file is passed over.
const FROM_SSH_CONFIG: &[&str] = &[
    "connecttimeout",
    "globalknownhostsfile",
    "hostname",
    "identitiesonly",
    "identityagent",
    "identityfile",
    "port",
    "proxycommand",
    "proxyjump",
    "serveralivecountmax",
    "serveraliveinterval",
    "stricthostkeychecking",
    "user",
    "userknownhostsfile",
];

/// Options of `ssh -o` that change nothing here: ours is one connection that multiplexes by itself and never prompts.
const WITHOUT_EFFECT: &[&str] = &[
    "addkeystoagent",
    "addressfamily",
    "batchmode",
    "checkhostip",
    "compression",
    "connectionattempts",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "forwardx11",
    "gssapiauthentication",
    "gssapidelegatecredentials",
    "hashknownhosts",
    "kbdinteractiveauthentication",
    "challengeresponseauthentication",
    "loglevel",
    "numberofpasswordprompts",
    "passwordauthentication",
    "preferredauthentications",
    "pubkeyauthentication",
    "requesttty",
    "tcpkeepalive",
    "updatehostkeys",
    "verifyhostkeydns",
    "visualhostkey",
];

const NO_JUMP: &str =
    "jump hosts are not supported; run keddah where the host can be reached directly, e.g. on the jump host";
const NO_SUCH: &str = "it is not among the options that keddah's own SSH client knows";

pub(super) fn from_config(target: &mut Target, me: &Around) -> Result<(), OptionError> {
    let Some(home) = &me.home else { return Ok(()) };
    let asked = target.address.clone();
    for Setting { option, value, place } in ssh_config::settings(&home.join(".ssh/config"), &asked) {
        if FROM_SSH_CONFIG.contains(&option.as_str()) {
            setting(target, &option, &value.replace("%h", &asked), &place, me)?;
        }
    }
    Ok(())
}

/// Reads arguments as one would give them to `ssh`.
pub(super) fn arguments(
    target: &mut Target,
    text: &str,
    source_of: &str,
    me: &Around,
) -> Result<(), OptionError> {
    let words = words(text).ok_or_else(|| OptionError::Quotes {
        name: target.name.clone(),
        text: text.to_owned(),
        source_of: source_of.to_owned(),
    })?;
    let unsupported = |option: &str, why| OptionError::Unsupported {
        name: target.name.clone(),
        option: option.to_owned(),
        source_of: source_of.to_owned(),
        why,
    };
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            return Err(unsupported(&word, "it is no option"));
        };
        let mut chars = letters.chars();
        while let Some(letter) = chars.next() {
            if "CqvATtx46nKk".contains(letter) {
                if letter == 'A' {
                    return Err(unsupported("-A", "agent forwarding is not supported"));
                }
                continue;
            }
            let attached: String = chars.by_ref().collect();
            let value = if attached.is_empty() { words.next().unwrap_or_default() } else { attached };
            settings.push(match letter {
                'o' => split_setting(&value),
                'i' => ("identityfile".to_owned(), value),
                'p' => ("port".to_owned(), value),
                'l' => ("user".to_owned(), value),
                'S' => ("controlpath".to_owned(), value),
                'J' => return Err(unsupported("-J", NO_JUMP)),
                _ => return Err(unsupported(&format!("-{letter}"), NO_SUCH)),
            });
        }
    }
    for (option, value) in settings {
        setting(target, &option, &value, source_of, me)?;
    }
    Ok(())
}

fn split_setting(text: &str) -> (String, String) {
    let at = text.find(|c: char| c == '=' || c.is_whitespace());
    match at {
        Some(at) => {
            let (option, value) = text.split_at(at);
            (option.to_owned(), value.trim_start_matches(|c: char| c == '=' || c.is_whitespace()).to_owned())
        }
        None => (text.to_owned(), String::new()),
    }
}

fn setting(
    target: &mut Target,
    option: &str,
    value: &str,
    source_of: &str,
    me: &Around,
) -> Result<(), OptionError> {
    let bad = |expected| OptionError::Value {
        name: target.name.clone(),
        option: option.to_owned(),
        value: value.to_owned(),
        source_of: source_of.to_owned(),
        expected,
    };
    let unsupported = |why| OptionError::Unsupported {
        name: target.name.clone(),
        option: option.to_owned(),
        source_of: source_of.to_owned(),
        why,
    };
    let value_lower = value.to_ascii_lowercase();
    let seconds = || value.parse().map(Duration::from_secs).map_err(|_| bad("a number of seconds"));
    match option.to_ascii_lowercase().as_str() {
        "stricthostkeychecking" => {
            target.checking = match value_lower.as_str() {
                "yes" | "ask" | "true" => Checking::Strict,
                "accept-new" => Checking::AcceptNew,
                "no" | "off" | "false" => Checking::Off,
                _ => return Err(bad("`yes`, `no`, `ask` or `accept-new`")),
            };
        }
        "userknownhostsfile" => {
            let global = target.known_hosts.iter().filter(|path| path.starts_with("/etc")).cloned();
            target.known_hosts = value.split_whitespace().map(|path| me.path(path)).chain(global).collect();
        }
        "globalknownhostsfile" => {
            target.known_hosts.retain(|path| !path.starts_with("/etc/ssh"));
            target.known_hosts.extend(value.split_whitespace().map(|path| me.path(path)));
        }
        "identityfile" => target.key_files.push(me.path(value)),
        "identitiesonly" => target.identities_only = matches!(value_lower.as_str(), "yes" | "true"),
        "identityagent" => {
            target.agent = match value {
                "none" => None,
                "SSH_AUTH_SOCK" => me.agent.clone(),
                path => Some(me.path(path)),
            };
        }
        "user" => value.clone_into(&mut target.user),
        "hostname" => value.clone_into(&mut target.address),
        "port" => target.port = port(&target.name, option, value, source_of)?,
        "connecttimeout" => target.connect_timeout = seconds()?,
        "serveraliveinterval" => target.alive_interval = seconds()?,
        "serveralivecountmax" => {
            target.alive_count_max = value.parse().map_err(|_| bad("a number"))?;
        }
        "proxyjump" | "proxycommand" if value_lower == "none" => {}
        "proxyjump" | "proxycommand" => return Err(unsupported(NO_JUMP)),
        "forwardagent" if matches!(value_lower.as_str(), "no" | "false") => {}
        "forwardagent" => return Err(unsupported("agent forwarding is not supported")),
        known if WITHOUT_EFFECT.contains(&known) => {}
        _ => return Err(unsupported(NO_SUCH)),
    }
    Ok(())
}

/// Splits a text as a shell does: blanks, single and double quotes, backslashes. None when quotes stay open.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' if c == '"' => word.push(chars.next()?),
                        other => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}
