"""What is measured on clusters of three members on loopback, for this tool and for Patroni in turn."""
import os, random, signal, threading, time

import psycopg

from figures import beside, figure
from members import NAMES, Cluster, kill, until

USUAL = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}
# The shortest that each tool allows.
TWENTY = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}
FIVE = {"ttl": 5, "loop_wait": 1, "retry_timeout": 1}
MODES = {
    "asynchronous": {},
    "synchronous": {"synchronous_mode": True},
    "quorum": {"synchronous_mode": "quorum"},
    "strict": {"synchronous_mode": True, "synchronous_mode_strict": True},
}


def dynamic(timing, **more):
    return {**timing, "maximum_lag_on_failover": 16 << 20, "postgresql": {"use_pg_rewind": True}, **more}


class Writes(threading.Thread):
    """One client that inserts without a rest; notes when each insert was acknowledged. `only`: it talks to this member alone."""

    def __init__(self, cluster, only=None):
        super().__init__(daemon=True)
        self.at, self.going, self.only = [], True, only
        self.dsn = cluster.dsn([only] if only else NAMES, "target_session_attrs=read-write")

    def __enter__(self):
        self.start()
        self.more(20)
        return self

    def __exit__(self, *_):
        self.going = False
        self.join(30)

    def run(self):
        while self.going:
            try:
                with psycopg.connect(self.dsn, autocommit=True) as session:
                    while self.going:
                        session.execute("insert into bench values (now())")
                        self.at.append(time.monotonic())
                        time.sleep(0.001)
            except psycopg.Error:
                time.sleep(0.005)

    def more(self, count, limit=150):
        """Waits until this many more inserts were acknowledged."""
        seen = len(self.at)
        until("writes go on", lambda: len(self.at) >= seen + count, limit)

    def gap(self, since):
        """Returns the longest time without an acknowledged insert, in seconds."""
        points = [at for at in self.at if at <= since][-1:] + [at for at in self.at if at > since]
        return max(after - before for before, after in zip(points, points[1:]))


def measure(name):
    for tool in ["keddah", "patroni"]:
        FIGURES[name](name, tool)
    for row in ROWS.get(name, [name]):
        beside(row)


def suffix(tool):
    return "" if tool == "keddah" else "-patroni"


# ── at rest ─────────────────────────────────────────────────────────────────────────────────────────────────────


def idle(_, tool):
    seconds = 90
    with Cluster(tool, dynamic(USUAL)) as cluster:
        time.sleep(30)  # what follows a birth is no rest: checkpoints, first statistics
        pids = {name: cluster.processes(name) for name in NAMES}
        before, requests = {name: sum(map(cpu, pids[name])) for name in NAMES}, cluster.etcd_requests()
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        asked = cluster.etcd_requests() - requests
        used = [(sum(map(cpu, pids[name])) - before[name]) * 3600 / took for name in NAMES]
        memory = [sum(map(pss, pids[name])) for name in NAMES]
    note = "  agent and guard" if tool == "keddah" else "  one process"
    figure(f"agent-rss{suffix(tool)}", "MB", memory, f"{note}, PSS, idle, each of three members")
    figure(f"agent-cpu{suffix(tool)}", "s/h", used, f"{note}, idle, each of three members")
    figure(f"etcd-load{suffix(tool)}", "1/min", [asked * 60 / took], "  messages to etcd, whole cluster, ttl 30")


def cpu(pid):
    """Returns the seconds of CPU that a process and those it has waited for have used."""
    # To the nanosecond: the ticks of `stat` are too coarse for what is at rest.
    own = sum(int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0]) for task in os.listdir(f"/proc/{pid}/task"))
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return own / 1e9 + sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def pss(pid):
    """Returns the megabytes of memory that are this process's share."""
    lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


# ── planned ─────────────────────────────────────────────────────────────────────────────────────────────────────


def switchover(name, tool):
    mode = name.removeprefix("switchover-gap-")
    gaps = []
    with Cluster(tool, dynamic(USUAL, **MODES[mode])) as cluster:
        for _ in range(5):
            leader = cluster.healthy()
            if mode != "asynchronous":
                until("a replica is synchronous", lambda: cluster.synchronous() > 0)
            with Writes(cluster) as writes:
                start = time.monotonic()
                # What pg_stat_replication shows is in etcd a moment later.
                until("a switchover is accepted", lambda: cluster.get(leader, "/switchover", {"leader": leader}, "POST")[0] == 200)
                until("the leader has moved", lambda: cluster.leader() not in (None, leader))
                writes.more(20)
                gaps.append(writes.gap(start))
    figure(f"{name}{suffix(tool)}", "s", gaps, "  planned, under writes, clients beside the servers")


