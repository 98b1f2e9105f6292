"""How a figure is printed and kept."""
import json, os, statistics, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEDDAH = os.environ.get("KEDDAH", f"{ROOT}/target/keddah")
FIGURES = []


def figure(name, unit, values, note=""):
    """Prints one line `name: value unit (n=…, min…max)` and keeps it for the file; the value is the median."""
    value = statistics.median(values)
    FIGURES.append({"name": name, "unit": unit, "median": value, "n": len(values), "min": min(values), "max": max(values)})
    print(f"{name}: {value:.3f} {unit} (n={len(values)}, {min(values):.3f}…{max(values):.3f}){note}", flush=True)


def beside(name):
    """Prints what this tool and the reference have shown for a figure, lower being better for both.

    A higher median is worse only if the two spreads do not meet: a few runs on a shared machine say no more."""
    rows = {row["name"]: row for row in FIGURES}
    ours, theirs = rows.get(name), rows.get(f"{name}-patroni")
    if ours and theirs:
        if ours["median"] <= theirs["median"]:
            word = "not worse"
        else:
            word = "equal within the spread" if ours["min"] <= theirs["max"] else "WORSE"
        share = f", {ours['median'] / theirs['median']:.2f} of it" if theirs["median"] else ""
        print(f"  {name}: {ours['median']:.3f} beside {theirs['median']:.3f} {ours['unit']}{share}: {word}", flush=True)


def save():
    os.makedirs(f"{ROOT}/target", exist_ok=True)
    with open(f"{ROOT}/target/bench.json", "w") as file:
        json.dump(FIGURES, file, indent=1)


def run(*command, check=True, env=None, limit=900):
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=limit, env=env)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
