//! A kernel's own watchdog, fed by the guard: it resets a host that cannot stop its server, and no other.

use crate::host::Host;
use crate::image::{BIN_DIR, Image};

/// The lease, in seconds.
const TTL: f64 = 6.0;

/// A lease that was in force at some moment lasts at least so long after it: its keepalives come once a second.
const LEFT: f64 = TTL - 1.0;

fn config(ttl: u32, watchdog: &str) -> String {
    format!(
        "scope: demo
name: a
restapi: {{listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}}
etcd3: {{hosts: ['127.0.0.1:2379']}}
bootstrap:
  dcs: {{ttl: {ttl}, loop_wait: 1, retry_timeout: 3}}
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: /var/lib/postgresql/data
  bin_dir: {BIN_DIR}
  pgpass: /run/keddah/pgpass
  use_unix_socket: true
  authentication:
    superuser: {{username: postgres, password: super}}
    replication: {{username: replicator, password: repl}}
  parameters: {{unix_socket_directories: /run/keddah, shared_buffers: 16MB}}
  pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust']
watchdog: {watchdog}
"
    )
}

/// What the scenarios ask of the host's shell.
impl Host {
    fn start_etcd(&mut self) {
        let url = "http://127.0.0.1";
        self.sh(&format!(
            "etcd --data-dir /tmp/etcd --listen-client-urls {url}:2379 --advertise-client-urls {url}:2379 \
             --listen-peer-urls {url}:2380 --initial-advertise-peer-urls {url}:2380 \
             --initial-cluster default={url}:2380 > /tmp/etcd.log 2>&1 &"
        ));
        self.until("nc 127.0.0.1 2379 2> /dev/null");
    }

    /// Starts the agent; its log is on the console.
    fn start_agent(&mut self) {
        self.sh("su -s /bin/sh postgres -c 'exec keddah agent /agent.yml' > /dev/ttyS0 2>&1 & echo $! > /tmp/agent");
    }

    /// Has the agent end as an operator does.
    fn stop_agent(&mut self) {
        self.sh("kill $(cat /tmp/agent)");
        self.until("! kill -0 $(cat /tmp/agent) 2> /dev/null");
    }

    /// Waits until the member leads, and its device is armed.
    fn leads(&mut self) {
        self.until(
            "psql -h /run/keddah -U postgres -qAtc 'CREATE TABLE IF NOT EXISTS w (t int)' 2> /dev/null",
        );
        assert_eq!(self.device("state"), "active");
        assert_eq!(self.device("timeout"), "3", "half of the ttl");
    }

    fn device(&mut self, attribute: &str) -> String {
        self.sh(&format!("cat /sys/class/watchdog/watchdog0/{attribute}"))
    }

    /// Waits until the device is disarmed, and then for longer than it would have waited for food.
    fn is_let_go(&mut self) {
        self.until("grep -qx inactive /sys/class/watchdog/watchdog0/state");
        assert_eq!(self.sh("pidof postgres || true"), "", "only where no server is");
        self.sh("sleep 4");
        let console = self.console();
        assert!(!console.contains("did not stop"), "it was closed by the magic word:\n{console}");
    }

    /// Sends a signal to the agent and to its guard, and has the kernel print it.
    fn signal_both(&mut self, signal: &str) {
        self.sh(&format!("echo '<2>{signal} comes' > /dev/kmsg; kill -{signal} $(pidof keddah)"));
    }
}

/// Asserts that the kernel's watchdog has reset the host before the lease that was in force at the mark could end.
fn reset_in_time(host: &mut Host, mark: &str) {
    host.is_reset();
    let seconds = host.moment("softdog: Initiating system reboot") - host.moment(mark);
    assert!(seconds < LEFT, "reset only {seconds:.1} s after the last keepalive");
}

#[test]
fn a_host_that_is_frozen_is_reset_before_its_lease_ends() {
    let mut host = Host::boot(Image::make(&config(6, "{mode: required}")));
    host.start_etcd();
    host.start_agent();
    host.leads();
    // Longer than the device waits for food.
    host.sh("sleep 4");

    host.signal_both("STOP");

    reset_in_time(&mut host, "STOP comes");
}

#[test]
fn a_host_is_left_alone_where_the_server_is_gone_and_reset_where_its_guard_was_killed() {
    // What is left of the lease after the device's time would not be enough to stop a server in.
    let mut host = Host::boot(Image::make(&config(20, "{mode: required, safety_margin: 1}")));
    host.start_etcd();
    host.start_agent();
    host.shows("the device waits 19 s, but must not wait longer than 18 s for this ttl");
    assert_eq!(host.device("state"), "inactive");
    host.stop_agent();
    host.sh("sed -i 's/ttl: 20/ttl: 6/; s/, safety_margin: 1//' /agent.yml");
    // That start may have come as far as storing for all members what the file said, in etcd or beside the data.
    host.sh("keddah edit-config --etcd 127.0.0.1:2379 --scope demo -s ttl=6 --force || true");
    host.sh("rm -f /var/lib/postgresql/data/patroni.dynamic.json");

    host.start_agent();
    host.leads();
    host.sh("kill -KILL $(cat /tmp/agent)");
    host.is_let_go();

    host.start_agent();
    host.leads();
    host.stop_agent();
    host.is_let_go();

    host.start_agent();
    host.leads();
    host.signal_both("KILL");

    reset_in_time(&mut host, "KILL comes");
    assert!(host.console().contains("watchdog did not stop"), "the guard had it open");
}
