//! The one resolver: literals, then `/etc/hosts`, then DNS as `/etc/resolv.conf` says.
//!
//! A static binary must not ask glibc: its `getaddrinfo` loads NSS libraries of another version. Everything that
//! connects to a name (SSH, etcd, Postgres, HTTP) asks here. Nothing is cached: both files are read for each
//! question, so that an entry which a playbook has just written counts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};

const HOSTS_FILE: &str = "/etc/hosts";

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Neither `/etc/hosts` nor DNS knows the name.
    #[error(
        "`{0}` is neither in /etc/hosts nor in DNS; check its spelling, or set `ansible_host` to an address"
    )]
    NotFound(String),
    /// DNS gave no answer, so whether the name exists is not known.
    #[error("`{name}` is not in /etc/hosts, and DNS did not answer ({why}); check /etc/resolv.conf")]
    NoAnswer { name: String, why: String },
    /// `/etc/hosts` exists and cannot be read.
    #[error("cannot read {HOSTS_FILE} to find `{name}`")]
    HostsFile {
        name: String,
        #[source]
        source: io::Error,
    },
    /// The text cannot be the name of a host.
    #[error("`{0}` is not a host name")]
    Malformed(String),
    /// The calling thread could not be given a runtime for the question.
    #[error("cannot make a runtime to ask DNS for `{name}`")]
    Runtime {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Returns the addresses of `host` in the order in which they should be tried, each with `port`. Never empty.
///
/// `host` may be an address literal (IPv6 also in brackets and with a `%scope`). Names of `/etc/hosts` win over
/// DNS; `localhost` is the loopback even where neither says so.
///
/// # Errors
/// The name is not known, or DNS did not answer within the time that `/etc/resolv.conf` gives it.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    if let Some(found) = without_dns(host, port)? {
        return Ok(found);
    }
    from_dns(host, port).await
}

/// Does what [`resolve`] does for callers that have no runtime: modules, and the executor's children.
///
/// # Errors
/// As [`resolve`]. Must not be called from a task of a runtime, which it would block.
pub fn resolve_blocking(host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    if let Some(found) = without_dns(host, port)? {
        return Ok(found);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| NameError::Runtime { name: host.to_owned(), source })?;
    runtime.block_on(from_dns(host, port))
}

/// Returns this host's fully qualified name: the first name with a dot that `/etc/hosts` gives for `short`;
/// otherwise `short` itself.
pub fn qualified(short: &str) -> String {
    let hosts = std::fs::read_to_string(HOSTS_FILE).unwrap_or_default();
    hosts
        .lines()
        .filter_map(entry)
        .find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(short)))
        .and_then(|(_, names)| names.into_iter().find(|name| name.contains('.')))
        .unwrap_or(short)
        .to_owned()
}

fn without_dns(host: &str, port: u16) -> Result<Option<Vec<SocketAddr>>, NameError> {
    if let Some(address) = literal(host, port) {
        return Ok(Some(vec![address]));
    }
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(NameError::Malformed(host.to_owned()));
    }
    let hosts = read_hosts(Path::new(HOSTS_FILE))
        .map_err(|source| NameError::HostsFile { name: host.to_owned(), source })?;
    let mut found = in_hosts(&hosts, host);
    if found.is_empty() && is_localhost(host) {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    Ok((!found.is_empty()).then(|| found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()))
}

fn read_hosts(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (address, scope) = bare.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok())?;
    Some(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)))
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Reads one line of `/etc/hosts`: its address, its canonical name and the aliases.
fn entry(line: &str) -> Option<(IpAddr, Vec<&str>)> {
    let text = line.split('#').next()?;
    let mut words = text.split_whitespace();
    let address = words.next()?.split('%').next()?.parse().ok()?;
    Some((address, words.collect()))
}

fn in_hosts(hosts: &str, wanted: &str) -> Vec<IpAddr> {
    let wanted = wanted.strip_suffix('.').unwrap_or(wanted);
    let mut found = Vec::new();
    for (address, names) in hosts.lines().filter_map(entry) {
        if names.iter().any(|name| name.eq_ignore_ascii_case(wanted)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

async fn from_dns(host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    let no_answer = |why: String| NameError::NoAnswer { name: host.to_owned(), why };
    let mut builder = TokioResolver::builder_tokio().map_err(|error| no_answer(error.to_string()))?;
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let resolver = builder.build();
    if resolver.config().name_servers().is_empty() {
        return Err(no_answer("/etc/resolv.conf names no server".to_owned()));
    }
    let answer = resolver.lookup_ip(host).await.map_err(|error| {
        if error.is_no_records_found() || error.is_nx_domain() {
            NameError::NotFound(host.to_owned())
        } else {
            no_answer(error.to_string())
        }
    })?;
    // IPv4 first, as hosts of this field are addressed; a caller tries the rest in turn.
    let mut addresses: Vec<SocketAddr> = answer.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if addresses.is_empty() {
        return Err(NameError::NotFound(host.to_owned()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "\
127.0.0.1\tlocalhost
# 10.0.0.9 db1
10.0.0.1 db1.example.com db1  # the first
fe80::1%eth0 scoped
10.0.0.2 DB2
fd00::2 db2
not an address
";

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn hosts_file_knows_aliases_whatever_their_case_and_every_address() {
        assert_eq!(in_hosts(HOSTS, "db1"), ips(&["10.0.0.1"]));
        assert_eq!(in_hosts(HOSTS, "db1.example.com."), ips(&["10.0.0.1"]));
        assert_eq!(in_hosts(HOSTS, "db2"), ips(&["10.0.0.2", "fd00::2"]));
        assert_eq!(in_hosts(HOSTS, "db3"), ips(&[]));
    }

    #[tokio::test]
    async fn literals_need_no_file_and_no_server() {
        assert_eq!(resolve("10.1.2.3", 22).await.unwrap(), vec!["10.1.2.3:22".parse().unwrap()]);
        assert_eq!(resolve("::1", 22).await.unwrap(), vec!["[::1]:22".parse().unwrap()]);
        assert_eq!(resolve("[fd00::7]", 2222).await.unwrap(), vec!["[fd00::7]:2222".parse().unwrap()]);
        let scoped = resolve("fe80::1%lo", 22).await.unwrap();
        assert!(matches!(scoped.as_slice(), [SocketAddr::V6(address)] if address.scope_id() == 1));
    }

    #[tokio::test]
    async fn localhost_is_the_loopback() {
        let found = resolve("localhost", 80).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn texts_that_are_no_names_are_refused_before_anything_is_asked() {
        assert!(matches!(resolve("a b", 1).await, Err(NameError::Malformed(_))));
        assert!(matches!(resolve("", 1).await, Err(NameError::Malformed(_))));
    }
}
