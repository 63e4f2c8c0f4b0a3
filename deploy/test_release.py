"""What RELEASE.md has a release carry: the script that checks it passes for this repository, and names
each thing that does not fit.

`make test` runs it. Nothing leaves the machine.
"""

import hashlib
import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from running import ROOT, SECONDS

VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
# What the script reads.
READ = ["Cargo.toml", "Cargo.lock", "fuzz/Cargo.toml", "fuzz/Cargo.lock", "CHANGELOG.md",
        "LICENSE-APACHE", "LICENSE-MIT", "deploy", "proto", "contracts", "scripts"]


def check(repository: pathlib.Path, *arguments: str | pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run([repository / "scripts/release-check", *arguments], capture_output=True,
                          encoding="utf-8", timeout=SECONDS, check=False)


@pytest.fixture
def repository(tmp_path) -> pathlib.Path:
    """A copy of this repository whose contract is kept, as it is when a release is made."""
    copy = tmp_path / "repository"
    for name in READ:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name,
                            ignore=shutil.ignore_patterns("made-by-*", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    shutil.rmtree(copy / f"contracts/{VERSION}")
    shutil.copytree(copy / "proto", copy / f"contracts/{VERSION}")
    return copy


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """The files that the release of RELEASE.md's table has, with their checksums."""
    table = re.findall(r"^\| (`[^|]+) \|", (ROOT / "RELEASE.md").read_text(), re.MULTILINE)
    names = [name for row in table for name in re.findall(r"`([^`]+)`", row)]
    files = [name for name in names if re.search(r"[.-]", name) and ":" not in name]
    found = tmp_path / "carried"
    found.mkdir()
    for file in files:
        for target in ["x86_64", "aarch64"]:
            path = found / file.replace("TARGET", f"{target}-unknown-linux-gnu")
            path.write_text(f"content of {path.name}")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
            for path in sorted(found.iterdir())]
    (found / "SHA256SUMS").write_text("".join(sums))
    return found


def test_the_current_version_is_complete(repository, folder):
    done = check(repository, VERSION, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"release-check: {VERSION} is whole\n"


# A file, the change to it, and the script's message.
WRONG = [
    ("Cargo.toml", f'version = "{VERSION}"', 'version = "9.9.9"', "Cargo.lock has version"),
    ("Cargo.toml", 'license = "MIT OR', 'license = "GPL OR', "another licence"),
    ("fuzz/Cargo.lock", f'"order-query"\nversion = "{VERSION}"', '"order-query"\nversion = "9.9.9"',
     "fuzz/Cargo.lock has version 9.9.9"),
    ("CHANGELOG.md", f"## [{VERSION}] - 20", f"## [{VERSION}] - soon, 20", "CHANGELOG.md has no entry"),
    ("deploy/base/deployment.yaml", f"order-query:{VERSION}", "order-query:9.9.9",
     f"name order-query:{VERSION} order-query:9.9.9"),
    ("proto/orderquery/v1/order_service.proto", "string account = 3;", "string account = 33;",
     "is not the contract of proto/"),
    ("LICENSE-MIT", "", None, "LICENSE-MIT is missing"),
]


@pytest.mark.parametrize("name, right, wrong, told", WRONG, ids=[told for *_, told in WRONG])
def test_each_mismatch_is_reported(repository, name, right, wrong, told):
    path = repository / name
    text = path.read_text()
    assert right in text
    path.write_text("" if wrong is None else text.replace(right, wrong))
    done = check(repository)
    assert done.returncode == 1, done
    assert told in done.stderr


def test_all_problems_are_reported_at_once(repository):
    (repository / "LICENSE-MIT").unlink()
    shutil.move(repository / f"contracts/{VERSION}", repository / "contracts/0.0.1")
    done = check(repository, "9.9.9")
    told = re.findall(r"^release-check: (\S+)", done.stderr, re.MULTILINE)
    assert told == ["Cargo.toml", "contracts/", f"contracts/{VERSION}", "LICENSE-MIT"], done.stderr
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("change, told", [
    (lambda folder: (folder / "order_service.proto").unlink(), "lacks order_service.proto"),
    (lambda folder: (folder / "CHANGELOG.md").write_text("other"), "not as SHA256SUMS says"),
    (lambda folder: (folder / "more").write_text("x"), "does not list exactly"),
])
def test_a_folder_with_unexpected_release_files_is_refused(repository, folder, change, told):
    change(folder)
    done = check(repository, VERSION, folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr


def test_every_action_is_pinned_to_a_commit():
    workflows = sorted((ROOT / ".github/workflows").iterdir())
    used = [step["uses"] for path in workflows
            for job in yaml.safe_load(path.read_text())["jobs"].values()
            for step in job["steps"] if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
    lines = [line for path in workflows for line in path.read_text().splitlines()
             if re.search(r"uses: \S+@", line)]
    assert all(re.search(r"@[0-9a-f]{40} # v\d", line) for line in lines), lines
