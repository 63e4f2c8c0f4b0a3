//! The exact requests to each vendor, at 2026-09-21T14:13:20Z. The signatures were computed
//! independently of this program.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use order_query::pb::Provider;
use serde_json::{Value, json};

use super::bench::Bench;
use crate::support::facts::{Vendor, is_secret, put, vendors, with_member};
use crate::support::played::Asked;

/// The requests that reach the vendor for the documented order.
async fn requests(vendor: &Vendor, changes: &[(&str, &str)]) -> Vec<Asked> {
    let bench = Bench::start_with(vendor, |account| {
        account.extend(changes.iter().map(|(key, value)| ((*key).into(), (*value).into())));
    })
    .await;
    assert_eq!(bench.ask(vendor.question()).await, vendor.expected());
    bench.scripted.asked()
}

/// The only request.
async fn request(vendor: &Vendor, changes: &[(&str, &str)]) -> Asked {
    let mut arrived = requests(vendor, changes).await;
    assert_eq!(arrived.len(), 1);
    arrived.remove(0)
}

fn header<'a>(request: &'a Asked, name: &str) -> &'a str {
    request.headers[name].to_str().unwrap()
}

/// The request's headers, without those of the transport.
fn own_headers(request: &Asked) -> Vec<&str> {
    let of_transport =
        ["host", "accept", "user-agent", "content-length", "content-type", "accept-encoding"];
    let names = request.headers.keys().map(axum::http::HeaderName::as_str);
    let mut names: Vec<_> = names.filter(|name| !of_transport.contains(name)).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn wechat_is_called_for_a_stable_token_and_then_for_the_order() {
    let vendor = Vendor::of(Provider::Wechat);
    let arrived = requests(&vendor, &[]).await;
    let [token, order] = arrived.as_slice() else { panic!("{arrived:?}") };

    assert_eq!(
        (&token.method, token.uri.to_string()),
        (&Method::POST, "/cgi-bin/stable_token".into())
    );
    assert_eq!(header(token, "content-type"), "application/json");
    assert_eq!(own_headers(token), [""; 0]);
    let body: Value = serde_json::from_slice(&token.body).unwrap();
    let expected = json!({
        "grant_type": "client_credential",
        "appid": "wx0000000000000001",
        "secret": "appsecret-0001",
        "force_refresh": false,
    });
    assert_eq!(body, expected);

    assert_eq!(order.method, Method::GET);
    assert_eq!(
        order.uri.to_string(),
        "/wxa/charge/service-provider/order/get?access_token=TOKEN-1&orderId=DD2981741311549200000"
    );
    assert_eq!(own_headers(order), [""; 0]);
    assert!(order.body.is_empty());
}

#[tokio::test]
async fn wechat_can_be_called_for_a_classic_token() {
    let vendor = Vendor::of(Provider::Wechat);
    let arrived = requests(&vendor, &[("token", "classic")]).await;
    let [token, order] = arrived.as_slice() else { panic!("{arrived:?}") };
    assert_eq!(token.method, Method::GET);
    assert_eq!(
        token.uri.to_string(),
        "/cgi-bin/token?grant_type=client_credential&appid=wx0000000000000001&secret=appsecret-0001"
    );
    assert!(token.body.is_empty());
    assert_eq!(order.uri.path(), "/wxa/charge/service-provider/order/get");
}

/// A token may contain any characters, so it is escaped.
#[tokio::test]
async fn wechats_token_is_escaped() {
    let vendor = Vendor::of(Provider::Wechat);
    let bench = Bench::start(&vendor).await;
    let token = format!("{}&orderId=x+/=#", "t".repeat(512));
    let answer = json!({ "access_token": token, "expires_in": 7200 });
    bench.scripted.answers_at(vendor.paths()["token"], 200, answer.to_string());
    assert_eq!(bench.ask(vendor.question()).await, vendor.expected());
    let arrived = bench.scripted.asked();
    let query = arrived.last().unwrap().uri.query().unwrap();
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!(
        pairs,
        [("access_token".to_owned(), token), ("orderId".to_owned(), vendor.sheet.id.clone())]
    );
}

/// The JSON in Dingshang's payload.
fn payload(request: &Asked) -> String {
    let body: BTreeMap<String, String> = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body.keys().collect::<Vec<_>>(), ["payload"]);
    String::from_utf8(BASE64.decode(&body["payload"]).unwrap()).unwrap()
}

