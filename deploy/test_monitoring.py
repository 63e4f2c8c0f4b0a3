"""The rules and the dashboard, held against what the real binary tells: every metric, label and
value that they name is on its page, and every alert has its cases and its explanation.

`make test` runs it. promtool is of Debian's package `prometheus`. Nothing leaves the machine.
"""

import contextlib
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import grpc
import promql_parser as promql
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from running import BINARY, DEPLOY, ROOT, SECONDS, next_line, page, process, run

MONITORING = DEPLOY / "monitoring"
ALERTS = {rule["alert"]: rule
          for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
          for rule in group["rules"]}
CASES = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

# The labels that Prometheus adds to each series: its source, and in a cluster its location.
ADDED = {"job", "instance", "namespace"}
# The one metric that is Prometheus' own.
UP = "up"
# Not every reason occurs below: a fault of the server itself, an expired deadline, a lost
# store. They are names of the contract.
REASONS = set(re.findall(r"\bERROR_REASON_(\w+) =",
                         (ROOT / "proto/orderquery/v1/order_service.proto").read_text()))

SECRETS = ["wechat-sandbox-secret", "dingshang-sandbox-secret", "dingshang-sandbox-key",
           "haoka-sandbox-secret", "secret-of-the-gone"]

# Orders of many ends, each once: vendor, account, id and the code of its answer. The sandbox's
# table says what they are. 4 calls of Dingshang are what the account's limit allows.
ENDS = [
    ("WECHAT", "wechat-sandbox", "status-2", "OK"),
    ("WECHAT", "wechat-sandbox", "status-2", "OK"),
    ("WECHAT", "wechat-sandbox", "token-refused-once", "OK"),
    ("WECHAT", "wechat-sandbox", "status-unknown", "OK"),
    ("WECHAT", "wechat-sandbox", "no-such-order", "NOT_FOUND"),
    ("WECHAT", "wechat-sandbox", "no-order", "INTERNAL"),
    ("WECHAT", "wechat-sandbox", "an id", "INVALID_ARGUMENT"),
    ("WECHAT", "invented", "status-2", "FAILED_PRECONDITION"),
    *(("DINGSHANG", "dingshang-sandbox", str(order), "OK") for order in range(101, 105)),
    ("DINGSHANG", "dingshang-sandbox", "105", "RESOURCE_EXHAUSTED"),
    ("HAOKA", "haoka-sandbox", "shipped", "OK"),
    ("HAOKA", "haoka-sandbox", "settled", "OK"),
    *(("HAOKA", "gone", f"gone-{order}", "UNAVAILABLE") for order in range(6)),
    ("HAOKA", "haoka-sandbox", "error-signature", "FAILED_PRECONDITION"),
    ("HAOKA", "haoka-sandbox", "error-frequent", "RESOURCE_EXHAUSTED"),
]


