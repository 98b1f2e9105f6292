//! The hosts themselves: names on another libc, death, cuts, healing.

use std::path::Path;

use crate::Outcome;
use crate::programs;
use crate::world::World;

/// Built here, run on a host with another libc: names come from /etc/hosts.
pub fn names_resolve_on_another_libc(world: &World) -> Outcome {
    let host = "spare1";
    let root = format!("/var/lib/keddah/lab/{}/hosts/{host}/root/usr/local/bin/keddah-test", world.name);
    let binary = std::env::var("KEDDAH").unwrap_or_else(|_| env!("CARGO_BIN_EXE_keddah").to_owned());
    programs::copy(Path::new(&binary), Path::new(&root));
    let known = world.on(host, &["/usr/local/bin/keddah-test", "resolve", "db1"])?;
    let address = world.address("db1")?;
    let localhost = world.on(host, &["/usr/local/bin/keddah-test", "resolve", "localhost"])?;
    match (known.contains(&address), localhost.contains("127.0.0.1")) {
        (true, true) => Ok(()),
        _ => Err(format!("db1 resolves to {known:?} (expected {address}), localhost to {localhost:?}")),
    }
}

pub fn killed_and_cut_hosts_heal(world: &World) -> Outcome {
    let text = |error: keddah::lab::LabError| error.to_string();
    world.lab.partition("spare1", "etcd1", false).map_err(text)?;
    let reach = format!("timeout 3 bash -c 'head -c 4 < /dev/tcp/{}/22'", world.address("etcd1")?);
    if world.sh("spare1", &reach).is_ok() {
        return Err("spare1 reaches etcd1 through the cut".to_owned());
    }
    let other = format!("timeout 3 bash -c 'head -c 4 < /dev/tcp/{}/22'", world.address("etcd2")?);
    world.sh("spare1", &other)?;
    world.lab.kill("spare1").map_err(text)?;
    let dead = world.lab.status().map_err(text)?;
    if dead.hosts.iter().any(|host| host.name == "spare1" && host.uptime_s.is_some()) || dead.cuts != 2 {
        return Err(format!("expected spare1 dead and two cuts, found {dead:?}"));
    }
    world.lab.heal().map_err(text)?;
    world.sh("spare1", &reach).map(|_| ())
}
