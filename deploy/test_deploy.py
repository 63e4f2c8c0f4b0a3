"""The manifests, as a cluster would take them: built by kubectl, held against Kubernetes' own schemas
and the pod security standard, and the real server run with exactly what they mount and ask for.

`make test` runs it. What stands for the kubelet is here: `mounted` lays a pod's volumes out, `serving`
runs its command. No cluster is asked, and nothing leaves the machine.
"""

import base64
import concurrent.futures
import contextlib
import json
import pathlib
import queue
import re
import shutil
import socket
import sys
import time
import tomllib
from collections.abc import Iterator

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import BINARY, DEPLOY, ROOT, SECONDS, next_line, page, process, run

KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")

# The oldest version with everything used here, and the newest with schemas.
KUBERNETES = ["1.31", "1.37"]
NAMESPACE = "order-query"
PLACEHOLDER = "REPLACE-ME"
TOKEN = "token-of-the-tests-of-the-manifests"

OVERLAYS = sorted(f"overlays/{path.name}" for path in (DEPLOY / "overlays").iterdir())
# Those with everything that a pod needs. `example` is filled in below.
WHOLE = ["filled", "filled-standalone", "overlays/sandbox", "overlays/sandbox-redis"]
SANDBOXES = [name for name in WHOLE if "sandbox" in name]
EVERY = [*OVERLAYS, "example", *WHOLE[:2]]


@pytest.fixture(scope="session")
def deploy(tmp_path_factory) -> pathlib.Path:
    """A copy of this folder with the sandbox's secrets made, and `example` filled in twice."""
    copy = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(DEPLOY, copy, symlinks=True,
                    ignore=shutil.ignore_patterns("secrets", "made-by-*", "__pycache__"))
    shutil.copytree(DEPLOY / "example/secrets", copy / "example/secrets")
    run(copy / "trial-secrets")
    secrets = copy / "components/sandbox/made-by-trial-secrets"

    for name in ["filled", "filled-standalone"]:
        filled = copy / name
        shutil.copytree(copy / "example", filled, symlinks=True)
        for path in filled.rglob("secrets/**/*"):
            if path.is_file():
                assert path.read_text() == f"{PLACEHOLDER}\n", f"{path} is not marked"
                path.write_text(f"{TOKEN}\n")
        for file in ["tls.crt", "tls.key"]:
            shutil.copy(secrets / "tls" / file, filled / "secrets/tls" / file)
        (filled / "secrets/store/url").write_text("redis://127.0.0.1:6379/0\n")
        config = filled / "config.toml"
        config.write_text(re.sub(PLACEHOLDER, "filled-in", config.read_text(), flags=re.IGNORECASE))
    file = copy / "filled-standalone/kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    kustomization["resources"] = ["../overlays/standalone"]
    kustomization["secretGenerator"] = [
        generator for generator in kustomization["secretGenerator"]
        if generator["name"] != "order-query-store"
    ]
    file.write_text(yaml.safe_dump(kustomization))
    return copy


@pytest.fixture(scope="session")
def built(deploy: pathlib.Path) -> dict[str, list[dict]]:
    """The objects of every overlay."""
    return {
        name: list(yaml.safe_load_all(run(KUBECTL, "kustomize", deploy / name)))
        for name in EVERY
    }


def of_kind(objects: list[dict], kind: str) -> list[dict]:
    """Those of one kind."""
    return [found for found in objects if found["kind"] == kind]


def named(objects: list[dict], kind: str, name: str = "order-query") -> dict:
    """The one of this kind and name."""
    [found] = [found for found in of_kind(objects, kind) if found["metadata"]["name"] == name]
    return found


def pods(objects: list[dict]) -> list[dict]:
    """The templates of all pods."""
    return [found["spec"]["template"]["spec"] for found in objects
            if "template" in found.get("spec", {})]


def server_pod(objects: list[dict]) -> dict:
    """The template of the server's pods."""
    return named(objects, "Deployment")["spec"]["template"]["spec"]