class Server:
    """A running server, as its callers and Prometheus see it."""

    def __init__(self, address: str, admin_address: str, root: pathlib.Path) -> None:
        self.admin_address = admin_address
        self.token = (root / "callers/trial").read_text().strip()
        self.channel = grpc.secure_channel(
            address, grpc.ssl_channel_credentials((root / "tls/ca.crt").read_bytes()),
            options=[("grpc.enable_http_proxy", 0)])
        sys.path.append(str(ROOT / "proto"))
        self.pb, services = grpc.protos_and_services("orderquery/v1/order_service.proto")
        self.orders = services.OrderServiceStub(self.channel)

    def ask(self, method, request, token: str | None = None) -> str:
        """The status code of a call; of a stream, at its end."""
        sent = [("authorization", f"Bearer {token or self.token}")]
        try:
            answer = method(request, timeout=SECONDS, metadata=sent)
            if isinstance(answer, Iterator):
                list(answer)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def order(self, vendor: str, account: str, order: str, machine_no: str = ""):
        """One order, as a batch and a watch name it."""
        provider = self.pb.Provider.Value(f"PROVIDER_{vendor}")
        return self.pb.OrderRef(provider=provider, account=account, id=order,
                                machine_no=machine_no)

    def get(self, *order: str, token: str | None = None) -> str:
        """Fetches one order."""
        named = self.order(*order)
        request = self.pb.GetOrderRequest(provider=named.provider, id=named.id,
                                          account=named.account, machine_no=named.machine_no)
        return self.ask(self.orders.GetOrder, request, token)

    def batch(self, *orders) -> str:
        """Fetches several orders."""
        request = self.pb.BatchGetOrdersRequest(orders=orders)
        return self.ask(self.orders.BatchGetOrders, request)

    def watch(self, *order: str) -> str:
        """Watches an order until it ends."""
        request = self.pb.WatchOrderRequest(order=self.order(*order))
        return self.ask(self.orders.WatchOrder, request)

    def call(self, method: str) -> str:
        """Calls a method by its path."""
        return self.ask(self.channel.unary_unary(method), b"")

    def page(self) -> str:
        """The metrics page, as Prometheus gets it."""
        return page(self.admin_address)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server with TLS, a caller, the sandbox's accounts, and one whose vendor is unreachable; it
    has handled all of `ENDS`."""
    root = tmp_path_factory.mktemp("monitored")
    run(DEPLOY / "trial-secrets", root)
    with contextlib.ExitStack() as beside:
        _, lines = beside.enter_context(process(BINARY, "sandbox", "--listen", "127.0.0.1:0"))
        accounts = ""
        while "haoka-sandbox-secret" not in accounts:
            accounts += next_line(lines, "")
        limited = "[accounts.dingshang-sandbox]\n"
        accounts = accounts.replace(limited, f"{limited}calls_per_minute = 4\n")
        config = root / "config.toml"
        config.write_text(f"""
[server]
listen = "127.0.0.1:0"
drain_delay = "0s"
[server.tls]
cert_file = "tls/tls.crt"
key_file = "tls/tls.key"
[admin]
listen = "127.0.0.1:0"
[clients.trial]
max_in_flight = 100
token = {{ file = "callers/trial" }}
{accounts}
[accounts.gone]
provider = "haoka"
base_url = "http://127.0.0.1:1"
user_id = "gone"
secret = "secret-of-the-gone"
""")
        _, log = beside.enter_context(process(BINARY, "serve", "--config", config))
        listening = json.loads(next_line(log, '"listening"'))
        up = Server(listening["address"], listening["admin_address"], root)
        for *order, code in ENDS:
            assert up.get(*order) == code, order
        settled = ("HAOKA", "haoka-sandbox", "settled")
        assert up.watch(*settled) == "OK"
        assert up.batch(up.order(*settled), up.order("WECHAT", "invented", "one")) == "OK"
        with up.channel:
            yield up


@pytest.fixture(scope="module")
def told(server) -> dict[str, Metric]:
    """The server's metrics, by name: counters end with `_total` here as well."""
    return {family.name + ("_total" if family.type == "counter" else ""): family
            for family in text_string_to_metric_families(server.page())}


@pytest.fixture(scope="module")
def values(told) -> dict[str, dict[str, set[str]]]:
    """The labels of each series' name, and the values that they have."""
    found: dict[str, dict[str, set[str]]] = {UP: {}}
    for sample in itertools.chain.from_iterable(family.samples for family in told.values()):
        labels = found.setdefault(sample.name, {})
        for label, value in sample.labels.items():
            labels.setdefault(label, set()).add(value)
    return found


def rules(path: pathlib.Path, expressions: list[str]) -> str:
    """promtool's output for these expressions, as rules in that file."""
    group = {"name": "panels", "rules": [{"record": f"panel:{number}", "expr": expression}
                                         for number, expression in enumerate(expressions)]}
    path.write_text(yaml.safe_dump({"groups": [group]}))
    return run("promtool", "check", "rules", path)