#[tokio::test]
async fn dingshang_is_called_with_a_signed_payload() {
    let vendor = Vendor::of(Provider::Dingshang);
    let order = request(&vendor, &[]).await;
    assert_eq!(
        (&order.method, order.uri.to_string()),
        (&Method::POST, "/api/openapi/v1/orders/54".into())
    );
    assert_eq!(header(&order, "content-type"), "application/json");
    assert_eq!(own_headers(&order), ["appid", "appsecret"]);
    assert_eq!(header(&order, "appid"), "ds0000000000000001");
    assert_eq!(header(&order, "appsecret"), "appsecret-0001");
    assert_eq!(
        payload(&order),
        r#"{"machine_no":"16327129","sign":"392AEED34234506D19D117A56DD5EC3D","timestamp":"1790000000"}"#
    );
}

#[tokio::test]
async fn dingshang_is_called_unsigned_without_a_key() {
    let mut vendor = Vendor::of(Provider::Dingshang);
    vendor.sheet.account.remove("app_key");
    let order = request(&vendor, &[]).await;
    assert_eq!(payload(&order), r#"{"machine_no":"16327129","timestamp":"1790000000"}"#);
}

/// The vendor's base URL may have a path.
#[tokio::test]
async fn a_base_url_keeps_its_path() {
    for (vendor, path) in [
        (Vendor::of(Provider::Dingshang), "/gate/api/openapi/v1/orders/54"),
        (Vendor::of(Provider::Haoka), "/gate/api/order/GetOrderInfo"),
    ] {
        for end in ["/gate", "/gate/"] {
            let bench = Bench::start_with(&vendor, |account| {
                account.get_mut("base_url").unwrap().push_str(end);
            })
            .await;
            bench.ask(vendor.question()).await;
            assert_eq!(bench.scripted.asked()[0].uri.to_string(), path);
        }
    }
}

const HAOKA_FIELDS: [(&str, &str); 4] = [
    ("user_id", "agent"),
    ("Timestamp", "1790000000"),
    ("DownOrderID", "42781234"),
    ("user_sign", "1c95e2757aa1e2654e2f98163d262d3b"),
];

#[tokio::test]
async fn haoka_is_called_with_a_multipart_form() {
    let vendor = Vendor::of(Provider::Haoka);
    for changes in [&[][..], &[("body", "multipart")]] {
        let order = request(&vendor, changes).await;
        assert_eq!(
            (&order.method, order.uri.to_string()),
            (&Method::POST, "/api/order/GetOrderInfo".into())
        );
        assert_eq!(own_headers(&order), [""; 0]);
        let kind = header(&order, "content-type");
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let parts = HAOKA_FIELDS.map(|(name, value)| {
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
        });
        let expected = format!("{}--{boundary}--\r\n", parts.concat());
        assert_eq!(String::from_utf8_lossy(&order.body), expected);
    }
}

#[tokio::test]
async fn haoka_can_be_called_with_an_urlencoded_form() {
    let vendor = Vendor::of(Provider::Haoka);
    let order = request(&vendor, &[("body", "urlencoded")]).await;
    assert_eq!(
        (&order.method, order.uri.to_string()),
        (&Method::POST, "/api/order/GetOrderInfo".into())
    );
    assert_eq!(header(&order, "content-type"), "application/x-www-form-urlencoded");
    let fields = HAOKA_FIELDS.map(|(name, value)| format!("{name}={value}"));
    assert_eq!(String::from_utf8_lossy(&order.body), fields.join("&"));
}

/// The vendor rejects an old time, so each request is stamped when it is sent.
#[tokio::test]
async fn every_request_is_stamped_with_its_send_time() {
    for provider in [Provider::Dingshang, Provider::Haoka] {
        let vendor = Vendor::of(provider);
        let bench = Bench::start(&vendor).await;
        bench.ask(vendor.question()).await;
        bench.clock.advance(Duration::from_hours(1));
        bench.ask(vendor.question()).await;
        for (request, time) in bench.scripted.asked().iter().zip(["1790000000", "1790003600"]) {
            let sent = match provider {
                Provider::Dingshang => payload(request),
                _ => String::from_utf8_lossy(&request.body).into_owned(),
            };
            assert!(sent.contains(time), "{sent}");
        }
        assert_eq!(bench.scripted.asked().len(), 2);
    }
}

/// URLs appear in the logs of vendors and proxies. Only WeChat's API requires its token in the URL.
#[tokio::test]
async fn no_secret_is_in_a_url() {
    for vendor in vendors() {
        let account = &vendor.sheet.account;
        let secrets: Vec<_> = account.iter().filter(|(key, _)| is_secret(key)).collect();
        assert!(!secrets.is_empty());
        for request in requests(&vendor, &[]).await {
            let url = request.uri.to_string();
            for (key, secret) in &secrets {
                assert!(!url.contains(secret.as_str()), "{key} is in {url}");
            }
            assert!(vendor.provider == Provider::Wechat || request.uri.query().is_none(), "{url}");
        }
    }
}

/// Nothing is sent for an id with characters outside of the vendor's alphabet.
#[tokio::test]
async fn an_id_with_invalid_characters_is_never_sent() {
    let long = "9".repeat(65);
    let everywhere =
        ["", " ", "1/2", "1?2", "1#2", "1&2", "1=2", "1%2", "1.2", "1 2", "1\n", "号", &long];
    for vendor in vendors() {
        let more: &[&str] = match vendor.provider {
            Provider::Dingshang => {
                &["0", "054", "+54", "-54", "54x", "5e1", "18446744073709551616"]
            }
            _ => &["a*", "../x", "é"],
        };
        let bench = Bench::start(&vendor).await;
        for id in everywhere.iter().chain(more) {
            let mut question = vendor.question();
            (*id).clone_into(&mut question.id);
            let expected = json!({ "failure": {
                "code": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST", "field": "id",
            }});
            assert_eq!(bench.ask(question).await, expected, "{} {id:?}", vendor.provider.word());
        }
        assert!(bench.scripted.asked().is_empty());
    }
}

/// Limits of the alphabets: the longest ids, and every kind of character.
#[tokio::test]
async fn a_valid_id_is_sent_verbatim() {
    let long = "aZ_-09".repeat(11);
    for vendor in vendors() {
        let ids: &[&str] = match vendor.provider {
            Provider::Dingshang => &["1", "18446744073709551615"],
            _ => &["-", "_", "0", "aZ", &long[..64]],
        };
        for id in ids {
            let bench = Bench::start(&vendor).await;
            let written = json!(id).to_string();
            let body = with_member(&vendor.sample(), &vendor.sheet.id_at, Some(&written));
            bench.scripted.answers(200, body);
            let mut question = vendor.question();
            (*id).clone_into(&mut question.id);
            let mut expected = vendor.expected();
            put(&mut expected, "/id", Some(json!(id)));
            assert_eq!(bench.ask(question).await, expected, "{} {id}", vendor.provider.word());
            let arrived = bench.scripted.asked();
            let order = arrived.last().unwrap();
            let sent = format!("{} {}", order.uri, String::from_utf8_lossy(&order.body));
            assert!(sent.contains(id), "{sent}");
        }
    }
}
