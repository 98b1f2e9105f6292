//! The lab's bridge, its way out, and the rules that cut hosts from each other.

use std::net::Ipv4Addr;
use std::path::Path;

use super::LabError;
use super::program::{self, run};
use super::state::State;
use crate::sys::files::{self, Attributes};

/// Holds the value of `net.ipv4.ip_forward` from before the first lab, so that the last `down` can put it back.
const FORWARDING_BEFORE: &str = "forwarding-before";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Returns the nft table of a lab; the bridge family has one of the same name for the cuts.
pub(super) fn table(state: &State) -> String {
    format!("keddah_lab_{}", state.name.replace('-', "_"))
}

/// Returns the first free N of 10.89.N.0/24, beginning at one that follows from the lab's name.
pub(super) fn free_subnet(name: &str) -> Result<u8, LabError> {
    let taken = program::output("ip", &["-4", "-o", "addr", "show"])?;
    let start = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (0..250u32)
        .map(|step| u8::try_from((start.wrapping_add(step)) % 250 + 1).unwrap_or(1))
        .find(|n| !taken.contains(&format!(" 10.89.{n}.")))
        .ok_or(LabError::NoSubnet)
}

/// Makes the bridge, lets its hosts reach the world through this machine, and clears all cuts.
pub(super) fn up(state: &State) -> Result<(), LabError> {
    let (bridge, gateway, subnet) = (state.bridge(), state.gateway(), state.subnet);
    if program::output("ip", &["-o", "link", "show", &bridge]).is_err() {
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
    }
    run("ip", &["addr", "replace", &format!("{gateway}/24"), "dev", &bridge])?;
    run("ip", &["link", "set", &bridge, "up"])?;
    let table = table(state);
    program::input(
        "nft",
        &["-f", "-"],
        &format!(
            "table ip {table} {{}}\ndelete table ip {table}\n\
             table ip {table} {{ chain out {{ type nat hook postrouting priority srcnat; \
             ip saddr 10.89.{subnet}.0/24 oifname != \"{bridge}\" masquerade; }}; }}\n\
             table bridge {table} {{}}\ndelete table bridge {table}\n\
             table bridge {table} {{ chain cuts {{ type filter hook forward priority filter; }}; }}\n"
        ),
    )?;
    allow_forwarding(Path::new(super::LABS))
}

fn allow_forwarding(labs: &Path) -> Result<(), LabError> {
    let before = files::read(Path::new(FORWARDING))?;
    if before.trim_ascii() == b"1" {
        return Ok(());
    }
    files::replace(&labs.join(FORWARDING_BEFORE), &before, Attributes::default())?;
    Ok(files::write_kernel_file(Path::new(FORWARDING), "1")?)
}

/// Puts `net.ipv4.ip_forward` back when the last lab is gone.
pub(super) fn restore_forwarding(labs: &Path) -> Result<(), LabError> {
    let another =
        std::fs::read_dir(labs).is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()));
    let note = labs.join(FORWARDING_BEFORE);
    if another || !note.exists() {
        return Ok(());
    }
    files::write_kernel_file(Path::new(FORWARDING), "0")?;
    Ok(files::remove(&note)?)
}

/// Takes the bridge and the rules away; what is gone already is no error.
pub(super) fn down(state: &State) -> Result<(), LabError> {
    let table = table(state);
    program::input(
        "nft",
        &["-f", "-"],
        &format!(
            "table ip {table} {{}}\ndelete table ip {table}\ntable bridge {table} {{}}\ndelete table bridge {table}\n"
        ),
    )?;
    let bridge = state.bridge();
    if program::output("ip", &["-o", "link", "show", &bridge]).is_ok() {
        run("ip", &["link", "delete", &bridge])?;
    }
    Ok(())
}

/// Drops all that `from` sends to `to`.
pub(super) fn cut(state: &State, from: Ipv4Addr, to: Ipv4Addr) -> Result<(), LabError> {
    let table = table(state);
    let rule = format!(
        "add rule bridge {table} cuts ip saddr {from} ip daddr {to} drop\n\
         add rule bridge {table} cuts arp saddr ip {from} arp daddr ip {to} drop\n"
    );
    program::input("nft", &["-f", "-"], &rule)
}

/// Forgets all cuts.
pub(super) fn heal(state: &State) -> Result<(), LabError> {
    run("nft", &["flush", "chain", "bridge", &table(state), "cuts"])
}

/// Returns how many directions between hosts are cut.
pub(super) fn cuts(state: &State) -> Result<usize, LabError> {
    let rules = program::output("nft", &["list", "chain", "bridge", &table(state), "cuts"])?;
    Ok(rules.lines().filter(|line| line.contains("ip saddr") && !line.contains("arp")).count())
}
