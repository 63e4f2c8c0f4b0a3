"""A caller's view of the server: every vendor, every error that the sandbox plays, health and
reflection, with the libraries that a Python caller would use and nothing of ours.

`make test` runs it. The ids are the sandbox's: docs/sandbox.md lists them.
"""

import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import pytest
from conftest import STUBS, Server, running
from google.protobuf import descriptor_pool, duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from orderquery.v1 import order_service_pb2 as pb
from orderquery.v1 import order_service_pb2_grpc

WECHAT, DINGSHANG, HAOKA = pb.PROVIDER_WECHAT, pb.PROVIDER_DINGSHANG, pb.PROVIDER_HAOKA
NAMES = {number: name.removeprefix("PROVIDER_").lower() for name, number in pb.Provider.items() if number}
SERVICE = "orderquery.v1.OrderService"
MACHINE = "16327129"
CLIENTS = pathlib.Path(__file__).parents[1]

# The sandbox's ids.
WECHAT_PAID = "DD2981741311549200000"
DINGSHANG_PAID = "54"
HAOKA_SHIPPED = "shipped"
HAOKA_SETTLED = "settled"
SLOW = "fault-slow"


@dataclasses.dataclass(frozen=True)
class Case:
    """A request that fails, and its error."""

    provider: int
    id: str
    code: grpc.StatusCode
    reason: str
    account: str = ""
    machine_no: str = ""
    max_age: int | None = None
    field: str = ""
    provider_code: str = ""

    def __str__(self) -> str:
        return f"{self.reason}-{NAMES.get(self.provider, 'none')}-{self.field or self.id}"


Code = grpc.StatusCode
CASES = [
    # Rejected before a vendor is called.
    Case(pb.PROVIDER_UNSPECIFIED, "1", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="provider"),
    Case(99, "1", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="provider"),
    Case(WECHAT, "", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="id"),
    Case(WECHAT, "a&b=c", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="id"),
    Case(HAOKA, "订单", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="id"),
    Case(DINGSHANG, "054", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="id"),
    Case(DINGSHANG, DINGSHANG_PAID, Code.INVALID_ARGUMENT, "INVALID_REQUEST", machine_no="1632",
         field="machine_no"),
    Case(HAOKA, HAOKA_SHIPPED, Code.INVALID_ARGUMENT, "INVALID_REQUEST", machine_no=MACHINE,
         field="machine_no"),
    Case(HAOKA, HAOKA_SHIPPED, Code.INVALID_ARGUMENT, "INVALID_REQUEST", max_age=-1,
         field="max_age"),
    Case(WECHAT, WECHAT_PAID, Code.FAILED_PRECONDITION, "PROVIDER_NOT_CONFIGURED",
         account="no-such-account"),
    # What the vendors answer.
    Case(WECHAT, "errcode-10120002", Code.INVALID_ARGUMENT, "INVALID_REQUEST", field="id",
         provider_code="10120002"),
    Case(DINGSHANG, DINGSHANG_PAID, Code.INVALID_ARGUMENT, "INVALID_REQUEST",
         machine_no="99999999", field="machine_no", provider_code="30003"),
    Case(WECHAT, "no-such-order", Code.NOT_FOUND, "ORDER_NOT_FOUND", provider_code="10120800"),
    Case(DINGSHANG, "80002", Code.NOT_FOUND, "ORDER_NOT_FOUND", provider_code="80002"),
    Case(HAOKA, "no-such-order", Code.NOT_FOUND, "ORDER_NOT_FOUND", provider_code="-1"),
    Case(DINGSHANG, "40005", Code.FAILED_PRECONDITION, "ORDER_EXPIRED", provider_code="40005"),
    Case(WECHAT, "errcode-45009", Code.RESOURCE_EXHAUSTED, "PROVIDER_QUOTA_EXHAUSTED",
         provider_code="45009"),
    Case(WECHAT, "errcode-45011", Code.RESOURCE_EXHAUSTED, "PROVIDER_QUOTA_EXHAUSTED",
         provider_code="45011"),
    Case(HAOKA, "error-frequent", Code.RESOURCE_EXHAUSTED, "PROVIDER_QUOTA_EXHAUSTED",
         provider_code="-1"),
    Case(WECHAT, "errcode--1", Code.UNAVAILABLE, "PROVIDER_UNAVAILABLE", provider_code="-1"),
    Case(DINGSHANG, "9002", Code.UNAVAILABLE, "PROVIDER_UNAVAILABLE"),
    Case(HAOKA, "fault-503", Code.UNAVAILABLE, "PROVIDER_UNAVAILABLE"),
    # The account's timeout ends it, before any deadline.
    Case(WECHAT, "fault-hang", Code.UNAVAILABLE, "PROVIDER_UNAVAILABLE"),
    Case(WECHAT, "errcode-48001", Code.FAILED_PRECONDITION, "PROVIDER_CREDENTIALS_REJECTED",
         provider_code="48001"),
    # A token that is still refused after its renewal.
    Case(WECHAT, "errcode-40001", Code.FAILED_PRECONDITION, "PROVIDER_CREDENTIALS_REJECTED",
         provider_code="40001"),
    Case(DINGSHANG, "10014", Code.FAILED_PRECONDITION, "PROVIDER_CREDENTIALS_REJECTED",
         provider_code="10014"),
    Case(HAOKA, "error-signature", Code.FAILED_PRECONDITION, "PROVIDER_CREDENTIALS_REJECTED",
         provider_code="-1"),
    Case(WECHAT, "other-order", Code.INTERNAL, "PROVIDER_RESPONSE_INVALID"),
    Case(DINGSHANG, "9008", Code.INTERNAL, "PROVIDER_RESPONSE_INVALID"),
    Case(HAOKA, "fault-types", Code.INTERNAL, "PROVIDER_RESPONSE_INVALID"),
    Case(WECHAT, "errcode-10120405", Code.UNKNOWN, "PROVIDER_ERROR", provider_code="10120405"),
    Case(DINGSHANG, "404", Code.UNKNOWN, "PROVIDER_ERROR", provider_code="404"),
    Case(HAOKA, "error-unknown", Code.UNKNOWN, "PROVIDER_ERROR", provider_code="-1"),
]
RETRIED = {"PROVIDER_QUOTA_EXHAUSTED", "PROVIDER_UNAVAILABLE"}


