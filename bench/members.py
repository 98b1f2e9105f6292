"""A cluster of three members on loopback, run by this tool's agent or by Patroni with the same configuration file."""
import json, os, pwd, shutil, signal, socket, subprocess, tempfile, time, urllib.error, urllib.request

import psycopg

from figures import KEDDAH
from reference import VENV

BIN_DIR = "/usr/lib/postgresql/15/bin"
NAMES = ["a", "b", "c"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(what, done, limit=120):
    """Waits for a condition and returns the seconds it took."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > limit:
            raise TimeoutError(f"{what}: not within {limit} s")
        time.sleep(0.02)
    return time.monotonic() - began


class Cluster:
    """`tool` is keddah or patroni; `dynamic` is the stored configuration that the cluster is born with."""

    def __init__(self, tool, dynamic):
        self.tool, self.dynamic = tool, dynamic
        self.user = pwd.getpwnam("postgres")
        self.agents, self.etcds = {}, {}

    def __enter__(self):
        self.root = tempfile.mkdtemp(prefix=f"bench-{self.tool}-", dir="/var/tmp")
        os.chown(self.root, self.user.pw_uid, self.user.pw_gid)
        if self.tool == "keddah":
            shutil.copy(KEDDAH, f"{self.root}/keddah")
        ports = free_ports(12)
        self.client, self.peer = dict(zip(NAMES, ports[0:3])), dict(zip(NAMES, ports[3:6]))
        self.rest, self.postgres = dict(zip(NAMES, ports[6:9])), dict(zip(NAMES, ports[9:12]))
        for name in NAMES:
            self.start_etcd(name)
            with open(f"{self.root}/{name}.yml", "w") as file:
                json.dump(self.config(name), file, indent=1)
        try:
            until("etcd has a leader", lambda: self.etcd_leader() is not None)
            self.start(NAMES[0])
            until("the cluster is made", lambda: self.get(NAMES[0], "/primary")[0] == 200)
            for name in NAMES[1:]:
                self.start(name)
            self.healthy()
            self.run_sql("create table bench (at timestamptz)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in NAMES:
            self.kill_member(name)
        for etcd in self.etcds.values():
            etcd.send_signal(signal.SIGCONT)
            etcd.kill()
            etcd.wait()
        keep = os.environ.get("BENCH_KEEP")
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)

    # ── programs ────────────────────────────────────────────────────────────────────────────────────────────────

    def spawn(self, argv, log):
        env = {"PATH": f"{VENV}/bin:{BIN_DIR}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": self.root, "RUNTIME_DIRECTORY": self.root}
        with open(f"{self.root}/{log}", "ab") as output:
            return subprocess.Popen(argv, user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[], env=env, cwd=self.root,
                                    stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def start_etcd(self, name):
        url = "http://127.0.0.1:{}".format
        members = ",".join(f"{each}={url(self.peer[each])}" for each in NAMES)
        self.etcds[name] = self.spawn(
            ["etcd", "--name", name, "--data-dir", f"{self.root}/etcd-{name}",
             "--listen-client-urls", url(self.client[name]), "--advertise-client-urls", url(self.client[name]),
             "--listen-peer-urls", url(self.peer[name]), "--initial-advertise-peer-urls", url(self.peer[name]),
             "--initial-cluster", members, "--initial-cluster-state", "new", "--log-level", "error", "--unsafe-no-fsync"],
            f"etcd-{name}.log")

    def start(self, name):
        program = [f"{self.root}/keddah", "agent"] if self.tool == "keddah" else [f"{VENV}/bin/patroni"]
        self.agents[name] = self.spawn([*program, f"{self.root}/{name}.yml"], f"{name}.log")

    def config(self, name):
        account = {"username": "postgres", "password": "bench"}
        return {
            "scope": "bench", "name": name,
            "restapi": {"listen": f"127.0.0.1:{self.rest[name]}", "connect_address": f"127.0.0.1:{self.rest[name]}"},
            "etcd3": {"hosts": [f"127.0.0.1:{port}" for port in self.client.values()]},
            "bootstrap": {"dcs": self.dynamic, "initdb": [{"encoding": "UTF8"}, "data-checksums"]},
            "postgresql": {
                "listen": f"127.0.0.1:{self.postgres[name]}", "connect_address": f"127.0.0.1:{self.postgres[name]}",
                "data_dir": f"{self.root}/data-{name}", "bin_dir": BIN_DIR, "pgpass": f"{self.root}/pgpass-{name}",
                "authentication": {"superuser": account, "replication": account, "rewind": account},
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": self.root},
                "use_pg_rewind": True,
            },
            "tags": {},
        }

    def processes(self, name):
        """Returns the pids of the agent and, where there is one, of its guard."""
        pids = [self.agents[name].pid]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            except OSError:
                continue
            if b"guard" in words[1:2] and f"{self.root}/data-{name}".encode() in words:
                pids.append(int(pid))
        return pids

    def postmaster(self, name):
        try:
            return int(open(f"{self.root}/data-{name}/postmaster.pid").readline())
        except (OSError, ValueError):
            return None

    def kill_member(self, name):
        """A host dies: everything of it ends in one moment, and nothing says goodbye."""
        if name not in self.agents:
            return
        for pid in [*self.processes(name), *self.servers(name)]:
            kill(pid, signal.SIGKILL)
        self.agents[name].wait()
        until("nothing of the host is left", lambda: not [kill(pid, signal.SIGKILL) for pid in self.servers(name)])

    def servers(self, name):
        """Returns the processes of the member's Postgres."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd") == f"{self.root}/data-{name}" and os.readlink(f"/proc/{pid}/exe").startswith(BIN_DIR):
                    found.append(int(pid))
            except OSError:
                continue
        return found

    # ── questions ───────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, name, path, body=None, method=None):
        """Returns status and document of the REST API; 0 where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest[name]}{path}", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60 if data else 2) as answer:
                text = answer.read().decode()
                status = answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read().decode(), error.code
        except OSError:
            return 0, None
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def members(self):
        for name in NAMES:
            status, document = self.get(name, "/cluster")
            if status == 200:
                return document["members"]
        return []

    def leader(self):
        return next((row["name"] for row in self.members() if row["role"] == "leader" and row["state"] == "running"), None)

    def healthy(self, limit=240):
        """Waits until a leader accepts writes and two replicas stream from it, and returns its name."""
        def streams():
            leader = self.leader()
            if not leader or self.get(leader, "/primary")[0] != 200:
                return False
            members = self.members()
            if len(members) != 3 or sum(row["state"] == "streaming" for row in members) != 2:
                return False
            return self.ask(leader, "select count(*) from pg_stat_replication where state = 'streaming'") == 2
        until("two replicas stream", streams, limit)
        return self.leader()

    def ask(self, name, sql):
        try:
            with psycopg.connect(self.dsn([name]), autocommit=True) as session:
                return session.execute(sql).fetchone()[0]
        except psycopg.Error:
            return None

    def run_sql(self, sql):
        with psycopg.connect(self.dsn(NAMES, "target_session_attrs=read-write"), autocommit=True) as session:
            session.execute(sql)

    def synchronous(self):
        """Returns how many replicas a commit waits for."""
        return self.ask(self.leader(), "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')") or 0

    def identity(self, name):
        """Returns what a needless demotion changes: leader, timeline, postmaster."""
        return name, self.ask(name, "select timeline_id from pg_control_checkpoint()"), self.postmaster(name)

    def dsn(self, names, more=""):
        hosts, ports = ",".join("127.0.0.1" for _ in names), ",".join(str(self.postgres[name]) for name in names)
        return f"host={hosts} port={ports} user=postgres dbname=postgres connect_timeout=2 {more}"

    def etcd_leader(self):
        for name in NAMES:
            request = urllib.request.Request(f"http://127.0.0.1:{self.client[name]}/v3/maintenance/status", data=b"{}")
            try:
                with urllib.request.urlopen(request, timeout=1) as answer:
                    status = json.load(answer)
            except OSError:
                continue
            if status.get("leader") == status["header"]["member_id"]:
                return name
        return None

    def etcd_requests(self):
        """Returns how many messages clients have sent to all three nodes of etcd."""
        total = 0.0
        for port in self.client.values():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                for line in answer.read().decode().splitlines():
                    if line.startswith("grpc_server_msg_received_total"):
                        total += float(line.rsplit(" ", 1)[1])
        return total


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
