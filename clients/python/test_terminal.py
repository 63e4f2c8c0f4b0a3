"""What a user sees who starts the server at a terminal, and what a program gets instead."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator

from conftest import BINARY, START_SECONDS, STOP_SECONDS

ENVIRONMENT = {key: value for key, value in os.environ.items()
               if not key.startswith("ORDER_QUERY_")}


def read_until(terminal: int, *wanted: str) -> str:
    """The output up to the end of a line that contains one of these."""
    text = b""
    end = time.monotonic() + START_SECONDS
    while not any(word in text.decode().rpartition("\n")[0] for word in wanted):
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        assert ready, f"none of {wanted} came, but {text}"
        text += os.read(terminal, 4096)
    return text.decode()


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """Stops it with SIGINT, and expects success."""
    try:
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=STOP_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def dev(tmp_path, **streams) -> subprocess.Popen:
    """`serve --dev` on free ports."""
    config = tmp_path / "config.toml"
    config.write_text('server.listen = "127.0.0.1:0"\nadmin.listen = "127.0.0.1:0"\n')
    return subprocess.Popen([BINARY, "serve", "--dev", "--config", config], env=ENVIRONMENT,
                            stdin=subprocess.DEVNULL, **streams)


def test_at_a_terminal_it_prints_what_runs_and_the_next_step(tmp_path):
    ours, its = pty.openpty()
    log = tmp_path / "log"
    with log.open("w") as errors, ended(dev(tmp_path, stdout=its, stderr=errors)):
        os.close(its)
        told = read_until(ours, "In another terminal: ")
        orders = re.search(r"orders +(http://\S+)", told)[1]
        admin = re.search(r"health and metrics +(http://\S+)", told)[1]
        next_command = told.split("In another terminal: ")[1].splitlines()[0]
        # The path that it was started with: it need not be on the PATH.
        assert next_command == f"{BINARY} get haoka shipped --endpoint {orders}"
        shown = subprocess.run(next_command.split(), env=ENVIRONMENT, capture_output=True,
                               encoding="utf-8", timeout=START_SECONDS, check=True)
        assert "SHIPPED" in shown.stdout
        health = admin.removesuffix("/metrics")
        subprocess.run([BINARY, "health", "--endpoint", health], env=ENVIRONMENT, check=True,
                       timeout=START_SECONDS)
    os.close(ours)
    # The output to a file is unchanged.
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_without_a_terminal_it_logs_json_and_prints_nothing(tmp_path):
    out = tmp_path / "out"
    with out.open("w") as output:
        process = dev(tmp_path, stdout=output, stderr=subprocess.PIPE)
        with ended(process):
            line = json.loads(process.stderr.readline())
            assert line["message"] == "listening"
        process.stderr.close()
    assert out.read_text() == ""


def test_a_terminal_gets_json_only_if_configured():
    ours, its = pty.openpty()
    # The default ports may be in use on this machine: either message will do.
    process = subprocess.Popen([BINARY, "serve", "--dev"], env=ENVIRONMENT,
                               stdin=subprocess.DEVNULL, stdout=its, stderr=its)
    os.close(its)
    try:
        assert '{"' not in read_until(ours, "listening", "cannot listen")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
