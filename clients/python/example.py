"""Asks for one order, and explains an error as a caller should read it: by its reason, not its text.

    pip install -r clients/python/requirements.txt
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. \\
        orderquery/v1/order_service.proto
    PYTHONPATH=. python clients/python/example.py haoka shipped --endpoint 127.0.0.1:50051
"""

import argparse
import pathlib
import sys

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from orderquery.v1 import order_service_pb2 as pb
from orderquery.v1 import order_service_pb2_grpc


def explain(error: grpc.RpcError) -> str:
    """The status code, the reason, the message and, where a retry can succeed, when."""
    text = f"{error.code().name}: {error.details()}"
    # What a server fails with comes with details; what fails on the way to one does not.
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            text = f"{info.reason} ({dict(info.metadata)}) {text}"
        elif detail.Unpack(retry):
            text += f" (retry in {retry.retry_delay.ToTimedelta().total_seconds()} s)"
    return text


def main() -> int:
    """Asks, prints, and reports whether there was an order."""
    parser = argparse.ArgumentParser(description="Asks for one order.")
    # Every vendor of the contract but PROVIDER_UNSPECIFIED, which is 0.
    vendors = [name.removeprefix("PROVIDER_").lower() for name, number in pb.Provider.items() if number]
    parser.add_argument("provider", choices=vendors)
    parser.add_argument("id", help="the vendor's id of the order")
    parser.add_argument("--account", default="")
    parser.add_argument("--machine-no", default="", help="Dingshang: the machine that sold it")
    parser.add_argument("--endpoint", default="127.0.0.1:50051")
    parser.add_argument("--token-file", help="a file with the token that identifies this caller")
    arguments = parser.parse_args()

    request = pb.GetOrderRequest(
        provider=pb.Provider.Value(f"PROVIDER_{arguments.provider.upper()}"),
        id=arguments.id,
        account=arguments.account,
        machine_no=arguments.machine_no,
    )
    metadata = []
    if arguments.token_file:
        # Read anew for each call by a program that lives long: tokens are rotated.
        token = pathlib.Path(arguments.token_file).read_text(encoding="utf-8").strip()
        metadata.append(("authorization", f"Bearer {token}"))
    with grpc.insecure_channel(arguments.endpoint) as channel:
        try:
            # Always with a deadline: the server gives up when the caller does.
            response = order_service_pb2_grpc.OrderServiceStub(channel).GetOrder(
                request, timeout=10, metadata=metadata
            )
        except grpc.RpcError as error:
            print(explain(error), file=sys.stderr)
            return 1
    # Personal data: what is printed ends up in logs.
    response.order.ClearField("recipient")
    response.order.ClearField("remark")
    print(json_format.MessageToJson(response, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
