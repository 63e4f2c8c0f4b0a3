//! Requests that never reach a handler: whatever tonic's own response, the caller gets the
//! contract's reason.

use axum::http::{HeaderValue, StatusCode};
use order_query::pb::Provider;
use prost::Message as _;
use tonic::{Code, Status};

use crate::support::{Failed, framed, question, raw, sandboxed};

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const GET_ORDER: &str = "/orderquery.v1.OrderService/GetOrder";

#[tokio::test]
async fn every_failure_has_error_details() {
    const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_REQUEST");
    const UNIMPLEMENTED: (Code, &str) = (Code::Unimplemented, "UNIMPLEMENTED");
    let (sandbox, server) = sandboxed().await;
    let fine = question(Provider::Haoka, "shipped").encode_to_vec();
    let large = question(Provider::Haoka, &"a".repeat(65 * 1024)).encode_to_vec();
    let watch = "/orderquery.v1.OrderService/WatchOrder";
    let gzip = ("grpc-encoding", "gzip");
    let snappy = ("grpc-encoding", "snappy");
    let cases = [
        ("no protobuf", GET_ORDER, vec![], framed(0, b"\xff\xff\xff"), INVALID),
        ("no text", GET_ORDER, vec![], framed(0, b"\x12\x02\xff\xfe"), INVALID),
        ("cut off", GET_ORDER, vec![], framed(0, &fine)[..8].to_vec(), INVALID),
        ("nothing", GET_ORDER, vec![], Vec::new(), INVALID),
        ("over 64 KiB", GET_ORDER, vec![], framed(0, &large), INVALID),
        ("over 4 GiB", GET_ORDER, vec![], vec![0, 255, 255, 255, 255], INVALID),
        ("an odd flag", GET_ORDER, vec![], framed(7, &fine), INVALID),
        ("unnamed compression", GET_ORDER, vec![], framed(1, &fine), INVALID),
        ("compression", GET_ORDER, vec![gzip], framed(1, &fine), UNIMPLEMENTED),
        ("compression of our own", GET_ORDER, vec![snappy], framed(1, &fine), UNIMPLEMENTED),
        ("no protobuf, no compression", GET_ORDER, vec![gzip], framed(0, b"\xff"), INVALID),
        ("a compressed watch", watch, vec![gzip], framed(1, &fine), UNIMPLEMENTED),
        ("no method", "/orderquery.v1.OrderService/Get", vec![], framed(0, &fine), UNIMPLEMENTED),
        (
            "no service",
            "/orderquery.v2.OrderService/GetOrder",
            vec![],
            framed(0, &fine),
            UNIMPLEMENTED,
        ),
        ("no service at all", "/", vec![], framed(0, &fine), UNIMPLEMENTED),
        ("a watch of no protobuf", watch, vec![], framed(0, b"\xff"), INVALID),
    ];
    for (name, path, more, body, expected) in cases {
        let headers = [vec![GRPC, ("te", "trailers")], more].concat();
        let answer = raw(server.app.address, path, &headers, Some(body)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        let failed = Failed::from(&Status::from_header_map(answer.headers()).unwrap());
        assert_eq!((failed.code, failed.reason.as_str()), expected, "{name}");
        assert_eq!(failed.domain, "orderquery", "{name}");
        assert!(!failed.message.is_empty(), "{name}");
        assert_eq!((failed.retry_delay, failed.pushback), (None, None), "{name}");
        // The supported encodings are stated as well.
        let told = answer.headers().get("grpc-accept-encoding").map(HeaderValue::as_bytes);
        let is_compressed = expected == UNIMPLEMENTED && !name.starts_with("no ");
        assert_eq!(told, is_compressed.then_some(&b"identity"[..]), "{name}");
    }
    assert_eq!(sandbox.arrivals(), [], "nothing was asked");
}

/// Clients that enable compression name their encoding, but send short messages uncompressed.
#[tokio::test]
async fn an_uncompressed_message_is_read_whatever_grpc_encoding_says() {
    let (sandbox, server) = sandboxed().await;
    let body = framed(0, &question(Provider::Haoka, "shipped").encode_to_vec());
    for encoding in ["identity", "gzip", "deflate", "snappy", "\u{ff}"] {
        let headers = [GRPC, ("grpc-encoding", encoding)];
        let answer = raw(server.app.address, GET_ORDER, &headers, Some(body.clone())).await;
        assert_eq!(answer.headers().get("grpc-status"), None, "{encoding}: it comes at the end");
    }
    assert_eq!(sandbox.arrivals().len(), 1);
}

#[tokio::test]
async fn non_grpc_requests_get_an_http_error() {
    let (sandbox, server) = sandboxed().await;
    let body = framed(0, &question(Provider::Haoka, "shipped").encode_to_vec());
    let others = [
        "application/json",
        "application/grpcfoo",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/grpc+",
        "text/plain; application/grpc",
        "\u{ff}",
        "",
    ];
    let others = others.map(|kind| vec![("content-type", kind)]);
    for headers in others.into_iter().chain([vec![]]) {
        for path in [GET_ORDER, "/no.such.Service/Method"] {
            let answer = raw(server.app.address, path, &headers, Some(body.clone())).await;
            assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{headers:?}");
        }
    }
    assert_eq!(sandbox.arrivals(), []);
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
        "application/grpc+proto ; x=y",
        "Application/GRPC",
    ] {
        let headers = [("content-type", kind)];
        let answer = raw(server.app.address, GET_ORDER, &headers, Some(body.clone())).await;
        assert_eq!(answer.status(), StatusCode::OK, "{kind}");
    }
    assert_eq!(sandbox.arrivals().len(), 1);
}
