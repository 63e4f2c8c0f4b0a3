//! WeChat's access token, as the vendor sees it: how often it is fetched, and when.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::ManualClock;
use order_query::pb::Provider;
use order_query::sandbox::{Kind, Sandbox};
use tonic::Code;

use crate::support::{Scripted, Server, manual_clock, sandbox_at};

const ORDER: &str = "DD2981741311549200000";
const APP_ID: &str = "wxfeed5a0db0c00001";

struct Fixture {
    clock: ManualClock,
    sandbox: Sandbox,
    server: Server,
}

impl Fixture {
    /// `way` is "stable" or "classic".
    async fn new(way: &str, app_id: &str) -> Self {
        let clock = manual_clock();
        let sandbox = sandbox_at(Arc::new(clock.clone())).await;
        let config = sandbox
            .accounts()
            .replace("app_secret = \"wechat", &format!("token = \"{way}\"\napp_secret = \"wechat"))
            .replace(APP_ID, app_id);
        let server = Server::start_at(&config, Arc::new(clock.clone())).await;
        Self { clock, sandbox, server }
    }

    /// How many token and order calls have reached the vendor.
    fn counts(&self) -> (usize, usize) {
        let count = |kind| self.sandbox.arrivals().iter().filter(|a| a.kind == kind).count();
        (count(Kind::Token), count(Kind::Order))
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    async fn ask(&self, id: &str) -> Result<(), String> {
        let outcome = self.server.order(Provider::Wechat, id).await;
        outcome.map(drop).map_err(|failed| failed.reason)
    }
}

const WAYS: [&str; 2] = ["stable", "classic"];

#[tokio::test]
async fn one_token_serves_all_calls_until_it_expires() {
    for way in WAYS {
        let fixture = Fixture::new(way, APP_ID).await;
        let ids = ["status-1", "status-2", "status-3", "status-5", "status-6", "status-7"];
        let calls = ids.map(|id| fixture.ask(id));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert_eq!(fixture.counts(), (1, 6), "{way}");
        fixture.pass(7200 - 241);
        fixture.ask("status-1").await.unwrap();
        assert_eq!(fixture.counts(), (1, 7), "{way}");
        fixture.pass(1);
        fixture.ask("status-2").await.unwrap();
        assert_eq!(fixture.counts(), (2, 8), "{way}: renewed 240 s before its end");
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all_callers() {
    for way in WAYS {
        let fixture = Fixture::new(way, APP_ID).await;
        fixture.ask(ORDER).await.unwrap();
        let calls = (0..20).map(|_| fixture.ask("token-refused-once"));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert_eq!(fixture.counts().0, 2, "{way}");
    }
}

#[tokio::test]
async fn an_unchanged_stable_token_is_not_retried() {
    for code in ["40001", "40014", "42001"] {
        let fixture = Fixture::new("stable", APP_ID).await;
        let id = format!("errcode-{code}");
        let failed = fixture.server.order(Provider::Wechat, &id).await.unwrap_err();
        assert_eq!(failed.code, Code::FailedPrecondition);
        assert_eq!(failed.reason, "PROVIDER_CREDENTIALS_REJECTED");
        assert_eq!(failed.metadata["provider_code"], code);
        assert_eq!(fixture.counts(), (2, 1), "{code}");
        // For a minute no call is made.
        fixture.pass(59);
        assert_eq!(fixture.ask(ORDER).await, Err("PROVIDER_CREDENTIALS_REJECTED".to_owned()));
        assert_eq!(fixture.counts(), (2, 1), "{code}");
        fixture.pass(1);
        assert_eq!(fixture.ask(ORDER).await, Ok(()));
        assert_eq!(fixture.counts(), (3, 2), "{code}");
    }
}

#[tokio::test]
async fn a_call_fails_when_the_renewed_classic_token_is_refused_too() {
    let fixture = Fixture::new("classic", APP_ID).await;
    assert_eq!(fixture.ask("errcode-40001").await, Err("PROVIDER_CREDENTIALS_REJECTED".to_owned()));
    assert_eq!(fixture.counts(), (2, 2));
    assert_eq!(fixture.ask(ORDER).await, Err("PROVIDER_CREDENTIALS_REJECTED".to_owned()));
    assert_eq!(fixture.counts(), (2, 2));
    fixture.pass(60);
    assert_eq!(fixture.ask(ORDER).await, Ok(()));
    assert_eq!(fixture.counts(), (3, 3));
}

#[tokio::test]
async fn failed_token_refreshes_back_off_longer_each_time() {
    let fixture = Fixture::new("stable", "wxerrcode-1").await;
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        let (before, _) = fixture.counts();
        for _ in 0..3 {
            assert_eq!(fixture.ask(ORDER).await, Err("PROVIDER_UNAVAILABLE".to_owned()));
        }
        assert_eq!(fixture.counts(), (before + 1, 0), "one call for three callers");
        fixture.clock.advance(Duration::from_millis(wait * 1000 - 1));
        let failed = fixture.server.order(Provider::Wechat, ORDER).await.unwrap_err();
        assert_eq!(failed.retry_delay, Some(Duration::from_millis(1)));
        assert_eq!(fixture.counts(), (before + 1, 0), "not before {wait} s");
        fixture.clock.advance(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn rejected_credentials_and_quotas_pause_token_calls_for_the_stated_time() {
    let cases = [
        ("wxerrcode40164", "PROVIDER_CREDENTIALS_REJECTED", 60, None),
        ("wxerrcode45011", "PROVIDER_QUOTA_EXHAUSTED", 60, Some(60)),
        ("wxerrcode45009", "PROVIDER_QUOTA_EXHAUSTED", 900, Some(900)),
    ];
    for (app_id, reason, wait, told) in cases {
        let fixture = Fixture::new("stable", app_id).await;
        let failed = fixture.server.order(Provider::Wechat, ORDER).await.unwrap_err();
        assert_eq!(failed.reason, reason);
        assert_eq!(failed.retry_delay, told.map(Duration::from_secs), "{app_id}");
        fixture.pass(wait - 1);
        assert_eq!(fixture.ask(ORDER).await, Err(reason.to_owned()));
        assert_eq!(fixture.counts(), (1, 0), "{app_id}");
        fixture.pass(1);
        assert_eq!(fixture.ask(ORDER).await, Err(reason.to_owned()));
        assert_eq!(fixture.counts(), (2, 0), "{app_id}");
    }
}

#[tokio::test]
async fn a_token_echoed_by_the_vendor_is_redacted() {
    let vendor = Scripted::start().await;
    let token = "to/ken".repeat(90);
    vendor.answers_at(
        "/cgi-bin/",
        200,
        format!("{{\"access_token\":\"{token}\",\"expires_in\":7200}}"),
    );
    let server = Server::start(&format!(
        "[accounts.w]\nprovider = \"wechat\"\napp_id = \"a\"\napp_secret = \"app-secret\"\n\
         base_url = \"http://{}\"\n",
        vendor.address
    ))
    .await;
    for repeated in [token.clone(), token.replace('/', "%2F")] {
        let body =
            format!("{{\"errcode\":7,\"errmsg\":\"bad request ?access_token={repeated}&x=1\"}}");
        vendor.answers_at("/wxa/", 200, body);
        let failed = server.order(Provider::Wechat, ORDER).await.unwrap_err();
        assert_eq!(failed.metadata["provider_message"], "bad request ?access_token=[secret]&x=1");
    }
}
