"""A real run for `draw_dashboard.py`: two replicas with one Redis and the sandbox's vendors are
asked for some minutes, with trouble of every kind, while a real Prometheus scrapes them.
"""

import contextlib
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import grpc
import yaml
from running import BINARY, DEPLOY, ROOT, next_line, process, run

SCRAPE_SECONDS = 2
# Shorter than they are by default, so that minutes show what else takes hours.
CONFIG = """
[server]
listen = "127.0.0.1:{port}"
drain_delay = "1s"
max_in_flight = 60
max_watches = 40
[server.tls]
cert_file = "{secrets}/tls/tls.crt"
key_file = "{secrets}/tls/tls.key"
[admin]
listen = "127.0.0.1:{admin_port}"
[store]
url = "redis://127.0.0.1:{redis_port}/0"
[clients.trial]
token = {{ file = "{secrets}/callers/trial" }}
{accounts}
"""
SETTINGS = {
    "wechat": 'freshness = "4s"\nmax_concurrency = 8\ntimeout = "2s"\n',
    "dingshang": 'freshness = "3s"\ntimeout = "1s"\n',
    "haoka": 'freshness = "20s"\ncalls_per_minute = 30\ntimeout = "2s"\n',
}
ORDERS = {
    "wechat": [f"status-{status}" for status in (1, 2, 3, 5, 6, 7, 9)],
    "dingshang": [str(order) for order in [*range(101, 110), *range(201, 208)]],
    "haoka": [
        "sample",
        "pending",
        "submitted",
        "shipped",
        "completed",
        "settled",
        "canceled",
        "entering",
        "card-activated",
        "card-not-activated",
        "rejected",
        "withdrawn",
    ],
}
# What goes wrong, from and to which part of the run.
VENDOR_HANGS, CREDENTIALS, TOO_OFTEN, RUSH, REPLICA_GONE = (
    (0.2, 0.35),
    (0.45, 0.55),
    (0.62, 0.63),
    (0.76, 0.8),
    (0.88, 0.93),
)
TOKEN_CHANGES, TOKEN_UNFIT = 0.1, 0.58


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


class Callers:
    """The callers of a run, and how far it is."""

    def __init__(self, seconds: float, ports: list[int], secrets: pathlib.Path) -> None:
        self.begin, self.seconds = time.time(), seconds
        self.metadata = [
            ("authorization", f"Bearer {(secrets / 'callers/trial').read_text().strip()}")
        ]
        roots = grpc.ssl_channel_credentials((secrets / "tls/ca.crt").read_bytes())
        sys.path.append(str(ROOT / "proto"))
        self.pb, services = grpc.protos_and_services("orderquery/v1/order_service.proto")
        self.replicas = [
            services.OrderServiceStub(
                grpc.secure_channel(
                    f"localhost:{port}",
                    roots,
                    options=[
                        ("grpc.enable_http_proxy", 0),
                        ("grpc.max_reconnect_backoff_ms", 1000),
                    ],
                )
            )
            for port in ports
        ]

    def part(self) -> float:
        """How much of the run is over."""
        return (time.time() - self.begin) / self.seconds

    def within(self, phase: tuple[float, float]) -> bool:
        """Whether something goes wrong now."""
        return phase[0] <= self.part() < phase[1]

    def wait_for(self, part: float) -> None:
        """Sleeps until so much of the run is over."""
        time.sleep(max(0.0, (part - self.part()) * self.seconds))

    def ask(self, vendor: str, order: str, **more) -> None:
        """Asks a replica for one order; what becomes of it the metrics tell."""
        request = self.pb.GetOrderRequest(
            provider=self.pb.Provider.Value(f"PROVIDER_{vendor.upper()}"), id=order, **more
        )
        with contextlib.suppress(grpc.RpcError):
            random.choice(self.replicas).GetOrder(request, timeout=4, metadata=self.metadata)

    def call(self) -> None:
        """Asks as callers do, until the end."""
        while self.part() < 1:
            vendor = random.choice(list(ORDERS))
            order = random.choice(ORDERS[vendor])
            if vendor == "haoka" and self.within(CREDENTIALS):
                order = "error-signature"
            elif vendor == "wechat" and self.within(TOO_OFTEN):
                order = "errcode-45011"
            elif random.random() < 0.03:
                order = {
                    "wechat": random.choice(["token-refused-once", "status-unknown", "no-order"]),
                    "dingshang": "80002",
                    "haoka": "no-such-order",
                }[vendor]
            self.ask(vendor, order, **({"max_age": {}} if random.random() < 0.05 else {}))
            time.sleep(random.expovariate(4))

    def watch(self) -> None:
        """Watches an order, again and again."""
        while self.part() < 1:
            order = self.pb.OrderRef(
                provider=self.pb.PROVIDER_DINGSHANG, id=random.choice(ORDERS["dingshang"])
            )
            with contextlib.suppress(grpc.RpcError):
                request = self.pb.WatchOrderRequest(order=order)
                for _ in random.choice(self.replicas).WatchOrder(
                    request, timeout=random.uniform(20, 60), metadata=self.metadata
                ):
                    pass
            time.sleep(1)

    def batch(self) -> None:
        """Asks for several orders every second."""
        orders = [
            self.pb.OrderRef(provider=self.pb.PROVIDER_WECHAT, id=order)
            for order in ORDERS["wechat"]
        ]
        while self.part() < 1:
            with contextlib.suppress(grpc.RpcError):
                request = self.pb.BatchGetOrdersRequest(orders=random.sample(orders, 4))
                random.choice(self.replicas).BatchGetOrders(
                    request, timeout=4, metadata=self.metadata
                )
            time.sleep(1)

    def rush(self) -> None:
        """Asks for more at one time than the servers have places."""
        self.wait_for(RUSH[0])
        while self.within(RUSH):
            # An order that takes its vendor longer than its callers wait.
            asked = [
                threading.Thread(target=self.ask, args=("dingshang", "9013")) for _ in range(180)
            ]
            for thread in asked:
                thread.start()
            for thread in asked:
                thread.join()
            time.sleep(2)