class WithDeadline(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
                   grpc.StreamStreamClientInterceptor):
    """Gives every call a deadline, those inside the libraries too: no test may hang."""

    def _call(self, continuation, details, request):
        if details.timeout is None:
            details = details._replace(timeout=20)
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _call


def connect(address: str) -> grpc.Channel:
    """A channel straight to the server, whatever proxy the environment sets."""
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    return grpc.intercept_channel(channel, WithDeadline())


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    """To the main listener."""
    with connect(server.address) as open_channel:
        yield open_channel


@pytest.fixture
def admin_channel(server: Server) -> Iterator[grpc.Channel]:
    """To the admin listener."""
    with connect(server.admin_address) as open_channel:
        yield open_channel


@pytest.fixture
def orders(channel: grpc.Channel) -> order_service_pb2_grpc.OrderServiceStub:
    """The service under test."""
    return order_service_pb2_grpc.OrderServiceStub(channel)


def failure(call, *args, **kwargs) -> grpc.RpcError:
    """The error of the call."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    return caught.value


def details(error: grpc.RpcError) -> dict:
    """The details of an error, by their type."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details came with {error}"
    known = [error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo,
             error_details_pb2.BadRequest, error_details_pb2.QuotaFailure]
    found = {}
    for detail in status.details:
        for kind in known:
            if detail.Is(kind.DESCRIPTOR):
                assert kind not in found, f"two {kind.__name__} in {error}"
                detail.Unpack(found.setdefault(kind, kind()))
    return found


