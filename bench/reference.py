"""Patroni from its package registry, and the environment that this program itself runs in."""
import os, subprocess, sys

# Made once for a machine; the user postgres must be able to read it.
VENV = "/var/tmp/keddah-patroni-venv"


def enter():
    """Makes the environment with Patroni and psycopg if it is not there, and runs this program in it."""
    if not os.path.exists(f"{VENV}/bin/patroni"):
        subprocess.run(["/usr/bin/python3", "-m", "venv", VENV], check=True)
        subprocess.run([f"{VENV}/bin/pip", "-q", "install", "patroni[etcd3]==4.1.*", "psycopg[binary]"], check=True)
    if sys.prefix != VENV:
        os.execv(f"{VENV}/bin/python3", [f"{VENV}/bin/python3", *sys.argv])