def containers(pod: dict) -> list[dict]:
    """All containers of a pod."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def server_container(objects: list[dict]) -> dict:
    """The server itself."""
    [found] = server_pod(objects)["containers"]
    return found


def seconds(text: str) -> int:
    """A duration in seconds."""
    assert text.endswith("s")
    return int(text[:-1])


def longest_stop(config: str) -> int:
    """The most seconds that the server with this configuration takes to stop."""
    [row] = [line for line in (ROOT / "docs/configuration.md").read_text().splitlines()
             if line.startswith("| `drain_timeout` |")]
    default = row.split("|")[-2].strip().strip('`"')
    return seconds(tomllib.loads(config)["server"].get("drain_timeout", default))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", EVERY)
def test_manifests_match_the_schemas(built, name, version):
    for found in built[name]:
        kubernetes_validate.validate(found, version, strict=True)


# The standard "restricted", baseline included: https://kubernetes.io/docs/concepts/security/
# pod-security-standards/. What a field may be, and whether it may be absent.
HOST = ["hostNetwork", "hostPID", "hostIPC"]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
           "projected", "secret"}
POD_SECURITY = {
    "host namespaces": lambda pod, _: not any(pod.get(field) for field in HOST),
    "volume types": lambda pod, _: all(
        set(volume) - {"name"} <= VOLUMES for volume in pod.get("volumes", [])
    ),
    "sysctls": lambda pod, _: not pod["securityContext"].get("sysctls"),
    "host ports": lambda _, container: not any(
        port.get("hostPort") for port in container.get("ports", [])
    ),
    "privileged": lambda _, container: not container["securityContext"].get("privileged"),
    "privilege escalation": lambda _, container: (
        container["securityContext"].get("allowPrivilegeEscalation") is False
    ),
    "capabilities": lambda _, container: (
        container["securityContext"].get("capabilities") == {"drop": ["ALL"]}
    ),
    "non-root": lambda pod, container: (
        {**pod["securityContext"], **container["securityContext"]}.get("runAsNonRoot") is True
    ),
    "non-root user": lambda pod, container: (
        {**pod["securityContext"], **container["securityContext"]}.get("runAsUser", 0) != 0
    ),
    "seccomp": lambda pod, container: (
        {**pod["securityContext"], **container["securityContext"]}.get("seccompProfile")
        == {"type": "RuntimeDefault"}
    ),
    # Not part of the standard: our own rules.
    "read-only root": lambda _, container: (
        container["securityContext"].get("readOnlyRootFilesystem") is True
    ),
    "no token of the cluster": lambda pod, _: pod.get("automountServiceAccountToken") is False,
    "whole directories": lambda _, container: not any(
        "subPath" in mount or "subPathExpr" in mount
        for mount in container.get("volumeMounts", [])
    ),
    "bounded memory": lambda _, container: (
        "memory" in container["resources"]["limits"] and container["resources"]["requests"]
    ),
}


@pytest.mark.parametrize("rule", POD_SECURITY)
@pytest.mark.parametrize("name", EVERY)
def test_pods_are_restricted(built, name, rule):
    checked = [(pod, container) for pod in pods(built[name]) for container in containers(pod)]
    assert checked
    for pod, container in checked:
        assert POD_SECURITY[rule](pod, container), container["name"]


@pytest.mark.parametrize("name", EVERY)
def test_all_objects_are_in_one_restricted_namespace(built, name):
    namespace = named(built[name], "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for found in built[name]:
        if found is not namespace:
            assert found["metadata"]["namespace"] == NAMESPACE, found["metadata"]["name"]
    assert named(built[name], "ServiceAccount")["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", EVERY)
def test_selectors_and_ports_find_the_pods(built, name):
    objects = built[name]
    deployment = named(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = named(objects, "Service")
    assert service["spec"]["clusterIP"] == "None"
    policy = named(objects, "NetworkPolicy")
    for selector in [
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
        named(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"]
          for spread in server_pod(objects)["topologySpreadConstraints"]),
    ]:
        assert selector
        assert selector.items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in server_container(objects)["ports"]}
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["grpc"]
    opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert opened == ["grpc", "admin"] == list(ports)
    scrape = deployment["spec"]["template"]["metadata"]["annotations"]
    assert scrape == {"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics",
                      "prometheus.io/port": str(ports["admin"])}


@pytest.mark.parametrize("name", EVERY)
def test_only_listed_network_traffic_is_allowed(built, name):
    closed = named(built[name], "NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for rule, who in zip(named(built[name], "NetworkPolicy")["spec"]["ingress"],
                         ["callers", "scrapes"], strict=True):
        [source] = rule["from"]
        assert source == {"namespaceSelector": {"matchLabels": {f"order-query/{who}": "true"}}}
    out = {port["port"] for rule in named(built[name], "NetworkPolicy")["spec"]["egress"]
           for port in rule["ports"]}
    redis = of_kind(built[name], "HorizontalPodAutoscaler")
    sentinels = {26379} if name == "overlays/sentinel" else set()
    assert out == ({53, 443, 6379} | sentinels if redis else {53, 443})


@pytest.mark.parametrize("name", [name for name in EVERY if "standalone" in name or
                                  name == "overlays/sandbox"])
def test_the_store_file_has_one_process_at_a_time(built, name):
    spec = named(built[name], "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert not of_kind(built[name], "HorizontalPodAutoscaler")
    claim = named(built[name], "PersistentVolumeClaim")
    [store] = [volume for volume in server_pod(built[name])["volumes"]
               if "persistentVolumeClaim" in volume]
    assert store["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [mount] = [mount for mount in server_container(built[name])["volumeMounts"]
               if mount["name"] == store["name"]]
    [secret] = [found for found in of_kind(built[name], "Secret")
                if found["metadata"]["name"].startswith("order-query-store-")]
    url = base64.b64decode(secret["data"]["url"]).decode()
    assert pathlib.PurePath(url.removeprefix("file:")).parent == pathlib.PurePath(
        mount["mountPath"])


@pytest.mark.parametrize("name", ["overlays/redis", "overlays/sentinel", "example", "filled",
                                  "overlays/sandbox-redis"])
def test_replicas_are_replaced_one_by_one(built, name):
    spec = named(built[name], "Deployment")["spec"]
    rolling = {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    # Set by the autoscaler: a number here would override it at each `kubectl apply`.
    assert "replicas" not in spec
    autoscaler = named(built[name], "HorizontalPodAutoscaler")["spec"]
    assert autoscaler["minReplicas"] == 3
    assert autoscaler["scaleTargetRef"]["name"] == "order-query"
    # It scales by the CPU request.
    assert server_container(built[name])["resources"]["requests"]["cpu"]


def test_overlays_generate_only_store_objects(built):
    for name in ["overlays/standalone", "overlays/redis", "overlays/sentinel"]:
        names = [found["metadata"]["name"] for kind in ["Secret", "ConfigMap"]
                 for found in of_kind(built[name], kind)]
        assert all(found.startswith("order-query-store-") for found in names), names


def test_only_changes_of_config_and_store_restart_pods(built):
    names = {found["metadata"]["name"] for kind in ["Secret", "ConfigMap"]
             for found in of_kind(built["filled"], kind)}
    hashed = {name for name in names
              if name.startswith(("order-query-config-", "order-query-store-"))}
    assert len(hashed) == 2
    assert names - hashed == {f"order-query-{part}" for part in ["tls", "vendors", "callers"]}


def mounted(objects: list[dict], root: pathlib.Path) -> None:
    """Lays out what the kubelet would mount into the server's container, under `root`: the files
    behind links, as it does."""
    sources = {found["metadata"]["name"]: found for kind in ["ConfigMap", "Secret"]
               for found in of_kind(objects, kind)}
    volumes = {volume["name"]: volume for volume in server_pod(objects)["volumes"]}
    for mount in server_container(objects)["volumeMounts"]:
        volume = volumes.pop(mount["name"])
        folder = root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True)
        if "configMap" in volume:
            files = {name: text.encode() for name, text
                     in sources[volume["configMap"]["name"]]["data"].items()}
        elif "secret" in volume:
            files = {name: base64.b64decode(text) for name, text
                     in sources[volume["secret"]["secretName"]]["data"].items()}
        else:
            continue
        (folder / "..2026").mkdir()
        (folder / "..data").symlink_to("..2026")
        for name, content in files.items():
            (folder / "..2026" / name).write_bytes(content)
            (folder / name).symlink_to(f"..data/{name}")
    assert not volumes, f"not mounted: {volumes}"


def rewrite(path: pathlib.Path, *changes: tuple[str, str]) -> None:
    """Replaces texts of a file; each must be there."""
    text = path.read_text()
    for old, new in changes:
        assert old in text, f"{old} is not in {path}"
        text = text.replace(old, new)
    path.write_text(text)


def config_file(args: list[str]) -> pathlib.Path:
    """The configuration file that a command names."""
    return pathlib.Path(args[args.index("--config") + 1])


def here(objects: list[dict], root: pathlib.Path) -> list[str]:
    """Lays the container out for this machine, and returns its command. Only the paths of the
    folders differ."""
    mounted(objects, root)
    args = [arg.replace("/etc/order-query", f"{root}/etc/order-query")
            for arg in server_container(objects)["args"]]
    rewrite(config_file(args), ("/etc/order-query", f"{root}/etc/order-query"))
    url = root / "etc/order-query/store/url"
    url.write_text(url.read_text().replace("file:", f"file:{root}"))
    return args


@pytest.mark.parametrize("name", WHOLE)
def test_the_configuration_passes_check(built, tmp_path, name):
    [_, *config] = here(built[name], tmp_path)
    told = run(BINARY, "check", *config)
    assert told == "the configuration is valid; accounts: 3, clients: 1\n"


def test_unfilled_placeholders_prevent_the_start(built, tmp_path):
    [_, *config] = here(built["example"], tmp_path)
    told = run(BINARY, "check", *config, code=78)
    # Exactly what has to be filled in.
    assert {line.split(": ")[0] for line in told.splitlines()[1:]} == {
        "server.tls.cert_file", "server.tls.key_file", "store.url", "clients.billing.token",
        "accounts.service-market.app_id", "accounts.service-market.app_secret",
        "accounts.vending.base_url", "accounts.vending.app_id", "accounts.vending.app_secret",
        "accounts.vending.app_key", "accounts.cards.user_id", "accounts.cards.secret",
    }
    assert run(BINARY, "serve", *config, code=78) == told


@pytest.mark.parametrize("name", ["example", "filled", "filled-standalone"])
def test_a_filled_in_installation_can_be_checked(deploy, name):
    """As in docs/install.md, with its files as they are stored."""
    command = "order-query check --root deploy/production --config deploy/production/config.toml"
    assert f"\n{command}\n" in (ROOT / "docs/install.md").read_text()
    arguments = command.replace("deploy/production", str(deploy / name)).split()[1:]
    told = run(BINARY, *arguments, code=78 if name == "example" else 0)
    if name == "example":
        assert "\naccounts.cards.secret: still contains the example's REPLACE-ME" in told, told
    else:
        assert told == "the configuration is valid; accounts: 3, clients: 1\n"


@pytest.mark.parametrize("name", WHOLE)
def test_the_files_of_a_pod_can_be_checked_elsewhere(built, tmp_path, name):
    """Below a root, with everything mounted except the volume of the store."""
    mounted(built[name], tmp_path)
    shutil.rmtree(tmp_path / "var", ignore_errors=True)
    [_, *arguments] = server_container(built[name])["args"]
    arguments = [arg.replace("/etc/order-query", f"{tmp_path}/etc/order-query")
                 for arg in arguments]
    told = run(BINARY, "check", "--root", tmp_path, *arguments)
    assert told == "the configuration is valid; accounts: 3, clients: 1\n"


@pytest.mark.parametrize("name", WHOLE)
def test_the_grace_period_outlasts_the_drain(built, name):
    grace = server_pod(built[name])["terminationGracePeriodSeconds"]
    assert grace >= longest_stop(config_text(built[name])) + 5


def config_text(objects: list[dict]) -> str:
    """The mounted configuration."""
    [found] = of_kind(objects, "ConfigMap")
    return found["data"]["config.toml"]


@pytest.mark.parametrize("name", WHOLE)
def test_listeners_match_ports_and_probes(built, name):
    config = tomllib.loads(config_text(built[name]))
    container = server_container(built[name])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config["server"]["listen"] == f"0.0.0.0:{ports['grpc']}"
    assert config["admin"]["listen"] == f"0.0.0.0:{ports['admin']}"
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        assert container[probe]["grpc"]["port"] == ports["admin"]
    # No plaintext, and no unidentified callers.
    assert config["server"]["tls"]
    assert config["clients"]


def test_the_configurations_differ_in_accounts_and_callers_only(built):
    one, other = (tomllib.loads(config_text(built[name])) for name in WHOLE[1:3])
    for table in ["server", "admin", "store"]:
        assert one[table] == other[table]


@pytest.mark.parametrize("name", WHOLE)
def test_images_have_the_version_of_the_crate(built, name):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    images = {container["image"] for container in containers(server_pod(built[name]))}
    expected = "order-query" if name in SANDBOXES else "registry.example/order-query"
    assert images == {f"{expected}:{version}"}


@contextlib.contextmanager
def vendors(config: pathlib.Path, args: list[str]) -> Iterator[None]:
    """Runs the sandbox as its container does, on free ports that the configuration then names."""
    address = args[args.index("--listen") + 1]
    host, port = address.split(":")
    accounts = tomllib.loads(config.read_text())["accounts"]
    with process(BINARY, *(arg.replace(address, f"{host}:0") for arg in args)) as (_, lines):
        printed = ""
        # The vendors listen in the order of their accounts, and each secret is its account's last key.
        while f"{list(accounts)[-1]}-secret" not in printed:
            printed += next_line(lines, "")
        played = tomllib.loads(printed)["accounts"]
        for offset, (name, account) in enumerate(played.items()):
            url = accounts[name]["base_url"]
            assert url == f"http://{host}:{int(port) + offset}"
            rewrite(config, (url, account["base_url"]))
        assert tomllib.loads(config.read_text())["accounts"] == played
        yield


@contextlib.contextmanager
def redis(url: pathlib.Path, args: list[str]) -> Iterator[None]:
    """Runs a Redis with these arguments, at a free port that the URL then names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["--port", str(port), "--dir", str(url.parent.parent)]
    if "--bind" not in args:
        command += ["--bind", "127.0.0.1"]
    with process(*args, *command) as (_, lines):
        next_line(lines, "Ready to accept connections")
        url.write_text(f"redis://127.0.0.1:{port}/0")
        yield


