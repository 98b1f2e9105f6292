//! Interfaces and addresses, from the kernel's own tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::executor::facts::Facts;
use crate::expr::{Dict, Value};

/// An interface with what is bound to it.
#[derive(Debug, Default)]
struct Interface {
    up: bool,
    loopback: bool,
    promiscuous: bool,
    v4: Vec<(Ipv4Addr, Ipv4Addr, Option<Ipv4Addr>)>,
    v6: Vec<(Ipv6Addr, u32)>,
}

pub(crate) fn add(facts: &mut Facts, root: &Path) {
    let interfaces = interfaces();
    let names: Vec<Value> = interfaces.keys().map(|name| Value::str(name.as_str())).collect();
    facts.put("interfaces", names);
    let outside = |address: &IpAddr| !address.is_loopback();
    let mut all: Vec<IpAddr> = Vec::new();
    for interface in interfaces.values() {
        all.extend(interface.v4.iter().map(|(address, _, _)| IpAddr::V4(*address)).filter(outside));
        all.extend(interface.v6.iter().map(|(address, _)| IpAddr::V6(*address)).filter(outside));
    }
    let texts = |v4: bool| -> Vec<Value> {
        all.iter().filter(|ip| ip.is_ipv4() == v4).map(|ip| Value::str(ip.to_string())).collect()
    };
    facts.put("all_ipv4_addresses", texts(true));
    facts.put("all_ipv6_addresses", texts(false));
    for (name, interface) in &interfaces {
        // Such characters cannot be in a variable's name.
        facts.put(&name.replace(['-', '.', ':'], "_"), describe(root, name, interface));
    }
    facts.put("default_ipv4", default_ipv4(root, &interfaces));
    facts.put("default_ipv6", default_ipv6(root, &interfaces));
}

fn interfaces() -> BTreeMap<String, Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let Ok(list) = getifaddrs() else { return found };
    for entry in list {
        let interface = found.entry(entry.interface_name).or_default();
        interface.up |= entry.flags.contains(InterfaceFlags::IFF_UP);
        interface.loopback |= entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        interface.promiscuous |= entry.flags.contains(InterfaceFlags::IFF_PROMISC);
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map(|mask| mask.ip());
            let broadcast = entry.broadcast.as_ref().and_then(|all| all.as_sockaddr_in()).map(|all| all.ip());
            interface.v4.push((v4.ip(), mask.unwrap_or(Ipv4Addr::BROADCAST), broadcast));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in6()).map(|mask| mask.ip());
            let prefix = mask.map_or(128, |mask| u128::from(mask).leading_ones());
            interface.v6.push((v6.ip(), prefix));
        }
    }
    found
}

fn sys(root: &Path, interface: &str, file: &str) -> Option<String> {
    let path = root.join("sys/class/net").join(interface).join(file);
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn kind(root: &Path, name: &str, interface: &Interface) -> &'static str {
    let has = |file: &str| root.join("sys/class/net").join(name).join(file).exists();
    match () {
        () if interface.loopback => "loopback",
        () if has("bridge") => "bridge",
        () if has("bonding") => "bonding",
        () if has("tun_flags") => "tunnel",
        () => "ether",
    }
}

fn describe_v4((address, mask, broadcast): &(Ipv4Addr, Ipv4Addr, Option<Ipv4Addr>)) -> Dict {
    let network = Ipv4Addr::from(u32::from(*address) & u32::from(*mask));
    let pairs = [
        ("address", address.to_string()),
        ("broadcast", broadcast.map(|all| all.to_string()).unwrap_or_default()),
        ("netmask", mask.to_string()),
        ("network", network.to_string()),
        ("prefix", u32::from(*mask).leading_ones().to_string()),
    ];
    pairs.into_iter().map(|(name, text)| (Arc::from(name), Value::str(text))).collect()
}

fn describe_v6((address, prefix): &(Ipv6Addr, u32)) -> Dict {
    let scope = match address {
        address if address.is_loopback() => "host",
        address if address.is_unicast_link_local() => "link",
        _ => "global",
    };
    let pairs =
        [("address", address.to_string()), ("prefix", prefix.to_string()), ("scope", scope.to_owned())];
    pairs.into_iter().map(|(name, text)| (Arc::from(name), Value::str(text))).collect()
}

fn describe(root: &Path, name: &str, interface: &Interface) -> Dict {
    let mut fact = Dict::new();
    let mut put = |key: &str, value: Value| fact.insert(Arc::from(key), value);
    put("device", Value::str(name));
    put("active", Value::from(interface.up));
    put("type", Value::str(kind(root, name, interface)));
    put("promisc", Value::from(interface.promiscuous));
    if let Some(address) = sys(root, name, "address").filter(|_| !interface.loopback) {
        put("macaddress", Value::str(address));
    }
    if let Some(mtu) = sys(root, name, "mtu").and_then(|text| text.parse::<i64>().ok()) {
        put("mtu", Value::from(mtu));
    }
    if let Some((first, rest)) = interface.v4.split_first() {
        put("ipv4", Value::from(describe_v4(first)));
        if !rest.is_empty() {
            let rest: Vec<Value> = rest.iter().map(|v4| Value::from(describe_v4(v4))).collect();
            put("ipv4_secondaries", Value::from(rest));
        }
    }
    if !interface.v6.is_empty() {
        let list: Vec<Value> = interface.v6.iter().map(|v6| Value::from(describe_v6(v6))).collect();
        put("ipv6", Value::from(list));
    }
    fact
}