# ── deaths ──────────────────────────────────────────────────────────────────────────────────────────────────────


def failover_host(name, tool):
    words = name.split("-")
    timing = {"30": USUAL, "20": TWENTY, "5": FIVE}[words[2]]
    if tool == "patroni" and timing is FIVE:
        return
    with_etcd, gaps, moments = "etcd" in words, [], random.Random(7)
    with Cluster(tool, dynamic(timing)) as cluster:
        for _ in range(2 if with_etcd else 3):
            leader = cluster.healthy()
            time.sleep(moments.uniform(0, timing["loop_wait"]))
            with Writes(cluster) as writes:
                start = time.monotonic()
                node = cluster.etcd_leader() if with_etcd else None
                if node:
                    cluster.etcds[node].kill()
                    cluster.etcds[node].wait()
                cluster.kill_member(leader)
                until("another leads", lambda: cluster.leader() not in (None, leader), 180)
                writes.more(20)
                gaps.append(writes.gap(start))
            if node:
                cluster.start_etcd(node)
                until("etcd has a leader", lambda: cluster.etcd_leader() is not None)
            cluster.start(leader)
    note = "  the primary's host and etcd's leader die" if with_etcd else "  the primary's host dies"
    figure(f"{name}{suffix(tool)}", "s", gaps, f"{note}, ttl {timing['ttl']}")


def failover_postmaster(name, tool):
    gaps = []
    with Cluster(tool, dynamic(USUAL)) as cluster:
        for _ in range(5):
            leader = cluster.healthy()
            with Writes(cluster) as writes:
                start = time.monotonic()
                kill(cluster.postmaster(leader), signal.SIGKILL)
                writes.more(200)
                gaps.append(writes.gap(start))
    figure(f"{name}{suffix(tool)}", "s", gaps, "  kill -9 of the postmaster")


def agent_killed(name, tool):
    late = {}
    with Cluster(tool, dynamic(TWENTY)) as cluster:
        for number, word in [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")]:
            leader = cluster.healthy()
            old = Writes(cluster, only=leader)
            with old:
                cluster.agents[leader].send_signal(number)
                until("another leads", lambda: cluster.leader() not in (None, leader), 120)
                others = [each for each in NAMES if each != leader]
                until("another accepts writes", lambda: any(cluster.ask(each, "select pg_is_in_recovery()") is False for each in others))
                new = time.monotonic()
                time.sleep(20)
            late[word] = float(sum(at > new for at in old.at))
            cluster.kill_member(leader)
            cluster.start(leader)
    for word, count in late.items():
        figure(f"agent-{word}{suffix(tool)}", "writes", [count], "  acknowledged by the old primary in 20 s beside the new one, ttl 20, no watchdog")


# ── no deaths ───────────────────────────────────────────────────────────────────────────────────────────────────


def needless(name, tool):
    timing = {"30": USUAL, "20": TWENTY, "5": FIVE}[name.rsplit("-", 1)[1]]
    if tool == "patroni" and timing is FIVE:
        return
    with Cluster(tool, dynamic(timing)) as cluster:
        leader = cluster.healthy()
        before = cluster.identity(leader)
        with Writes(cluster) as writes:
            start = time.monotonic()
            for _ in range(3):
                node = cluster.etcd_leader()
                frozen(cluster.etcds[node].pid, 0.4 * timing["ttl"])
                until("etcd has a leader", lambda: cluster.etcd_leader() is not None)
                time.sleep(timing["loop_wait"])
            frozen(cluster.agents[leader].pid, 0.3 * timing["ttl"])
            time.sleep(timing["loop_wait"] * 2)
            writes.more(20)
            gap = writes.gap(start)
        changes = sum(one != other for one, other in zip(before, cluster.identity(cluster.healthy())))
    figure(f"{name}{suffix(tool)}", "changes", [float(changes)],
           f"  of leader, timeline or postmaster; etcd's leader frozen three times for {0.4 * timing['ttl']:.0f} s, then the agent; longest gap {gap:.1f} s")


def frozen(pid, seconds):
    kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    kill(pid, signal.SIGCONT)


FIGURES = {
    "agent-idle": idle,
    **{f"switchover-gap-{mode}": switchover for mode in MODES},
    **{f"failover-host-{ttl}{also}": failover_host for ttl in ["30", "20", "5"] for also in ["", "-etcd"]},
    "failover-postmaster": failover_postmaster,
    "agent-killed": agent_killed,
    **{f"needless-{ttl}": needless for ttl in ["30", "20", "5"]},
}
# Figures that print more than one row.
ROWS = {"agent-idle": ["agent-rss", "agent-cpu", "etcd-load"], "agent-killed": ["agent-killed", "agent-stopped"]}
