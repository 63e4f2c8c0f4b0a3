//! `check --live`: which calls the vendors get, what the operator is shown, and what a server running
//! beside it must not notice.

mod stores;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::Method;
use order_query::clock::{Clock, ManualClock, SystemClock};
use order_query::pb::Provider;
use order_query::sandbox::{Kind, Sandbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::authority::Authority;
use crate::support::child::{Ended, run, write};
use crate::support::facts::{ANSWER, Vendor, accounts_changed, is_secret};
use crate::support::played::answer;
use crate::support::secured::Secured;
use crate::support::{Scripted, sandbox_at};

/// Texts of the sandbox's and the tests' configurations, or of vendors' answers, that must not be
/// shown.
const HIDDEN: [&str; 7] = [
    "wechat-sandbox-secret",
    "dingshang-sandbox-secret",
    "dingshang-sandbox-key",
    "haoka-sandbox-secret",
    "s3cret-of-a-test",
    "force_refresh",
    "http:",
];

/// Checks this configuration.
fn check(config: &str) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    check_at(&write(&directory, config))
}

fn check_at(path: &str) -> Ended {
    let checked = run(["check", "--live", "--config", path]);
    for hidden in HIDDEN {
        assert!(!checked.out.contains(hidden) && !checked.err.contains(hidden), "{checked:?}");
    }
    checked
}

