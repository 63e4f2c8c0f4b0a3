"""Plants each mistake of tests/simulation-mistakes.toml alone, and expects the simulation to find it.
`make simulate-mistakes` runs it. A script's mistake is planted while the simulation runs; any other in a
copy of the tree inside the target directory. The copy has a target directory of its own: in a shared one
cargo takes the build with the mistake for the real one. It begins as a copy too, so that its builds are short.

SIMULATE_SEEDS: how many seeds each mistake gets, 1,000 otherwise. MISTAKES: part of the names to run.
"""

import filecmp
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
COPY = TARGET / "mistakes"
SEEDS = os.environ.get("SIMULATE_SEEDS", "1000")
TEST = ["cargo", "test", "--profile", "simulate", "--locked", "--test", "it"]
RULES = "simulation::the_vendors_rules_hold_whatever_fails"


def simulate(tree, target, **mistake):
    """Whether the simulation finds something; it must build and run in any case."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target), "SIMULATE_SEEDS": SEEDS}
    environment |= {"SIMULATE_UNTIL_ONE": "1", **mistake}
    subprocess.run([*TEST, "--no-run"], cwd=tree, env=environment, check=True, capture_output=True)
    run = subprocess.run(
        [*TEST, "--", "--exact", RULES],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )
    found = [line for line in run.stdout.splitlines() if line.startswith("seed ")]
    if run.returncode and not found:
        sys.exit(f"the simulation did not run:\n{run.stdout}\n{run.stderr}")
    return found[0] if found else None


def copy_builds(target):
    """Copies what is built of other crates, and of this one."""
    if not target.exists():
        subprocess.run([*TEST, "--no-run"], cwd=ROOT, check=True)
        shutil.copytree(TARGET / "simulate", target / "simulate", symlinks=True)


def copied(folder):
    """Copies what git knows or would add, and nothing else stays there."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    names = {name for name in names.split("\0") if name and (ROOT / name).is_file()}
    for old in folder.rglob("*"):
        if old.is_file() and str(old.relative_to(folder)) not in names:
            old.unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists() or not filecmp.cmp(ROOT / name, folder / name, False):
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def plant(row):
    """Returns what the simulation says about the mistake."""
    text = (ROOT / row["file"]).read_text()
    if text.count(row["from"]) != 1:
        sys.exit(f"{row['name']}: {row['file']} must have the text once")
    if row["file"].endswith(".lua"):
        return simulate(ROOT, TARGET, MISTAKE_FROM=row["from"], MISTAKE_TO=row["to"])
    tree = copied(COPY / "tree")
    copy_builds(COPY / "target")
    place = tree / row["file"]
    place.write_text(text.replace(row["from"], row["to"]))
    try:
        return simulate(tree, COPY / "target")
    finally:
        place.write_text(text)


def main():
    rows = tomllib.loads((ROOT / "tests/simulation-mistakes.toml").read_text())["mistake"]
    rows = [row for row in rows if os.environ.get("MISTAKES", "") in row["name"]]
    missed = []
    for row in rows:
        found = plant(row)
        print(f"{row['name']}: {found or 'NOT FOUND'}", flush=True)
        if not found:
            missed.append(row["name"])
    print(f"simulate-mistakes: {len(rows) - len(missed)} of {len(rows)} were found")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
