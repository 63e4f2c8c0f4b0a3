//! Vendors' secrets in files that change while the server runs: what is sent, how invalid files are
//! handled, and that a secret no longer in use is still redacted.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use order_query::clock::{Clock as _, ManualClock};
use order_query::pb::Provider;
use tokio::sync::Semaphore;

use crate::support::mounted::{Mounted, Witness, until};
use crate::support::played::{Asked, Played, answer};
use crate::support::{Failed, Scripted, Server, manual_clock, md5, question};

fn form(request: &Asked, name: &str) -> String {
    let mut fields = form_urlencoded::parse(&request.body);
    fields.find(|(key, _)| key == name).expect(name).1.into_owned()
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

/// One secret of an account: where it is set, and how it shows in requests.
struct Case {
    provider: Provider,
    /// The account without `base_url` and the secret.
    account: &'static str,
    key: &'static str,
    /// Whether a request was made with the secret.
    made_with: fn(&Asked, &str) -> bool,
}

impl Case {
    fn account(&self, mounted: &Mounted, base_url: &str) -> String {
        let (account, key, secret) = (self.account, self.key, mounted.secret("secret"));
        format!(
            "[accounts.a]\n{account}\n{key} = {secret}\nbase_url = {base_url:?}\ndefault = true\n"
        )
    }
}

fn signed_by_haoka(request: &Asked, secret: &str) -> bool {
    let [id, timestamp, sign] =
        ["DownOrderID", "Timestamp", "user_sign"].map(|name| form(request, name));
    sign == md5(&format!("DownOrderID={id}&Timestamp={timestamp}&user_id=agent{secret}"))
}

fn signed_by_dingshang(request: &Asked, key: &str) -> bool {
    let payload = json(&request.body)["payload"].as_str().unwrap().to_owned();
    let payload = json(&BASE64.decode(payload).unwrap());
    let timestamp = payload["timestamp"].as_str().unwrap();
    let signed = format!("machine_no=16327129&timestamp={timestamp}&key={key}");
    payload["sign"] == md5(&signed).to_uppercase()
}

const CASES: [Case; 5] = [
    Case {
        provider: Provider::Haoka,
        account: "provider = \"haoka\"\nuser_id = \"agent\"\nbody = \"urlencoded\"",
        key: "secret",
        made_with: signed_by_haoka,
    },
    Case {
        provider: Provider::Dingshang,
        account: "provider = \"dingshang\"\napp_id = \"ds\"\nmachine_no = \"16327129\"\n\
                  app_key = \"key\"",
        key: "app_secret",
        made_with: |request, secret| request.headers["appsecret"] == secret,
    },
    Case {
        provider: Provider::Dingshang,
        account: "provider = \"dingshang\"\napp_id = \"ds\"\nmachine_no = \"16327129\"\n\
                  app_secret = \"s\"",
        key: "app_key",
        made_with: signed_by_dingshang,
    },
    Case {
        provider: Provider::Wechat,
        account: "provider = \"wechat\"\napp_id = \"wx\"",
        key: "app_secret",
        made_with: |request, secret| json(&request.body)["secret"] == secret,
    },
    Case {
        provider: Provider::Wechat,
        account: "provider = \"wechat\"\napp_id = \"wx\"\ntoken = \"classic\"",
        key: "app_secret",
        made_with: |request, secret| {
            request.uri.query().unwrap().ends_with(&format!("&secret={secret}"))
        },
    },
];

/// A server whose account has its secret in a file, and the vendor, which rejects every secret.
struct Fixture {
    vendor: Scripted,
    witness: Witness,
    clock: ManualClock,
    server: Server,
}

impl Fixture {
    async fn new(case: &Case, mounted: &Mounted) -> Self {
        let (vendor, witness) = (Scripted::start().await, Witness::start().await);
        vendor.answers(200, "{\"errcode\":40125,\"code\":1000}");
        let clock = manual_clock();
        let config = format!(
            "{}{}",
            case.account(mounted, &format!("http://{}", vendor.address)),
            witness.account(mounted)
        );
        let server = Server::start_at(&config, Arc::new(clock.clone())).await;
        Self { vendor, witness, clock, server }
    }

    async fn until_reloaded(&self, mounted: &Mounted) {
        self.witness.until_reloaded(&self.server, &self.clock, mounted).await;
    }

    /// Requests a new order and returns the last request that reached the vendor.
    async fn ask(&self, case: &Case) -> Asked {
        let id = (self.vendor.asked().len() + 1).to_string();
        self.server.order(case.provider, &id).await.unwrap_err();
        self.vendor.asked().pop().unwrap()
    }
}

#[tokio::test]
async fn a_rotated_secret_is_used_in_requests() {
    for case in CASES {
        let mounted = Mounted::new(&[("secret", "first\n")]);
        let fixture = Fixture::new(&case, &mounted).await;
        assert!((case.made_with)(&fixture.ask(&case).await, "first"), "{}", case.key);
        for changed in ["second", "third"] {
            mounted.swap(&[("secret", &format!("{changed}\n"))]);
            until(&fixture.clock, async || (case.made_with)(&fixture.ask(&case).await, changed))
                .await;
        }
    }
}

#[tokio::test]
async fn an_invalid_secret_keeps_the_previous_one_in_use() {
    for case in CASES {
        let mounted = Mounted::new(&[("secret", "first\n")]);
        let fixture = Fixture::new(&case, &mounted).await;
        let mut unfit =
            vec![String::new(), "  \n".into(), "two\nlines\n".into(), "x".repeat(65537)];
        unfit.push("Replace-Me\n".into());
        if case.key == "app_secret" && case.provider == Provider::Dingshang {
            unfit.push("密".into());
        }
        for unfit in unfit {
            mounted.swap(&[("secret", &unfit)]);
            fixture.until_reloaded(&mounted).await;
            // After rejected credentials WeChat's token is requested once a minute.
            fixture.clock.advance(Duration::from_mins(1));
            assert!((case.made_with)(&fixture.ask(&case).await, "first"), "{unfit:?}");
        }
        mounted.swap(&[("secret", "second")]);
        until(&fixture.clock, async || (case.made_with)(&fixture.ask(&case).await, "second")).await;
    }
}

#[tokio::test]
async fn a_wechat_token_survives_rotation_and_a_new_secret_is_tried_at_once() {
    let case = &CASES[3];
    let mounted = Mounted::new(&[("secret", "first")]);
    let fixture = Fixture::new(case, &mounted).await;
    let tokens = || {
        let arrived = fixture.vendor.asked();
        arrived.iter().filter(|request| request.uri.path().starts_with("/cgi-bin/")).count()
    };
    let ask = async || fixture.server.order(Provider::Wechat, "1").await.unwrap_err();
    ask().await;
    let refused = fixture.clock.now();
    ask().await;
    assert_eq!(tokens(), 1, "for a minute after refused credentials no token is asked for");
    fixture.vendor.answers(200, "{\"access_token\":\"t\",\"expires_in\":7200}");
    mounted.swap(&[("secret", "second")]);
    fixture.until_reloaded(&mounted).await;
    ask().await;
    let passed = fixture.clock.now().duration_since(refused).unwrap();
    assert!(passed < Duration::from_mins(1), "{passed:?}");
    assert_eq!(tokens(), 2, "another secret may be asked with at once");
    mounted.swap(&[("secret", "third")]);
    fixture.until_reloaded(&mounted).await;
    ask().await;
    assert_eq!(tokens(), 2, "the token that is held lives on");
}

#[tokio::test]
async fn a_secret_rotated_during_a_call_is_redacted_like_the_new_one() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let vendor = Played::start(move |_| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            answer(200, "{\"code\":7,\"message\":\"f1rst and s3cond\"}")
        }
    })
    .await;
    let (mounted, witness) = (Mounted::new(&[("secret", "f1rst")]), Witness::start().await);
    let clock = manual_clock();
    let config =
        format!("{}{}", CASES[0].account(&mounted, &vendor.url()), witness.account(&mounted));
    let server = Server::start_at(&config, Arc::new(clock.clone())).await;
    let mut client = server.client.clone();
    let call = tokio::spawn(async move { client.get_order(question(Provider::Haoka, "A1")).await });
    vendor.until_asked(1).await;
    mounted.swap(&[("secret", "s3cond")]);
    witness.until_reloaded(&server, &clock, &mounted).await;
    gate.add_permits(1);
    let failed = Failed::from(&call.await.unwrap().unwrap_err());
    assert_eq!(failed.metadata["provider_message"], "[secret] and [secret]");
}