impl Ended {
    /// The line with this prefix, without the prefix.
    #[track_caller]
    fn line(&self, beginning: &str) -> &str {
        let mut lines = self.out.lines();
        let found = lines.find_map(|line| line.strip_prefix(beginning)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {beginning:?} in {self:?}"))
    }
}

/// The secret of each account.
const SECRET: &str = "s3cret-of-a-test";

/// An account at each vendor, at one address, with secrets that are detectable in the output.
fn accounts(url: &str, more: &str) -> String {
    accounts_changed(url, more, |settings| {
        for (key, value) in settings {
            if is_secret(key) {
                SECRET.clone_into(value);
            }
        }
    })
}

/// How many calls of that kind have reached the sandbox.
fn count(sandbox: &Sandbox, kind: Kind) -> usize {
    sandbox.arrivals().iter().filter(|arrival| arrival.kind == kind).count()
}

async fn sandbox() -> Sandbox {
    sandbox_at(Arc::new(SystemClock)).await
}

/// The credentials that each vendor proves to be accepted.
const TAKEN: &[(&str, &str)] = &[
    ("dingshang", "app_id and app_secret accepted, app_key not verified"),
    ("haoka", "credentials not verified, because only a call for an order can verify them"),
    ("wechat", "app_id and app_secret accepted"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_vendor_is_checked_without_an_order_call() {
    let sandbox = sandbox().await;
    // Live checks consume no quota: that is for callers' orders.
    let config = sandbox.accounts().replace("provider = ", "calls_per_minute = 1\nprovider = ");
    let unsigned = "[accounts.a]\nprovider = \"dingshang\"\nbase_url = \"https://a.invalid\"\n\
                    app_id = \"a\"\napp_secret = \"b\"\ntimeout = \"10ms\"\n";
    let checked = check(&config);
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{checked:?}");
    let lines: Vec<_> = checked.out.lines().collect();
    let mut vendors = Sandbox::vendors();
    vendors.sort_unstable();
    let (last, proofs) = lines.split_last().unwrap();
    assert_eq!(*last, format!("the configuration is valid; accounts: {}", vendors.len()));
    assert_eq!(proofs.len(), vendors.len(), "{checked:?}");
    for (line, vendor) in proofs.iter().zip(&vendors) {
        let rest = line.strip_prefix(&format!("ok: accounts.{vendor}-sandbox: ")).expect(line);
        let (taken, took) =
            rest.split_once(", clocks agree within 2s, no certificate, ").expect(line);
        assert!(took.strip_suffix("ms").expect(line).parse::<u64>().is_ok(), "{line}");
        let known = TAKEN.iter().find(|(known, _)| known == vendor);
        assert!(known.is_none_or(|(_, expected)| taken == *expected), "{line}");
    }
    assert_eq!(count(&sandbox, Kind::Token), 1, "{:?}", sandbox.arrivals());
    assert_eq!(count(&sandbox, Kind::Other), vendors.len() - 1, "{:?}", sandbox.arrivals());
    assert_eq!(count(&sandbox, Kind::Order), 0, "{:?}", sandbox.arrivals());
    for vendor in &vendors {
        assert_eq!(sandbox.arrivals().iter().filter(|call| call.vendor == *vendor).count(), 1);
    }
    // The configuration's warnings come first, and one account's failure does not affect the others.
    let checked = check(&format!("{unsigned}{config}"));
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.out.starts_with("warning: accounts.a.app_key: is not set"), "{checked:?}");
    assert!(checked.line("failed: accounts.a").starts_with("the vendor does not answer ("));
    let end = format!("\nthe configuration is valid; accounts: {}\n", vendors.len() + 1);
    assert!(checked.out.ends_with(&end), "{checked:?}");
    assert_eq!(checked.out.lines().filter(|line| line.starts_with("ok: ")).count(), vendors.len());
    assert_eq!(checked.err, "error: failed checks: 1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_checks_send_the_documented_requests() {
    let vendor = Scripted::start().await;
    vendor.answers(200, ANSWER.as_str());
    let url = format!("http://{}/below", vendor.address);
    let checked = check(&accounts(&url, ""));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let asked = vendor.asked();
    assert_eq!(asked.len(), Provider::all().count(), "{asked:?}");
    let at = |path: &str| asked.iter().find(|asked| asked.uri == path).expect(path);
    let [haoka, dingshang, wechat] =
        ["/below", "/below/api/openapi/v1/ping", "/below/cgi-bin/stable_token"].map(at);
    assert_eq!(
        [&haoka.method, &dingshang.method, &wechat.method],
        [Method::GET, Method::POST, Method::POST]
    );
    assert!(haoka.body.is_empty() && dingshang.body.is_empty());
    let app_id = &Vendor::of(Provider::Dingshang).sheet.account["app_id"];
    let header = |name| dingshang.headers.get(name).unwrap().to_str().unwrap();
    assert_eq!([header("Appid"), header("AppSecret")], [app_id.as_str(), SECRET]);
    let body: serde_json::Value = serde_json::from_slice(&wechat.body).unwrap();
    assert_eq!(body["force_refresh"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_credentials_are_reported_with_advice() {
    let sandbox = sandbox().await;
    let wechat = "accounts.wechat-sandbox";
    let dingshang = "accounts.dingshang-sandbox";
    for (ours, given, account, said, advice) in [
        ("wechat-sandbox-secret", "no", wechat, "40125: invalid appsecret", "check app_secret"),
        ("wxfeed5a0db0c00001", "wx", wechat, "40013: invalid appid", "check app_id"),
        // The advice names the address to be allowed.
        ("wxfeed5a0db0c00001", "wxerrcode40164", wechat, "40164: invalid ip 192.0.2.7", "add this"),
        ("wxfeed5a0db0c00001", "wxerrcode40243", wechat, "40243: ", "the app_secret is frozen"),
        (
            "wxfeed5a0db0c00001",
            "wxerrcode50002",
            wechat,
            "50002: ",
            "check the account's permissions",
        ),
        ("dingshang-sandbox-secret", "no", dingshang, "4002: ", "check app_id, app_secret and"),
    ] {
        let checked = check(&sandbox.accounts().replace(ours, given));
        assert_eq!(checked.code, Some(1), "{given}: {checked:?}");
        let line = checked.line(&format!("failed: {account}"));
        let expected = format!("the vendor rejects the account ({said}");
        assert!(line.starts_with(&expected), "{given}: {line}");
        // The other results are reported as well.
        assert!(line.contains("), clocks agree within 2s, no certificate, "), "{given}: {line}");
        assert!(line.contains(&format!("ms; {advice}")), "{given}: {line}");
        assert_eq!(checked.err, "error: failed checks: 1\n");
    }
    for (errcode, what) in [("-1", "the vendor does not answer"), ("45009", "too many requests")] {
        let given = format!("wxerrcode{errcode}");
        let checked = check(&sandbox.accounts().replace("wxfeed5a0db0c00001", &given));
        assert!(checked.line(&format!("failed: {wechat}")).contains(what), "{checked:?}");
    }
    assert_eq!(count(&sandbox, Kind::Order), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unresponsive_vendor_is_reported_in_time() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let checked = check(&accounts(&format!("http://{nobody}"), ""));
    let failures = format!("error: failed checks: {}\n", Provider::all().count());
    assert_eq!((checked.code, &checked.err), (Some(1), &failures));
    for account in Provider::all().map(Provider::word) {
        let line = checked.line(&format!("failed: accounts.{account}"));
        assert!(line.contains("Connection refused"), "{line}");
        assert!(line.contains("; check this machine's network, base_url and proxy"), "{line}");
        assert!(!line.contains(&nobody.port().to_string()), "{line}");
    }
    let sandbox = sandbox().await;
    let hanging = sandbox.accounts().replace("wxfeed5a0db0c00001", "wxfault-hang");
    let checked = check(&hanging.replace("wechat\"", "wechat\"\ntimeout = \"100ms\""));
    let line = checked.line("failed: accounts.wechat-sandbox");
    assert!(line.starts_with("the vendor does not answer ("), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inconclusive_answers_are_failures() {
    let vendor = Scripted::start().await;
    let url = format!("http://{}", vendor.address);
    for (status, body, haoka, others) in [
        // Haoka gets no request that it could refuse.
        (200, "{}", "ok", "failed"),
        (200, "<html>welcome</html>", "ok", "failed"),
        (302, "", "ok", "failed"),
        (404, "404 page not found", "ok", "failed"),
        (429, "", "failed", "failed"),
        (503, "", "failed", "failed"),
    ] {
        vendor.answers(status, body);
        let checked = check(&accounts(&url, ""));
        assert_eq!(checked.code, Some(1), "{status} {body}: {checked:?}");
        checked.line(&format!("{haoka}: accounts.haoka"));
        for account in ["wechat", "dingshang"] {
            checked.line(&format!("{others}: accounts.{account}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vendor_text_is_printed_without_secrets_or_control_characters() {
    let vendor = Scripted::start().await;
    let words = "no s3cret-of-a-test\\u001b[2J \\u202e\\r\\nok: accounts.wechat: fine";
    let body =
        format!(r#"{{"errcode": 40125, "code": 4001, "errmsg": "{words}", "message": "{words}"}}"#);
    vendor.answers(200, body.replace("\\\\", "\\"));
    let checked = check(&accounts(&format!("http://{}", vendor.address), ""));
    for (account, code) in [("wechat", 40125), ("dingshang", 4001)] {
        let line = checked.line(&format!("failed: accounts.{account}"));
        let said = format!("({code}: no [secret][2J \u{fffd}ok: accounts.wechat: fine)");
        assert!(line.contains(&said), "{line}");
    }
    assert_eq!(checked.out.lines().count(), Provider::all().count() + 1, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_skew_is_reported() {
    let now = SystemClock.now();
    let at = |time: SystemTime| sandbox_at(Arc::new(ManualClock::new(time)));
    for (time, side, haoka, code) in [
        (now + Duration::from_secs(90), "ahead of", "warning", 0),
        (now - Duration::from_secs(90), "behind", "warning", 0),
        (now + Duration::from_mins(15), "ahead of", "failed", 1),
        (now - Duration::from_mins(15), "behind", "failed", 1),
    ] {
        let sandbox = at(time).await;
        let checked = check(&sandbox.accounts());
        assert_eq!(checked.code, Some(code), "{checked:?}");
        for (account, verdict) in
            [("wechat", "warning"), ("dingshang", "warning"), ("haoka", haoka)]
        {
            let line = checked.line(&format!("{verdict}: accounts.{account}-sandbox"));
            let advice =
                line.contains("ms; set this machine's clock, unless the vendor's is wrong");
            assert!(line.contains(&format!("s {side} ours, ")) && advice, "{line}");
            let limit = line.ends_with(": from 300s on the vendor rejects every call");
            assert_eq!(limit, account == "haoka", "{line}");
        }
    }
}

/// A vendor whose certificate is valid for less than `days` more days.
async fn valid_for(days: i32) -> Secured {
    let today =
        jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::try_from(SystemClock.now()).unwrap());
    let end = today.date().saturating_add(jiff::ToSpan::days(days));
    let end =
        [end.year(), end.month().into(), end.day().into()].map(|part| u16::try_from(part).unwrap());
    let authority = Authority::new();
    let pair = authority.issue_until(&["127.0.0.1"], end);
    Secured::showing(&authority, &pair, || answer(200, ANSWER.as_str())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_reported_with_days_left() {
    for (days, verdict) in [(40, "ok"), (6, "warning")] {
        let secured = valid_for(days).await;
        let checked = check(&accounts(&secured.url(), &secured.ca_file()));
        assert_eq!(checked.code, Some(0), "{checked:?}");
        for account in Provider::all().map(Provider::word) {
            let line = checked.line(&format!("{verdict}: accounts.{account}"));
            // Midnight may pass in between.
            let told = [days - 2, days - 1, days]
                .map(|days| line.contains(&format!(", certificate trusted, {days} days left, ")));
            assert!(told.contains(&true), "{line}");
            let advice = line.ends_with("; ask the vendor to renew its certificate");
            assert_eq!(advice, verdict == "warning", "{line}");
        }
    }
}

/// A server that sends these bytes, whatever it receives.
async fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    format!("https://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_mismatch_is_not_reported_as_a_network_failure() {
    let nothing_in_common = "; the vendor and this machine have no TLS version or no cipher";
    let no_tls = "; the server at base_url does not speak TLS: check its port";
    for (bytes, advice) in [
        // Alerts: no cipher in common, too weak, no version in common.
        (&b"\x15\x03\x03\x00\x02\x02\x28"[..], nothing_in_common),
        (b"\x15\x03\x03\x00\x02\x02\x47", nothing_in_common),
        (b"\x15\x03\x03\x00\x02\x02\x46", nothing_in_common),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", no_tls),
    ] {
        let checked = check(&accounts(&answering(bytes).await, ""));
        assert_eq!(checked.code, Some(1), "{checked:?}");
        for account in Provider::all().map(Provider::word) {
            let line = checked.line(&format!("failed: accounts.{account}"));
            assert!(line.contains(advice), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_certificate_is_reported_with_advice() {
    let elsewhere = Secured::start("vendor.example").await;
    let stranger = Secured::start("127.0.0.1").await;
    let gone = valid_for(-2).await;
    for (vendor, more, why) in [
        (&stranger, String::new(), "UnknownIssuer"),
        (&elsewhere, elsewhere.ca_file(), "not valid for name"),
        (&gone, gone.ca_file(), "expired"),
    ] {
        let checked = check(&accounts(&vendor.url(), &more));
        assert_eq!(checked.code, Some(1), "{checked:?}");
        for account in Provider::all().map(Provider::word) {
            let line = checked.line(&format!("failed: accounts.{account}"));
            assert!(line.contains("invalid peer certificate: ") && line.contains(why), "{line}");
            let advice = "; check base_url and this machine's clock, and set ca_file to the ";
            assert!(line.contains(advice), "{line}");
        }
        assert_eq!(vendor.vendor.asked().len(), 0);
    }
}