def filled(expression: str) -> str:
    """An expression of the dashboard as Grafana sends it, with everything selected."""
    whole = expression.replace("$__rate_interval", "5m")
    unknown = set(re.findall(r"\$(\w+)", whole)) - set(VARIABLES)
    assert not unknown, f"not variables of the dashboard: {unknown}"
    return re.sub(r"\$\w+", ".*", whole)


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the rules and the dashboard, and where it is."""
    for name, rule in ALERTS.items():
        yield name, rule["expr"]
    for title, panel in PANELS.items():
        for target in panel["targets"]:
            yield title, filled(target["expr"])
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            query = variable["query"]["query"]
            [selected] = re.findall(r"label_values\((.+), (\w+)\)", query)
            yield name, filled(f"count by ({selected[1]}) ({selected[0]})")


def parts(expression: str, kind: type) -> list:
    """The parts of an expression of this kind."""
    found = []

    def visit(part) -> None:
        # The parser does not treat a range's selector as an expression.
        part = getattr(part, "vector_selector", part)
        if isinstance(part, kind):
            found.append(part)

    promql.walk(promql.parse(expression), visit)
    return found


def labels_named(expression: str) -> set[str]:
    """The labels that series are aggregated or matched by."""
    modifiers = [part.modifier for part in parts(expression, promql.AggregateExpr)]
    modifiers += [part.modifier.matching for part in parts(expression, promql.BinaryExpr)
                  if part.modifier]
    return {label for modifier in modifiers if modifier for label in modifier.labels}


def test_promtool_accepts_the_metrics_page(server):
    done = subprocess.run(["promtool", "check", "metrics"], input=server.page(), encoding="utf-8",
                          capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_accepts_the_rules():
    assert "SUCCESS" in run("promtool", "check", "rules", MONITORING / "rules.yaml")


def test_the_rule_tests_pass():
    assert "SUCCESS" in run("promtool", "test", "rules", MONITORING / "rules_test.yaml")


def test_every_alert_has_a_firing_and_a_silent_case():
    cases = [(case["alertname"], bool(case.get("exp_alerts")))
             for test in CASES for case in test["alert_rule_test"]]
    assert {name for name, _ in cases} <= set(ALERTS)
    for name in ALERTS:
        assert {(name, True), (name, False)} <= set(cases), name
    # A case that does not fire has its own series, and is not only an earlier minute.
    quiet = {test["alert_rule_test"][0]["alertname"] for test in CASES
             if not any(case.get("exp_alerts") for case in test["alert_rule_test"])}
    assert quiet == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_have_a_severity_and_a_runbook(name):
    rule = ALERTS[name]
    assert name.startswith("OrderQuery")
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert headings.count(name) == 1


def test_documented_alerts_and_panels_exist():
    text = "".join((ROOT / f"docs/{page}.md").read_text() for page in ["operations", "runbook"])
    assert set(re.findall(r"\bOrderQuery[A-Z]\w+", text)) == set(ALERTS)
    titles = {" ".join(title.split()) for title in re.findall(r"\*([A-Z][^*]+\?)\*", text)}
    assert titles
    assert titles <= set(PANELS)


@pytest.mark.parametrize("place", sorted({place for place, _ in expressions()}))
def test_every_queried_series_exists(values, place):
    for expression in [found for where, found in expressions() if where == place]:
        selectors = parts(expression, promql.VectorSelector)
        assert selectors
        known = set(ADDED)
        for selector in selectors:
            assert selector.name in values, f"{selector.name} is not on the page"
            labels = values[selector.name]
            known |= set(labels)
            for matcher in selector.matchers.matchers:
                if matcher.name in ADDED:
                    continue
                assert matcher.name in labels, f"{selector.name} has no label {matcher.name}"
                told = REASONS if matcher.name == "reason" else labels[matcher.name]
                if matcher.value != ".*":
                    assert set(matcher.value.split("|")) <= told, f"{selector.name} {matcher}"
        assert labels_named(expression) <= known, f"{place}: {labels_named(expression) - known}"


def test_panels_are_complete(tmp_path):
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert len(PANELS) + len(rows) == len(ids), "two panels have one title"
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]),
                                      range(place["y"], place["y"] + place["h"])))
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    for title, panel in PANELS.items():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in [panel, *panel["targets"]]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
    panels = [filled(target["expr"]) for panel in PANELS.values() for target in panel["targets"]]
    assert f"{len(panels)} rules found" in rules(tmp_path / "panels.yaml", panels)


def test_legends_use_remaining_labels_only():
    for title, panel in PANELS.items():
        for target in panel["targets"]:
            expression = filled(target["expr"])
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            added_up = parts(expression, promql.AggregateExpr)
            assert named <= (labels_named(expression) if added_up else ADDED), title


def test_the_documented_scrape_configuration_is_valid(tmp_path):
    text = (ROOT / "docs/operations.md").read_text()
    [block] = re.findall(r"^```yaml\n(scrape_configs:.+?)^```", text, re.MULTILINE | re.DOTALL)
    config = yaml.safe_load(block)
    [job] = config["scrape_configs"]
    manifest = yaml.safe_load((DEPLOY / "base/deployment.yaml").read_text())
    [server] = manifest["spec"]["template"]["spec"]["containers"]
    assert job["relabel_configs"][0]["regex"] in [port["name"] for port in server["ports"]]
    # Debian's Prometheus is built without Kubernetes: the rest is checked.
    [pods] = job.pop("kubernetes_sd_configs")
    base = yaml.safe_load((DEPLOY / "base/kustomization.yaml").read_text())
    assert pods == {"role": "pod", "namespaces": {"names": [base["namespace"]]}}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "order-query").mkdir()
    shutil.copy(MONITORING / "rules.yaml", tmp_path / "order-query")
    told = run("promtool", "check", "config", tmp_path / "prometheus.yaml")
    assert f"{len(ALERTS)} rules found" in told


def test_every_metric_is_documented(told):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in (ROOT / "docs/metrics.md").read_text().splitlines()
            if line.startswith("| `")]
    explained = {name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels)))
                 for name, kind, labels, _ in rows}
    assert len(explained) == len(rows)
    served = {name: (family.type, {label for sample in family.samples
                                   for label in sample.labels if label != "le"})
              for name, family in told.items()}
    assert explained == served


def test_the_page_names_no_order_and_no_secret(server):
    text = server.page()
    ids = {order for _, _, order, _ in ENDS if not order.isdecimal()}
    for kept in [*SECRETS, server.token, *ids, "no-such-order"]:
        assert kept not in text
    # Numbers may appear as values, but in no label.
    for order in (order for _, _, order, _ in ENDS if order.isdecimal()):
        assert f'"{order}"' not in text


def test_caller_input_creates_no_series(server):
    def send(number: int) -> None:
        odd = f"invented-{number}"
        server.get("WECHAT", "wechat-sandbox", odd)
        server.get("WECHAT", odd, odd)
        machine_no = str(20_000_000 + number)
        server.get("DINGSHANG", "dingshang-sandbox", str(7_000_000 + number), machine_no)
        if number % 10 == 0:
            server.get("HAOKA", "gone", odd, token=f"{odd}-token-of-nobody")
            server.call(f"/orderquery.v1.OrderService/{odd}")
            server.call(f"/{odd}/GetOrder")
            server.batch(*(server.order("HAOKA", odd, f"{odd}-{n}") for n in range(9)))
            server.watch("HAOKA", odd, odd)

    def series() -> set[tuple]:
        families = text_string_to_metric_families(server.page())
        return {(sample.name, *sorted(sample.labels.items()))
                for family in families for sample in family.samples}

    # The first one of each kind may be the first with its outcome, which adds a series.
    send(0)
    before = series()
    for number in range(1, 501):
        send(number)
    assert series() == before
