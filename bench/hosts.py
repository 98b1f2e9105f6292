"""What is measured on lab hosts: whole hosts with systemd, reached over SSH."""
import json, os, re, statistics, subprocess, sys, threading, time

from figures import KEDDAH, ROOT, figure, run

ANSIBLE = "ansible-core>=2.19,<2.20"
NAMES = ["apply-noop", "site-noop", "site-switchover-gap", "site-failover-host"]


def timed(*command, env=None, times=5):
    seconds = []
    for _ in range(times):
        start = time.monotonic()
        run(*command, env=env)
        seconds.append(time.monotonic() - start)
    return seconds


class Lab:
    """A lab of its own, gone when the bench is."""

    def __init__(self, name, *layout):
        self.name, self.inventory = name, f"{ROOT}/target/bench/{name}"
        self.layout = layout

    def __enter__(self):
        run(KEDDAH, "lab", "--name", self.name, "up", "--inventory", self.inventory, *self.layout)
        return self

    def __exit__(self, *_):
        run(KEDDAH, "lab", "--name", self.name, "down", check=False)

    def fault(self, *words):
        run(KEDDAH, "lab", "--name", self.name, *words)

    def playbook(self, command, playbook, check=True):
        return run(KEDDAH, command, "-i", self.inventory, playbook, check=check)

    def addresses(self):
        text = run(KEDDAH, "lab", "--name", self.name, "status").stdout
        return dict(line.split()[:2] for line in text.splitlines() if re.match(r"\S+ +10\.", line))

    def leader(self):
        done = run(KEDDAH, "list", "-i", self.inventory, "-f", "json", check=False)
        rows = json.loads(done.stdout) if done.returncode == 0 else []
        return next((row["Member"] for row in rows if row["Role"] == "Leader"), None)

    def healthy(self, limit=240):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            done = run(KEDDAH, "list", "-i", self.inventory, "-f", "json", check=False)
            rows = json.loads(done.stdout) if done.returncode == 0 else []
            if len(rows) == 3 and sum(row["State"] == "streaming" for row in rows) == 2 and self.leader():
                return
            time.sleep(0.2)
        sys.exit(f"the cluster is not healthy after {limit} s: {rows}")

    def secret(self, name):
        text = open(f"{self.inventory}/group_vars/all/secrets.yml").read()
        return re.search(rf"^{name}: (\S+)$", text, re.M).group(1)


def apply_noop():
    venv = f"{ROOT}/target/bench-venv"
    if not os.path.exists(f"{venv}/bin/ansible-playbook"):
        run("python3", "-m", "venv", venv)
        run(f"{venv}/bin/pip", "-q", "install", ANSIBLE)
    with Lab("bench6", "--hosts", "6") as lab:
        for host in lab.addresses():
            run(KEDDAH, "lab", "--name", lab.name, "exec", host, "--", "sh", "-c",
                "apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-minimal python3-apt >/dev/null 2>&1")
        lab.playbook("apply", "bench/noop.yml")
        ours = timed(KEDDAH, "apply", "-i", lab.inventory, "bench/noop.yml", times=7)
        figure("apply-noop", "s", ours, "  60 tasks × 6 hosts, second run")
        env = dict(os.environ, ANSIBLE_PIPELINING="True", ANSIBLE_FORKS="6", ANSIBLE_HOST_KEY_CHECKING="True",
                   ANSIBLE_SSH_ARGS="-o ControlMaster=auto -o ControlPersist=60s", LC_ALL="C.UTF-8",
                   ANSIBLE_PYTHON_INTERPRETER="/usr/bin/python3")
        ansible = f"{venv}/bin/ansible-playbook"
        run(ansible, "-i", lab.inventory, "bench/noop.yml", env=env)
        theirs = timed(ansible, "-i", lab.inventory, "bench/noop.yml", env=env, times=2)
        figure("apply-noop-ansible", "s", theirs, "  ansible-core 2.19, pipelining, ControlPersist, 6 forks")
        print(f"apply-noop ratio: {statistics.median(theirs) / statistics.median(ours):.0f} ×", flush=True)


class Writes(threading.Thread):
    """Inserts through psql in one session a round; notes when each was acknowledged."""

    def __init__(self, lab, host, port):
        super().__init__(daemon=True)
        self.at, self.going = [], True
        self.env = dict(os.environ, PGPASSWORD=lab.secret("keddah_superuser_password"), PGCONNECT_TIMEOUT="2")
        self.dsn = f"host={host} port={port} user=postgres dbname=postgres"
        self.sql("create table if not exists bench (at timestamptz)")

    def sql(self, text):
        return subprocess.run(["psql", "-qAtX", "-c", text, self.dsn], env=self.env, capture_output=True, text=True)

    def run(self):
        while self.going:
            psql = subprocess.Popen(["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", self.dsn], env=self.env, text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            while self.going:
                try:
                    psql.stdin.write("insert into bench values (now()); \\echo done\n")
                    psql.stdin.flush()
                except BrokenPipeError:
                    break
                if psql.stdout.readline().strip() != "done":
                    break
                self.at.append(time.monotonic())
                time.sleep(0.002)
            psql.kill()
            psql.wait()
            time.sleep(0.01)

    def gap(self, since):
        points = [since] + [at for at in self.at if at >= since]
        return max(b - a for a, b in zip(points, points[1:])) if len(points) > 1 else float("inf")


def site(names):
    with Lab("benchs") as lab:
        start = time.monotonic()
        lab.playbook("apply", "playbooks/site.yml")
        figure("site-first", "s", [time.monotonic() - start], "  bare hosts to a healthy cluster, packages cached")
        if "site-noop" in names:
            figure("site-noop", "s", timed(KEDDAH, "check", "-i", lab.inventory, "playbooks/site.yml"))
        lab.healthy()
        proxy = lab.addresses()["proxy1"]
        if "site-switchover-gap" in names:
            gaps = []
            for _ in range(5):
                lab.healthy()
                writes = Writes(lab, proxy, 5000)
                writes.start()
                wait_for_writes(writes)
                start = time.monotonic()
                run(KEDDAH, "switchover", "-i", lab.inventory, "--force")
                wait_for_writes(writes)
                gaps.append(writes.gap(start))
                writes.going = False
                writes.join()
            figure("site-switchover-gap", "s", gaps, "  through HAProxy, asynchronous")
        if "site-failover-host" in names:
            lab.healthy()
            writes = Writes(lab, proxy, 5000)
            writes.start()
            wait_for_writes(writes)
            start = time.monotonic()
            lab.fault("kill", lab.leader())
            wait_for_writes(writes, 120)
            figure("site-failover-host", "s", [writes.gap(start)], "  the primary's host dies, ttl 30, through HAProxy")
            writes.going = False
            lab.fault("heal")
            lab.healthy()


def wait_for_writes(writes, limit=60):
    """Waits until twenty more writes were acknowledged."""
    seen, end = len(writes.at), time.monotonic() + limit
    while len(writes.at) < seen + 20:
        if time.monotonic() > end:
            sys.exit(f"no writes within {limit} s")
        time.sleep(0.01)


def measure(names):
    if "apply-noop" in names:
        apply_noop()
    if names - {"apply-noop"}:
        site(names)
