#!/usr/bin/env python3
"""Prints the figures of the product, each as one line `name: value unit (n=…, min…max)`, and writes target/bench.json.

bench/run.py [NAME...]    none = all; --help lists the names
Needs root, target/keddah, etcd and Postgres 15, and a Python package index: the tools it is compared with (ansible-core, Patroni) are installed
from there. Both tools of a row do the same on the same machine, one after the other.
"""
import sys

import figures
import hosts
import reference


def main():
    reference.enter()
    import agents  # needs what the environment holds

    known = hosts.NAMES + list(agents.FIGURES)
    if "--help" in sys.argv:
        sys.exit(f"{__doc__}\nnames: {' '.join(known)}")
    names = sys.argv[1:] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no figure is called {', '.join(unknown)}; there are {', '.join(known)}")
    hosts.measure({name for name in names if name in hosts.NAMES})
    for name in agents.FIGURES:
        if name in names:
            agents.measure(name)
    figures.save()


main()
