"""Writes what the program is made of as CycloneDX, target/sbom/order-query.TARGET.cdx.json, one for each
target that deny.toml names. `make sbom` runs it.

cargo-cyclonedx says what it takes from cargo's metadata, where the features that the tests and the build
ask for count as well. So each SBOM is cut to the crates that cargo builds the program from, and then
held against Cargo.lock: exits with 1 where a crate is missing, or one of its facts."""

import json
import os
import pathlib
import subprocess
import sys
import tomllib
import urllib.parse

ROOT = pathlib.Path(__file__).parent.parent
TOOL = ROOT / "target/tools/bin/cargo-cyclonedx"
OURS = "order-query"


def output(*command: str | pathlib.Path) -> str:
    """What a command writes; it must end well."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def crates(target: str) -> set[tuple[str, str]]:
    """Name and version of all that cargo builds the program from, macros included, but not the program."""
    tree = output("cargo", "tree", "--locked", "--edges=normal", f"--target={target}",
                  "--prefix=none", "--format={p}")
    named = {tuple(line.split()[:2]) for line in tree.splitlines()}
    return {(name, version.removeprefix("v")) for name, version in named if name != OURS}


def written(target: str) -> dict:
    """What cargo-cyclonedx says, without where on this machine the project is."""
    # The tool writes beside Cargo.toml and nowhere else.
    file = ROOT / f"{OURS}.{target}.cdx.json"
    try:
        output(TOOL, "cyclonedx", "--quiet", "--format=json", "--spec-version=1.5", "--no-build-deps",
               f"--target={target}", f"--override-filename={file.stem}")
        return json.loads(file.read_text().replace(f"path+{ROOT.as_uri()}#", ""))
    finally:
        file.unlink(missing_ok=True)


def cut(bom: dict, keep: set[tuple[str, str]]) -> None:
    """Takes out what the program is not built from."""
    bom["components"] = [component for component in bom["components"]
                         if (component["name"], component["version"]) in keep]
    refs = {component["bom-ref"] for component in bom["components"]}
    refs.add(bom["metadata"]["component"]["bom-ref"])
    bom["dependencies"] = [
        entry | {"dependsOn": [ref for ref in entry.get("dependsOn", []) if ref in refs]}
        for entry in bom["dependencies"] if entry["ref"] in refs]


def faults(bom: dict, expected: set[tuple[str, str]], lock: dict) -> list[str]:
    """What the SBOM does not say, or says wrongly, of the crates that are built in."""
    checksums = {(package["name"], package["version"]): package.get("checksum")
                 for package in lock["package"]}
    listed = [(component["name"], component["version"]) for component in bom["components"]]
    found = [f"{name} {version} is missing" for name, version in sorted(expected - set(listed))]
    found += [f"{name} {version} is there twice" for name, version in sorted(set(listed))
              if listed.count((name, version)) > 1]
    for component in bom["components"]:
        name, version = component["name"], component["version"]
        purl = urllib.parse.unquote(component.get("purl", ""))
        if purl != f"pkg:cargo/{name}@{version}":
            found.append(f"{name} {version} has the purl {purl!r}")
        if not component.get("licenses"):
            found.append(f"{name} {version} has no licence")
        hashes = [entry["content"] for entry in component.get("hashes", [])]
        if hashes != [checksums.get((name, version))]:
            found.append(f"{name} {version} has not the checksum of Cargo.lock")
    if not expected:
        found.append("cargo names no crate")
    return found


def main() -> int:
    """Writes and checks an SBOM for each target."""
    # The same commit gives the same bytes.
    if "SOURCE_DATE_EPOCH" not in os.environ:
        os.environ["SOURCE_DATE_EPOCH"] = output("git", "log", "-1", "--format=%ct").strip()
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    failed = False
    for target in tomllib.loads((ROOT / "deny.toml").read_text())["graph"]["targets"]:
        # First what is --locked: the tool itself would bring Cargo.lock up to date.
        expected = crates(target)
        bom = written(target)
        cut(bom, expected)
        path = ROOT / f"target/sbom/{OURS}.{target}.cdx.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(bom, indent=2, ensure_ascii=False) + "\n")
        wrong = faults(bom, expected, lock)
        for fault in wrong:
            print(f"{path.name}: {fault}", file=sys.stderr)
        failed |= bool(wrong)
        print(f"{path.relative_to(ROOT)}: {len(bom['components'])} crates")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
