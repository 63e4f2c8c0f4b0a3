"""What `test_client.py` needs: stubs generated from `proto/`, and the real server.

The server is `target/debug/order-query`, or what ORDER_QUERY_BIN names.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import grpc_tools
import pytest
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).parents[2]
BINARY = pathlib.Path(os.environ.get("ORDER_QUERY_BIN", ROOT / "target/debug/order-query"))

# The waits have ends, far beyond what a busy machine needs: a hung server is a failure.
START_SECONDS = 60
STOP_SECONDS = 60

# Made here, before the tests import them, and deleted when Python exits.
_STUBS_OWNER = tempfile.TemporaryDirectory(prefix="orderquery-stubs-")
STUBS = _STUBS_OWNER.name
if protoc.main([
    "protoc",
    f"-I{ROOT / 'proto'}",
    f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}",
    f"--python_out={STUBS}",
    f"--grpc_python_out={STUBS}",
    "orderquery/v1/order_service.proto",
]) != 0:
    raise RuntimeError("protoc could not generate the stubs: see its words above")
sys.path.insert(0, STUBS)


@dataclasses.dataclass
class Server:
    """A running server."""

    address: str
    admin_address: str
    log: list[str]


@contextlib.contextmanager
def running(directory: pathlib.Path, server_settings: str = "") -> Iterator[Server]:
    """A server with the sandbox accounts; ends it with SIGTERM, and expects exit code 0."""
    config = directory / "config.toml"
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:0"\n{server_settings}\n[admin]\nlisten = "127.0.0.1:0"\n'
    )
    # The test does not use the settings of the environment that runs it.
    env = {key: value for key, value in os.environ.items() if not key.startswith("ORDER_QUERY_")}
    process = subprocess.Popen(
        [BINARY, "serve", "--dev", "--config", config],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", env=env,
    )
    log: list[str] = []
    # Gets the fields of the line "listening", and None at the end of the log.
    events: queue.Queue[dict | None] = queue.Queue()
    # A thread, because the pipe must be drained as long as the server lives.
    threading.Thread(target=_read_log, args=(process.stderr, log, events), daemon=True).start()
    try:
        try:
            listening = events.get(timeout=START_SECONDS)
        except queue.Empty:
            pytest.fail(f"the server was not up in {START_SECONDS} s; its log:\n{''.join(log)}")
        if listening is None:
            code = process.wait(timeout=STOP_SECONDS)
            pytest.fail(f"the server ended with exit code {code}; its log:\n{''.join(log)}")
        yield Server(listening["address"], listening["admin_address"], log)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"SIGTERM did not end the server; its log:\n{''.join(log)}")
        if code != 0:
            pytest.fail(f"the server ended with exit code {code}; its log:\n{''.join(log)}")
    finally:
        # No effect on a server that has exited.
        process.kill()
        process.wait()


def _read_log(lines: Iterator[str], log: list[str], events: queue.Queue) -> None:
    for line in lines:
        log.append(line)
        # A panic is not JSON.
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if entry.get("message") == "listening" and "admin_address" in entry:
                events.put(entry)
    events.put(None)


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    """A server for one test alone: a vendor's error may pause an account for a while."""
    with running(tmp_path) as up:
        yield up
    # pytest shows it where the test failed.
    print("".join(up.log))
