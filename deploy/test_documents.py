"""The README and docs/, held against what they tell their readers to do: the commands are run, the
options, paths and names are those of the program, the image and the manifests.

`make test` runs it. Nothing leaves the machine.
"""

import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from running import BINARY, DEPLOY, ROOT, SECONDS, next_line, process, run

KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")
README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs/commands.md").read_text()
INSTALL = (ROOT / "docs/install.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a document in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def command(document: str, beginning: str) -> str:
    """The one command of a document with this prefix, with its continuation lines."""
    found = [line.split(" #")[0].strip() for block in blocks(document, "sh")
             for line in block.replace("\\\n", " ").splitlines() if line.startswith(beginning)]
    assert len(found) == 1, f"{beginning}: {found}"
    return found[0]


def shell(folder: pathlib.Path, line: str, **more: str) -> subprocess.CompletedProcess:
    """Runs a line as its reader would, with the Python of the tests."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    # A reader's `make` is not started by another `make`, as this one is by `make test`.
    outer = {"MAKELEVEL", "MAKEFLAGS", "MFLAGS"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(line, shell=True, cwd=folder, env={**environment, "PATH": path, **more},
                          capture_output=True, encoding="utf-8", timeout=SECONDS, check=False)


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
    """A repository with this one's files, all committed except ignored ones."""
    copy = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("target", ".git", "__pycache__", "corpus", "artifacts",
                                      "made-by-*")
    shutil.copytree(ROOT, copy, ignore=left_out)
    git = "git -c user.name=test -c user.email=test@test.invalid"
    done = shell(copy, f"git init -q && git add -A && {git} commit -q -m all", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    return copy


# Commands that create files in the reader's checkout, and one of the files that must exist then.
WRITES = [
    (command(INSTALL, "cp -r deploy/example"), "deploy/production/secrets/vendors/haoka-secret"),
    (command(INSTALL, "cp -r deploy/example").replace("production", "staging"),
     "deploy/staging/kustomization.yaml"),
    # No cluster is called.
    (command(INSTALL, "deploy/trial-secrets").split("&&")[0],
     "deploy/components/sandbox/made-by-trial-secrets"),
    (command(README, "python -m grpc_tools.protoc"), "orderquery/v1/order_service_pb2.py"),
    # Where the documents name a file that the reader provides.
    *((f"mkdir -p $(dirname {path}) && echo secret > {path}", path) for path in [
        "order-query/config.toml", "order-query/secrets/wechat", "order-query/tls/tls.key",
        "secrets/billing", "tls/tls.key", "billing.crt", "billing.key", "billing-token", "ca.crt",
        "order-query.toml", "secrets/dingshang", "order-query", "orders.redb",
    ]),
]


@pytest.mark.parametrize("line, made", WRITES, ids=[made for _, made in WRITES])
def test_files_made_by_documented_commands_are_ignored_by_git(checkout, line, made):
    done = shell(checkout, line)
    assert done.returncode == 0, done.stderr
    assert (checkout / made).exists()
    assert shell(checkout, "git status --porcelain --untracked-files=all").stdout == ""


def test_the_image_context_contains_build_inputs_only():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
               if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
              for word in line.split()}
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed == copied


def test_the_configuration_path_is_the_same_everywhere():
    paths = set(re.findall(r"/etc/order-query[\w./-]*\.toml", "".join(
        path.read_text() for path in [
            ROOT / "README.md", ROOT / "Dockerfile", *ROOT.glob("docs/*.md"),
            *DEPLOY.rglob("*.yaml"),
        ])))
    assert paths == {"/etc/order-query/config/config.toml"}


def test_the_container_command_works_with_the_documented_configuration(tmp_path):
    flags = command(INSTALL, "docker run --rm -p").split()
    option = {name: [value for flag, value in itertools.pairwise(flags) if flag == name]
              for name in ["-p", "-v", "-e"]}
    folder, target, mode = option["-v"][0].strip('"').split(":")
    [_, volume] = option["-v"][1].split(":")
    assert (target, mode) == ("/etc/order-query/config", "ro")
    assert f'"{target}/config.toml"' in DOCKERFILE
    # The volume is writable, because the image has its folder, of the image's user.
    user = re.search(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[1]
    assert f"--chown={user} /store {volume}\n" in DOCKERFILE

    # The settings for a container, before the accounts.
    [container] = blocks(INSTALL, "toml")
    text = container + blocks(README, "toml")[0]
    config = tomllib.loads(text)
    assert config["store"]["url"].removeprefix("file:").rpartition("/")[0] == volume
    assert option["-e"] == re.findall(r'env = "(\w+)"', text)
    ports = [config[table]["listen"].split(":")[1] for table in ["server", "admin"]]
    assert option["-p"] == [f"127.0.0.1:{port}:{port}" for port in ports]

    # Laid out as documented, the configuration is valid.
    place = tmp_path / folder.removeprefix("$PWD/")
    for path in re.findall(r'file = "([^"]+)"', text):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("secret-of-the-readme\n")
    (place / "config.toml").write_text(text.replace(volume, str(tmp_path)))
    done = shell(tmp_path, f"{BINARY} check --config {place}/config.toml",
                 **dict.fromkeys(option["-e"], "secret-of-the-readme"))
    assert (done.returncode, done.stderr) == (0, ""), done


def test_make_image_uses_the_tag_of_manifests_and_documents(tmp_path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$@"\n')
    docker.chmod(0o755)
    done = shell(ROOT, "make image", PATH=f"{tmp_path}:{os.environ['PATH']}")
    tags = set(re.findall(r"--tag (\S+)", done.stdout))
    assert tags == {"order-query", f"order-query:{CARGO['version']}"}, done
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    named = {compose[name]["image"] for name in ["server", "sandbox"]}
    deployment = (DEPLOY / "base/deployment.yaml").read_text()
    named |= set(re.findall(r"image: (order-query\S*)", deployment))
    named |= set(re.findall(r"docker-image (\S+)", INSTALL))
    assert named == {f"order-query:{CARGO['version']}"}


def test_make_help_matches_the_guide():
    [*listed] = [line.split()[0] for line in shell(ROOT, "make").stdout.splitlines()]
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    guide = re.findall(r"^\| `make ?([a-z-]*)` \|", guide, re.MULTILINE)
    assert listed == rules == ["help", *guide[1:]]


def test_the_readme_states_the_rust_version():
    assert f"Rust\n{CARGO['rust-version']} or later" in README


@pytest.mark.parametrize("name", ["demo", "serve", "sandbox", "get", "watch", "check", "health"])
def test_the_commands_page_has_every_option(name):
    [row] = re.findall(rf"^\| `order-query {name}([^`]*)`", COMMANDS, re.MULTILINE)
    told = set(re.findall(r"--[a-z-]+", row))
    # Not those mentioned in an option's explanation.
    known = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", run(BINARY, name, "--help"), re.MULTILINE))
    assert told == known - {"--help"}


def test_an_overlay_without_secrets_explains_how_to_create_them(tmp_path):
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("made-by-*", "__pycache__"))
    for overlay in sorted(copy.glob("overlays/sandbox*")):
        assert "trial-secrets: no such file" in run(KUBECTL, "kustomize", overlay, code=1)
        assert (f"deploy/trial-secrets && kubectl apply -k deploy/overlays/{overlay.name}\n"
                in (overlay / "kustomization.yaml").read_text())
    run(copy / "trial-secrets")
    for overlay in sorted(copy.glob("overlays/sandbox*")):
        run(KUBECTL, "kustomize", overlay)


def test_the_errors_example_prints_as_documented_and_pauses_no_account(tmp_path):
    document = (ROOT / "docs/errors.md").read_text()
    [example], [shown] = blocks(document, "python"), blocks(document, "console")
    config = tmp_path / "config.toml"
    config.write_text('server.listen = "127.0.0.1:0"\nadmin.listen = "127.0.0.1:0"\n')
    line = command(README, "python -m grpc_tools.protoc").replace("=.", f"={tmp_path}")
    assert shell(ROOT, line).returncode == 0
    with process(BINARY, "serve", "--dev", "--config", config) as (_, lines):
        address = re.search(r'"address":"([^"]+)"', next_line(lines, '"listening"'))[1]
        program = tmp_path / "example.py"
        program.write_text(example.replace("127.0.0.1:50051", address))
        done = shell(tmp_path, f"python {program}", PYTHONPATH=str(tmp_path), no_proxy="*")
        assert done.stdout == shown, done.stderr
        for order in ["wechat status-2", "dingshang 54", "haoka shipped"]:
            run(BINARY, "get", *order.split(), "--endpoint", f"http://{address}")


# The permitted packages: none of them has a service.
WITHOUT_SERVICE = {"python3", "python3-venv", "gcc", "g++", "libc6-dev", "redis-tools", "openssl",
                   "git"}


def test_no_system_service_is_installed():
    script = (ROOT / "scripts/install").read_text()
    lines = re.findall(r"\bdebian ([a-z][\w+-]*(?: [a-z][\w+-]*)*)$", script, re.MULTILINE)
    installed = {word for line in lines for word in line.split()}
    assert installed == WITHOUT_SERVICE


CASE = '<testsuites><testsuite><testcase name="a"/></testsuite></testsuites>'
EMPTY = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured\n"


@pytest.mark.parametrize("reports, last", [
    ({"python.xml": CASE, "rust.xml": CASE, "doc.log": EMPTY}, "2 passed, 0 failed"),
    ({"python.xml": CASE, "rust.log": EMPTY.replace("0 passed", "3 passed") + EMPTY},
     "4 passed, 0 failed"),
])
def test_the_count_ends_with_its_total_and_omits_empty_suites(tmp_path, reports, last):
    for name, text in reports.items():
        (tmp_path / name).write_text(text)
    lines = run(sys.executable, ROOT / "scripts/count_tests.py", tmp_path).splitlines()
    assert lines[-1] == last
    assert not [line for line in lines if re.search(r"\b0 passed", line)]