def info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The reason of the failure."""
    found = details(error)[error_details_pb2.ErrorInfo]
    assert found.domain == "orderquery"
    return found


def assert_live(response: pb.GetOrderResponse) -> None:
    """The answer was just fetched from the vendor."""
    assert response.source == pb.SOURCE_LIVE
    assert abs(time.time() - response.order.observe_time.ToSeconds()) < 60
    assert response.order.terminal is False


def test_wechat_order(orders):
    response = orders.GetOrder(pb.GetOrderRequest(provider=WECHAT, id=WECHAT_PAID))
    assert_live(response)
    order = response.order
    assert (order.provider, order.account, order.id) == (WECHAT, "wechat-sandbox", WECHAT_PAID)
    assert (order.status, order.provider_status) == (pb.ORDER_STATUS_PAID, "2")
    assert (order.total.currency_code, order.total.minor_units) == ("CNY", 1)
    assert order.create_time.ToMilliseconds() == 1687265841964
    assert order.update_time.ToMilliseconds() == 1687267671475
    assert order.payment.apply_time.ToSeconds() == 1687265845
    assert order.payment.finish_time.ToSeconds() == 1687265856
    assert order.create_date == ""
    assert order.invoice.status == pb.INVOICE_STATUS_ISSUED
    assert order.invoice.provider_status == "2"
    assert order.invoice.apply_time.ToSeconds() == 1687265870
    [item] = order.items
    assert (item.product_id, item.sku_id, item.business_id) == ("10000111", "20000176", "100100")
    assert (item.product_name, item.sku_name, item.quantity) == ("spu name", "sku name", 1)
    assert item.valid_from.ToSeconds() == 1687265856
    assert item.valid_until.ToSeconds() == 1718801856
    assert (order.usage.used, order.usage.total) == (0, 1000)


def test_dingshang_order(orders):
    response = orders.GetOrder(
        pb.GetOrderRequest(provider=DINGSHANG, id=DINGSHANG_PAID, machine_no=MACHINE)
    )
    assert_live(response)
    order = response.order
    assert (order.provider, order.account) == (DINGSHANG, "dingshang-sandbox")
    assert (order.id, order.machine_no) == (DINGSHANG_PAID, MACHINE)
    assert order.merchant_order_id == "3f2a58ad69b74e86b8a1a3da6fd75cc1"
    assert (order.status, order.provider_status) == (pb.ORDER_STATUS_PAID, "SUCCESS")
    assert (order.total.currency_code, order.total.minor_units) == ("CNY", 300)
    assert order.create_date == "2024-04-26"
    assert not order.HasField("create_time")
    assert order.dispense_notice_count == 1
    assert [
        (item.id, item.product_id, item.quantity, item.total.minor_units, item.dispense_notified)
        for item in order.items
    ] == [("70", "121", 1, 100, True), ("71", "122", 1, 100, False), ("72", "131", 1, 100, False)]
    assert [item.fulfillment_status for item in order.items] == [
        pb.FULFILLMENT_STATUS_DISPENSING,
        pb.FULFILLMENT_STATUS_AWAITING_DISPENSE,
        pb.FULFILLMENT_STATUS_AWAITING_DISPENSE,
    ]
    assert order.items[0].provider_status == "IS_DELIVERING"


def test_haoka_order(orders):
    response = orders.GetOrder(pb.GetOrderRequest(provider=HAOKA, id=HAOKA_SHIPPED))
    assert_live(response)
    order = response.order
    assert (order.provider, order.account, order.id) == (HAOKA, "haoka-sandbox", HAOKA_SHIPPED)
    assert order.provider_order_id == "mlkj2304121659540001"
    assert (order.status, order.provider_status) == (pb.ORDER_STATUS_SHIPPED, "已发货")
    # 16:59:54 in Shanghai.
    assert order.create_time.ToJsonString() == "2023-04-12T08:59:54Z"
    assert order.shipment.carrier == "京东"
    assert order.shipment.tracking_number == "JDV010982420001"
    assert order.sim_card.activation_status == pb.ACTIVATION_STATUS_NOT_ACTIVATED
    assert order.sim_card.provider_status == "未激活"
    assert not order.sim_card.HasField("activation_time")
    assert order.sim_card.HasField("first_topped_up")
    assert order.sim_card.first_topped_up is False
    assert (order.recipient.name, order.recipient.phone) == ("田**", "1309554****")
    assert not order.HasField("total")


def test_a_terminal_order(orders):
    order = orders.GetOrder(pb.GetOrderRequest(provider=HAOKA, id=HAOKA_SETTLED)).order
    assert (order.status, order.terminal) == (pb.ORDER_STATUS_SETTLED, True)


def test_the_machine_number_of_the_account_is_used(orders):
    order = orders.GetOrder(pb.GetOrderRequest(provider=DINGSHANG, id=DINGSHANG_PAID)).order
    assert order.machine_no == MACHINE


def test_an_account_can_be_named(orders):
    request = pb.GetOrderRequest(provider=HAOKA, id=HAOKA_SHIPPED, account="haoka-sandbox")
    assert orders.GetOrder(request).order.account == "haoka-sandbox"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_error(orders, case):
    max_age = None if case.max_age is None else duration_pb2.Duration(seconds=case.max_age)
    error = failure(orders.GetOrder, pb.GetOrderRequest(
        provider=case.provider, id=case.id, account=case.account, machine_no=case.machine_no,
        max_age=max_age,
    ))
    assert error.code() == case.code
    assert error.details()
    assert info(error).reason == case.reason

    metadata = dict(info(error).metadata)
    assert metadata.get("provider_code", "") == case.provider_code
    if case.code != Code.INVALID_ARGUMENT:
        assert metadata["provider"] == NAMES[case.provider]
        # The name of an unknown account may be repeated, but never replaced.
        expected = {None, case.account} if case.account else {f"{NAMES[case.provider]}-sandbox"}
        assert metadata.get("account") in expected
    if case.reason == "PROVIDER_CREDENTIALS_REJECTED":
        # The vendor's text may hold our address.
        assert "provider_message" not in metadata

    found = details(error)
    if case.field:
        [violation] = found[error_details_pb2.BadRequest].field_violations
        assert violation.field == case.field
        assert violation.description
    else:
        assert error_details_pb2.BadRequest not in found
    assert (error_details_pb2.QuotaFailure in found) == (case.code == Code.RESOURCE_EXHAUSTED)
    if case.reason in RETRIED:
        delay = found[error_details_pb2.RetryInfo].retry_delay.ToTimedelta()
        assert delay > datetime.timedelta()
    else:
        assert error_details_pb2.RetryInfo not in found


def test_the_server_has_a_default_deadline(tmp_path):
    # A caller's own deadline passes on both sides at once, and the caller's library may be the
    # first to say so, without details. The server's own limit has no such race.
    with running(tmp_path, 'request_timeout = "500ms"') as server, \
            connect(server.address) as channel:
        stub = order_service_pb2_grpc.OrderServiceStub(channel)
        error = failure(stub.GetOrder, pb.GetOrderRequest(provider=HAOKA, id=SLOW))
    assert error.code() == Code.DEADLINE_EXCEEDED
    assert info(error).reason == "DEADLINE_EXCEEDED"
    assert info(error).metadata["provider"] == "haoka"
    assert info(error).metadata["account"] == "haoka-sandbox"


def test_the_callers_deadline_applies(orders):
    request = pb.GetOrderRequest(provider=HAOKA, id=SLOW)
    assert failure(orders.GetOrder, request, timeout=0.5).code() == Code.DEADLINE_EXCEEDED


def test_no_call_is_lost_when_connections_exceed_max_age(tmp_path):
    asked = pb.GetOrderRequest(provider=HAOKA, id=HAOKA_SETTLED)

    def caller(address):
        # Otherwise the channels of one process share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        end = time.monotonic() + 5
        with grpc.insecure_channel(address, options=options) as channel:
            stub = order_service_pb2_grpc.OrderServiceStub(channel)
            while time.monotonic() < end:
                stub.GetOrder(asked, timeout=20)

    with running(tmp_path, 'max_connection_age = "2s"') as server, \
            concurrent.futures.ThreadPoolExecutor() as pool:
        for call in [pool.submit(caller, server.address) for _ in range(8)]:
            call.result()


# The documented service config. deploy/test_deploy.py tests its effect with replicas.
SERVICE_CONFIG = [("grpc.service_config", (CLIENTS / "service-config.json").read_text()),
                  ("grpc.enable_http_proxy", 0)]


def calls(server: Server) -> list[dict]:
    """The log lines of calls."""
    entries = [json.loads(line) for line in list(server.log)]
    return [entry for entry in entries if entry["target"] == "order_query::grpc::record"]


@pytest.mark.parametrize("order, code, attempts", [
    ("fault-503", Code.UNAVAILABLE, 3),
    ("error-frequent", Code.RESOURCE_EXHAUSTED, 1),
    ("fault-types", Code.INTERNAL, 1),
])
def test_the_service_config_retries_unavailable_only(
        server, order, code, attempts):
    with grpc.insecure_channel(server.address, options=SERVICE_CONFIG) as channel:
        stub = order_service_pb2_grpc.OrderServiceStub(channel)
        error = failure(stub.GetOrder, pb.GetOrderRequest(provider=HAOKA, id=order), timeout=20)
        assert error.code() == code
        # An answered call, so that the lines of the calls before it are in the log.
        stub.GetOrder(pb.GetOrderRequest(provider=WECHAT, id=WECHAT_PAID), timeout=20)
    # A separate thread reads the log until the server exits.
    while "OK" not in (codes := [call["code"] for call in calls(server)]):
        time.sleep(0.01)
    assert codes == [code.name] * attempts + ["OK"]


def test_a_batch_has_a_result_for_each_order(orders):
    request = pb.BatchGetOrdersRequest(orders=[
        pb.OrderRef(provider=HAOKA, id=HAOKA_SHIPPED),
        pb.OrderRef(provider=HAOKA, id="a/b"),
    ])
    found, refused = orders.BatchGetOrders(request).results
    assert found.found.order.status == pb.ORDER_STATUS_SHIPPED
    assert refused.error.reason == pb.ERROR_REASON_INVALID_REQUEST
    assert refused.error.field == "id"


def test_a_watch_sends_the_order_and_ends_when_it_is_terminal(orders):
    request = pb.WatchOrderRequest(order=pb.OrderRef(provider=HAOKA, id="settled"))
    changes = list(orders.WatchOrder(request))
    assert [change.order.status for change in changes] == [pb.ORDER_STATUS_SETTLED]


@pytest.mark.parametrize("listener", ["channel", "admin_channel"])
def test_health(listener, request):
    health = health_pb2_grpc.HealthStub(request.getfixturevalue(listener))
    for service in ["", SERVICE, "readiness", "liveness",
                    *(f"account/{name}-sandbox" for name in NAMES.values())]:
        response = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING, service
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING, service
        watch.cancel()


@pytest.mark.parametrize("listener", ["channel", "admin_channel"])
def test_health_of_an_unknown_name(listener, request):
    health = health_pb2_grpc.HealthStub(request.getfixturevalue(listener))
    unknown = health_pb2.HealthCheckRequest(service="account/no-such-account")
    assert failure(health.Check, unknown).code() == Code.NOT_FOUND
    watch = health.Watch(unknown, timeout=1)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    # The stream stays open, since the name may become known: only our deadline ends it.
    assert failure(next, watch).code() == Code.DEADLINE_EXCEEDED


def test_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    service = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE)
    assert service.FindMethodByName("GetOrder").input_type.full_name == (
        "orderquery.v1.GetOrderRequest"
    )


def test_no_reflection_on_the_admin_listener(admin_channel):
    database = ProtoReflectionDescriptorDatabase(admin_channel)
    assert failure(database.get_services).code() == Code.UNIMPLEMENTED


def test_no_orders_on_the_admin_listener(admin_channel):
    stub = order_service_pb2_grpc.OrderServiceStub(admin_channel)
    request = pb.GetOrderRequest(provider=HAOKA, id=HAOKA_SHIPPED)
    assert failure(stub.GetOrder, request).code() == Code.UNIMPLEMENTED


def example(server: Server, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `example.py` as its reader would."""
    return subprocess.run(
        [sys.executable, pathlib.Path(__file__).with_name("example.py"),
         *arguments, "--endpoint", server.address],
        env={**os.environ, "PYTHONPATH": STUBS, "PYTHONIOENCODING": "utf-8"},
        capture_output=True, encoding="utf-8", timeout=60, check=False,
    )


def test_example(server):
    shown = example(server, "haoka", HAOKA_SHIPPED)
    assert shown.returncode == 0, shown.stderr
    assert "ORDER_STATUS_SHIPPED" in shown.stdout
    assert "已发货" in shown.stdout
    assert "recipient" not in shown.stdout


def test_example_explains_an_error(server):
    shown = example(server, "wechat", "errcode-45009")
    assert shown.returncode == 1
    assert shown.stderr.startswith("PROVIDER_QUOTA_EXHAUSTED ")
    assert "RESOURCE_EXHAUSTED: " in shown.stderr
    assert "retry in " in shown.stderr


def test_example_sends_its_token(tmp_path):
    token = tmp_path / "token"
    token.write_text("token-of-the-example\n")
    settings = '[clients.example]\ntoken = "token-of-the-example"'
    with running(tmp_path, settings) as server:
        shown = example(server, "haoka", HAOKA_SHIPPED)
        assert shown.stderr.startswith("CALLER_UNAUTHENTICATED "), shown.stderr
        shown = example(server, "haoka", HAOKA_SHIPPED, "--token-file", str(token))
        assert shown.returncode == 0, shown.stderr