@contextlib.contextmanager
def vendors() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A process for each vendor, so that one may hang alone; and the accounts."""
    with contextlib.ExitStack() as beside:
        accounts, children = "", []
        for vendor, settings in SETTINGS.items():
            child, lines = beside.enter_context(
                process(BINARY, "sandbox", "--listen", "127.0.0.1:0")
            )
            printed = ""
            while "haoka-sandbox-secret" not in printed:
                printed += next_line(lines, "")
            heading = f"[accounts.{vendor}-sandbox]\n"
            own = heading + printed.split(heading)[1].split("\n[")[0] + "\n"
            accounts += own.replace(heading, f"[accounts.{vendor}]\n") + settings
            children.append(child)
        yield accounts, children


@contextlib.contextmanager
def replica(config: pathlib.Path) -> Iterator[None]:
    """A replica that is up."""
    with process(BINARY, "serve", "--config", config) as (_, log):
        next_line(log, '"listening"')
        yield


@contextlib.contextmanager
def prometheus(root: pathlib.Path, replicas: list[int]) -> Iterator[str]:
    """A Prometheus that scrapes the replicas and has our rules; its address."""
    [port] = free_ports(1)
    config = root / "prometheus.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {
                    "scrape_interval": f"{SCRAPE_SECONDS}s",
                    "evaluation_interval": f"{SCRAPE_SECONDS}s",
                },
                "rule_files": [str(DEPLOY / "monitoring/rules.yaml")],
                "scrape_configs": [
                    {
                        "job_name": "order-query",
                        "static_configs": [
                            {"targets": [f"127.0.0.1:{replica}" for replica in replicas]}
                        ],
                    }
                ],
            }
        )
    )
    address = f"127.0.0.1:{port}"
    with process(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={root / 'data'}",
        f"--web.listen-address={address}",
    ) as (_, log):
        next_line(log, "Server is ready to receive web requests")
        yield address


@contextlib.contextmanager
def real_run(seconds: float) -> Iterator[tuple[str, float, float]]:
    """Lets it all happen. Then: Prometheus' address, and the run's begin and end."""
    with contextlib.ExitStack() as beside:
        root = pathlib.Path(
            beside.enter_context(tempfile.TemporaryDirectory(prefix="order-query-run-"))
        )
        secrets = root / "secrets"
        run(DEPLOY / "trial-secrets", secrets)
        redis_port, *ports = free_ports(5)
        _, log = beside.enter_context(
            process(
                "redis-server",
                "--port",
                str(redis_port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(root),
            )
        )
        next_line(log, "Ready to accept connections")
        accounts, [_, dingshang, _] = beside.enter_context(vendors())
        configs = []
        for number, (port, admin_port) in enumerate(zip(ports[:2], ports[2:], strict=True)):
            configs.append(root / f"replica-{number}.toml")
            configs[-1].write_text(
                CONFIG.format(
                    port=port,
                    admin_port=admin_port,
                    secrets=secrets,
                    redis_port=redis_port,
                    accounts=accounts,
                )
            )
        beside.enter_context(replica(configs[0]))
        leaving = beside.enter_context(contextlib.ExitStack())
        leaving.enter_context(replica(configs[1]))
        address = beside.enter_context(prometheus(root, ports[2:]))
        # Two scrapes of what there was before anybody asked.
        time.sleep(2 * SCRAPE_SECONDS)

        callers = Callers(seconds, ports[:2], secrets)
        asking = [
            threading.Thread(target=ask)
            for ask in [*[callers.call] * 16, *[callers.watch] * 6, callers.batch, callers.rush]
        ]
        for thread in asking:
            thread.start()
        token = secrets / "callers/trial"
        callers.wait_for(TOKEN_CHANGES)
        kept = token.read_text()
        token.write_text("another-token-of-the-run\n")
        callers.wait_for(VENDOR_HANGS[0])
        dingshang.send_signal(signal.SIGSTOP)
        callers.wait_for(VENDOR_HANGS[1])
        dingshang.send_signal(signal.SIGCONT)
        token.write_text(kept)
        callers.wait_for(TOKEN_UNFIT)
        token.write_text("two\nlines\n")
        callers.wait_for(REPLICA_GONE[0])
        # What is unfit would keep it from starting again.
        token.write_text(kept)
        leaving.close()
        callers.wait_for(REPLICA_GONE[1])
        beside.enter_context(replica(configs[1]))
        for thread in asking:
            thread.join()
        yield address, callers.begin, time.time()