@contextlib.contextmanager
def serving(root: pathlib.Path, args: list[str], drain_delay: str = "0s",
            ) -> Iterator[tuple[str, str, queue.Queue]]:
    """Runs the server; its two addresses, and its log from then on."""
    rewrite(config_file(args),
            ('"0.0.0.0:50051"', '"127.0.0.1:0"'), ('"0.0.0.0:9090"', '"127.0.0.1:0"'),
            ("[server]\n", f'[server]\ndrain_delay = "{drain_delay}"\n'))
    with process(BINARY, *args) as (_, lines):
        listening = json.loads(next_line(lines, '"listening"'))
        yield listening["address"], listening["admin_address"], lines


def serves(address: str, probe: dict) -> None:
    """Probes as the kubelet does, until the answer is SERVING: a shared store connects a moment
    after the start."""
    request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        end = time.monotonic() + SECONDS
        while check(request, timeout=SECONDS).status != health_pb2.HealthCheckResponse.SERVING:
            assert time.monotonic() < end, f"{request} is not SERVING"
            time.sleep(0.1)


def ask(address: str, root: pathlib.Path, *more: str, code: int = 0) -> str:
    """Fetches an order as documented."""
    return run(BINARY, "get", "haoka", "shipped", "--endpoint",
               f"https://localhost:{address.rsplit(':')[-1]}",
               "--ca-file", root / "etc/order-query/tls/ca.crt", *more, code=code)


