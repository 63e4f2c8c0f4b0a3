"""What the tests in this folder run: the real binary and other processes, each with a time limit."""

import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator

import pytest

DEPLOY = pathlib.Path(__file__).parent
ROOT = DEPLOY.parent
BINARY = pathlib.Path(os.environ.get("ORDER_QUERY_BIN", ROOT / "target/debug/order-query"))
# What scripts/install could not have without a service, it puts here.
os.environ["PATH"] += f":{ROOT / 'target/tools/bin'}"

# The waits have ends, far beyond what a busy machine needs.
SECONDS = 60


def run(*command: str | pathlib.Path, code: int = 0) -> str:
    """The output of a command; it must exit with this code."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ORDER_QUERY_")}
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8",
                          timeout=SECONDS, check=False)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@contextlib.contextmanager
def process(*command: str | pathlib.Path) -> Iterator[tuple[subprocess.Popen, queue.Queue]]:
    """A process and its output lines, `None` at the end; it must exit with 0 on SIGTERM."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ORDER_QUERY_")}
    child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, encoding="utf-8")
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield child, lines
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=SECONDS) == 0
    finally:
        child.kill()
        child.wait()


def next_line(lines: queue.Queue, wanted: str) -> str:
    """The next line with this text."""
    seen = []
    while (line := lines.get(timeout=SECONDS)) is not None:
        seen.append(line)
        if wanted in line:
            return line
    pytest.fail(f"it ended without {wanted!r}:\n{''.join(seen)}")


def page(address: str, path: str = "/metrics") -> str:
    """The metrics page of an admin listener."""
    # The machine's proxies do not apply to loopback.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{address}{path}", timeout=SECONDS) as answer:
        return answer.read().decode()