/// Adds what Ansible says of the interface that the default route uses. Empty without such a route.
fn default_ipv4(root: &Path, interfaces: &BTreeMap<String, Interface>) -> Dict {
    let routes = std::fs::read_to_string(root.join("proc/net/route")).unwrap_or_default();
    let Some((name, gateway)) = default_route_v4(&routes) else { return Dict::new() };
    let Some(interface) = interfaces.get(&name) else { return Dict::new() };
    let Some(first) = interface.v4.first() else { return Dict::new() };
    let mut fact = describe_v4(first);
    fact.insert(Arc::from("gateway"), Value::str(gateway.to_string()));
    fact.insert(Arc::from("interface"), Value::str(name.as_str()));
    fact.insert(Arc::from("alias"), Value::str(name.as_str()));
    add_device(root, &name, interface, &mut fact);
    fact
}

fn default_ipv6(root: &Path, interfaces: &BTreeMap<String, Interface>) -> Dict {
    let routes = std::fs::read_to_string(root.join("proc/net/ipv6_route")).unwrap_or_default();
    let Some((name, gateway)) = default_route_v6(&routes) else { return Dict::new() };
    let Some(interface) = interfaces.get(&name) else { return Dict::new() };
    let global = interface.v6.iter().find(|(address, _)| !address.is_unicast_link_local());
    let Some(address) = global.or(interface.v6.first()) else { return Dict::new() };
    let mut fact = describe_v6(address);
    fact.insert(Arc::from("gateway"), Value::str(gateway.to_string()));
    fact.insert(Arc::from("interface"), Value::str(name.as_str()));
    add_device(root, &name, interface, &mut fact);
    fact
}

fn add_device(root: &Path, name: &str, interface: &Interface, fact: &mut Dict) {
    fact.insert(Arc::from("type"), Value::str(kind(root, name, interface)));
    if let Some(address) = sys(root, name, "address") {
        fact.insert(Arc::from("macaddress"), Value::str(address));
    }
    if let Some(mtu) = sys(root, name, "mtu").and_then(|text| text.parse::<i64>().ok()) {
        fact.insert(Arc::from("mtu"), Value::from(mtu));
    }
}

/// Finds the default route with the lowest metric in `/proc/net/route`, whose numbers are in the host's byte order.
fn default_route_v4(routes: &str) -> Option<(String, Ipv4Addr)> {
    let mut best: Option<(u32, String, Ipv4Addr)> = None;
    for line in routes.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, _, _, _, metric, mask, ..] = fields.as_slice() else { continue };
        if *destination != "00000000" || *mask != "00000000" {
            continue;
        }
        let metric = metric.parse().unwrap_or(u32::MAX);
        let Ok(gateway) = u32::from_str_radix(gateway, 16) else { continue };
        let gateway = Ipv4Addr::from(gateway.to_ne_bytes());
        if best.as_ref().is_none_or(|(least, _, _)| metric < *least) {
            best = Some((metric, (*name).to_owned(), gateway));
        }
    }
    best.map(|(_, name, gateway)| (name, gateway))
}

/// Finds the default route with the lowest metric in `/proc/net/ipv6_route`.
fn default_route_v6(routes: &str) -> Option<(String, Ipv6Addr)> {
    let zero = "0".repeat(32);
    let mut best: Option<(u32, String, Ipv6Addr)> = None;
    for line in routes.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, gateway, metric, _, _, _, name] = fields.as_slice() else { continue };
        // Hosts without a route have one to nowhere, on the loopback.
        if *destination != zero || *name == "lo" {
            continue;
        }
        let metric = u32::from_str_radix(metric, 16).unwrap_or(u32::MAX);
        let Ok(gateway) = u128::from_str_radix(gateway, 16) else { continue };
        if best.as_ref().is_none_or(|(least, _, _)| metric < *least) {
            best = Some((metric, (*name).to_owned(), Ipv6Addr::from(gateway)));
        }
    }
    best.map(|(_, name, gateway)| (name, gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_is_taken() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            wlan0 00000000 0100A8C0 0003 0 0 600 00000000 0 0 0\n\
            eth0 00000000 0100000A 0003 0 0 100 00000000 0 0 0\n\
            eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(default_route_v4(routes), Some(("eth0".into(), Ipv4Addr::new(10, 0, 0, 1))));
        assert_eq!(default_route_v4("Iface\n"), None);
    }

    #[test]
    fn an_ipv6_route_to_nowhere_is_none() {
        let zero = "0".repeat(32);
        let line = |gateway: &str, name: &str| {
            format!("{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003 {name}\n")
        };
        assert_eq!(default_route_v6(&line(&zero, "lo")), None);
        let gateway = "fe800000000000000000000000000001";
        assert_eq!(
            default_route_v6(&line(gateway, "eth0")),
            Some(("eth0".into(), "fe80::1".parse().unwrap()))
        );
    }

    #[test]
    fn an_address_is_described_with_its_network() {
        let fact = describe_v4(&(Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(255, 255, 255, 0), None));
        assert_eq!(fact.get("network").unwrap().as_str(), Some("10.1.2.0"));
        assert_eq!(fact.get("prefix").unwrap().as_str(), Some("24"));
    }
}