def orders_are_answered(address: str, root: pathlib.Path) -> None:
    """An order of the sandbox is returned with a token, and refused without."""
    token = root / "etc/order-query/callers/trial"
    assert "SHIPPED" in ask(address, root, "--token-file", str(token))
    assert "CALLER_UNAUTHENTICATED" in ask(address, root, code=1)


def trial_redis(objects: list[dict]) -> list[str]:
    """How the overlay runs its Redis; an external one needs no more than this."""
    for found in of_kind(objects, "Deployment"):
        if found["metadata"]["name"] == "redis":
            return found["spec"]["template"]["spec"]["containers"][0]["args"]
    return ["redis-server", "--save", "", "--maxmemory-policy", "noeviction"]


def sidecar(objects: list[dict]) -> list[str]:
    """How the sandbox runs beside the server."""
    [found] = server_pod(objects)["initContainers"]
    assert found["restartPolicy"] == "Always"
    return found["args"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_server_runs_and_answers_its_probes(built, tmp_path, name):
    objects = built[name]
    args = here(objects, tmp_path)
    with contextlib.ExitStack() as beside:
        if of_kind(objects, "HorizontalPodAutoscaler"):
            url = tmp_path / "etc/order-query/store/url"
            beside.enter_context(redis(url, trial_redis(objects)))
        if name in SANDBOXES:
            beside.enter_context(vendors(config_file(args), sidecar(objects)))
        address, admin, _ = beside.enter_context(serving(tmp_path, args))
        for kind in ["startupProbe", "livenessProbe", "readinessProbe"]:
            serves(admin, server_container(objects)[kind])
        scrape = named(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        assert "\norder_query_ready 1\n" in page(admin, scrape["prometheus.io/path"])
        if name in SANDBOXES:
            orders_are_answered(address, tmp_path)


def test_no_call_is_lost_when_a_replica_stops(built, tmp_path):
    sys.path.append(str(ROOT / "proto"))
    pb, services = grpc.protos_and_services("orderquery/v1/order_service.proto")
    objects = built["overlays/sandbox-redis"]
    roots = [tmp_path / "staying", tmp_path / "leaving"]
    commands = [here(objects, root) for root in roots]
    urls = [root / "etc/order-query/store/url" for root in roots]
    etc = roots[0] / "etc/order-query"
    with contextlib.ExitStack() as beside:
        beside.enter_context(redis(urls[0], trial_redis(objects)))
        shutil.copyfile(urls[0], urls[1])
        for args in commands:
            beside.enter_context(vendors(config_file(args), sidecar(objects)))
        staying = beside.enter_context(serving(roots[0], commands[0]))
        leave = beside.enter_context(contextlib.ExitStack())
        leaving = leave.enter_context(serving(roots[1], commands[1], "1s"))
        for _, admin, _ in [staying, leaving]:
            serves(admin, server_container(objects)["readinessProbe"])

        channel = beside.enter_context(grpc.secure_channel(
            f"ipv4:{staying[0]},{leaving[0]}",
            grpc.ssl_channel_credentials((etc / "tls/ca.crt").read_bytes()),
            options=[("grpc.service_config", (ROOT / "clients/service-config.json").read_text()),
                     ("grpc.enable_http_proxy", 0),
                     # Otherwise it is the list of addresses, which is not a host name.
                     ("grpc.default_authority", "localhost")]))
        get = services.OrderServiceStub(channel).GetOrder
        token = (etc / "callers/trial").read_text().strip()
        asked = pb.GetOrderRequest(provider=pb.PROVIDER_HAOKA, id="settled")

        def ask() -> None:
            answer = get(asked, timeout=SECONDS, metadata=[("authorization", f"Bearer {token}")])
            assert answer.order.status == pb.ORDER_STATUS_SETTLED

        end = time.monotonic() + SECONDS
        while leaving[2].empty() or "answered" not in leaving[2].get():
            assert time.monotonic() < end, "one of them is never asked"
            ask()
        asked_meanwhile = 0
        with concurrent.futures.ThreadPoolExecutor() as pool:
            stopped = pool.submit(leave.close)
            while not stopped.done():
                ask()
                asked_meanwhile += 1
            stopped.result()
        ask()

        next_line(leaving[2], '"stopping')
        answered = []
        while (line := leaving[2].get(timeout=SECONDS)) is not None:
            answered += [json.loads(line)["code"]] if "answered" in line else []
        # It announced its shutdown before stopping: nearly all calls went to the other one, and
        # none was refused.
        assert len(answered) * 4 < asked_meanwhile
        assert set(answered) <= {"OK"}


def test_compose(deploy, tmp_path):
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    services = compose["services"]
    server, sandbox = services["server"], services["sandbox"]
    # The vendors and Redis are on the server's loopback only.
    for name in ["sandbox", "redis"]:
        assert services[name]["network_mode"] == "service:server"
        assert "ports" not in services[name]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])

    for volume in server["volumes"]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        place = tmp_path / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (deploy / source).is_dir() else shutil.copy
        copy(deploy / source, place)
    for config in server["configs"]:
        place = tmp_path / config["target"].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(compose["configs"][config["source"]]["content"])
    url = tmp_path / "etc/order-query/store/url"
    assert url.read_text() == "redis://127.0.0.1:6379/0"

    etc = f"{tmp_path}/etc/order-query"
    args = [arg.replace("/etc/order-query", etc) for arg in server["command"]]
    config = config_file(args)
    assert seconds(server["stop_grace_period"]) >= longest_stop(config.read_text()) + 5
    rewrite(config, ("/etc/order-query", etc))
    with redis(url, services["redis"]["command"]), vendors(config, sandbox["command"]), \
            serving(tmp_path, args) as (address, _, _):
        orders_are_answered(address, tmp_path)
