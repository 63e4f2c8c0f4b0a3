//! The whole life of a server in one log: every kind of secret, rotated ones too, through answers,
//! failures, retries, the breaker, watches, batches, wrong callers, invalid files, a lost store and a
//! shutdown that cuts off hanging calls.

use std::collections::BTreeSet;

use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{
    BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider, WatchOrderRequest,
};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::serve::LOUDEST;
use super::vendor::{Behavior, PLAYED, Vendor, error, order};
use super::{
    ACCESS_TOKEN, DINGSHANG_KEY, DINGSHANG_SECRET, HAOKA_SECRET, NAME, NUMBER_ID, PERSONAL,
    SECRETS, WECHAT_SECRET, WORD_ID, assert_libraries_are_quiet, assert_none,
};
use crate::support::authority::{self, Authority, BOTH, Pair};
use crate::support::child::{Child, Serving, command};
use crate::support::mounted::Mounted;
use crate::support::redis_server::RedisServer;
use crate::support::{Failed, question};

const REDIS_PASSWORD: &str = "canaryRedisPassword61f0";
const TOKEN: &str = "canaryCallerToken-1d9f";
const OTHER_TOKEN: &str = "canaryCallerToken-0042";
const STRANGERS: &str = "canaryCallerToken-ee21";
const COOKIE: &str = "canaryCallerCookie88c1";

/// The content of each secret after the first rotation, and after an invalid one.
const ROTATED: &str = "canaryRotatedSecret0e6b";
const UNFIT: &str = "canaryUnfitSecret93d4";

/// Every file with a secret, and its initial content.
const FILES: [(&str, &str); 5] = [
    ("wechat", WECHAT_SECRET),
    ("dingshang", DINGSHANG_SECRET),
    ("key", DINGSHANG_KEY),
    ("haoka", HAOKA_SECRET),
    ("token", TOKEN),
];

/// Writes these into the files.
fn swap(mounted: &Mounted, content: impl Fn(&str, &str) -> String, pair: &Pair) {
    let contents = FILES.map(|(name, first)| (name, content(name, first)));
    let mut files: Vec<_> =
        contents.iter().map(|(name, content)| (*name, content.as_str())).collect();
    files.extend([("tls.crt", pair.certificate.as_str()), ("tls.key", &pair.key)]);
    mounted.swap(&files);
}

/// Each secret's canary after rotation.
fn rotated(name: &str, _: &str) -> String {
    format!("{ROTATED}-{name}")
}

fn second_token() -> String {
    rotated("token", "")
}

/// The base64 of a private key, without its header and footer.
fn inside(pair: &Pair) -> Vec<String> {
    pair.key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned).collect()
}

struct Life {
    vendor: Vendor,
    redis: RedisServer,
    mounted: Mounted,
    authority: Authority,
    server: Serving,
    channel: Channel,
    /// Every error that a caller got.
    told: Vec<String>,
    reasons: BTreeSet<String>,
}

impl Life {
    async fn start(pair: &Pair, authority: Authority) -> Self {
        let (vendor, redis) = (Vendor::start().await, RedisServer::start());
        let allowed = format!(">{REDIS_PASSWORD}");
        let () = redis.say(&["ACL", "SETUSER", "app", "on", &allowed, "~*", "&*", "+@all"]);
        let first = FILES.map(|(name, first)| (name, first));
        let files = [("tls.crt", pair.certificate.as_str()), ("tls.key", &pair.key)];
        let mounted = Mounted::new(&[&first[..], &files].concat());
        let secret = |name| mounted.secret(name);
        let common = format!("base_url = \"{}\"\ntimeout = \"5s\"", vendor.played.url());
        let server = Serving::start_with(
            &format!(
                "server.drain_timeout = \"2s\"\n\
                 store.url = \"redis://app:{REDIS_PASSWORD}@127.0.0.1:{}/0\"\n{}\
                 [clients]\nbilling.token = {}\n\
                 audit = {{ token = \"{OTHER_TOKEN}\", accounts = [\"cards\"] }}\n\
                 [accounts.market]\nprovider = \"wechat\"\n{common}\napp_id = \"wx\"\n\
                 app_secret = {}\n\
                 [accounts.vending]\nprovider = \"dingshang\"\n{common}\napp_id = \"ds\"\n\
                 machine_no = \"16327129\"\napp_secret = {}\napp_key = {}\n\
                 [accounts.cards]\nprovider = \"haoka\"\n{common}\nuser_id = \"agent\"\n\
                 secret = {}\n",
                redis.port,
                authority::settings(mounted.folder(), None),
                secret("token"),
                secret("wechat"),
                secret("dingshang"),
                secret("key"),
                secret("haoka"),
            ),
            |command| {
                command.env("ORDER_QUERY_LOG", LOUDEST).env("RUST_BACKTRACE", "1");
            },
        );
        let tls = authority::client(&authority.pem, BOTH, None);
        let channel = authority::channel(server.address, tls).await.unwrap();
        let (told, reasons) = (Vec::new(), BTreeSet::new());
        Self { vendor, redis, mounted, authority, server, channel, told, reasons }
    }

    fn client(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::new(self.channel.clone())
    }

    /// Fetches live. Returns whether it succeeded; an error is recorded.
    async fn ask(&mut self, token: &str, question: GetOrderRequest) -> bool {
        let max_age = Some(prost_types::Duration::default());
        let request = with(token, GetOrderRequest { max_age, ..question });
        match self.client().get_order(request).await {
            Ok(_) => true,
            Err(status) => {
                self.failed(&status);
                false
            }
        }
    }

    /// Calls each vendor this often. Returns the number of answers.
    async fn ask_all(&mut self, token: &str, times: usize) -> usize {
        let mut answers = 0;
        for _ in 0..times {
            for provider in PLAYED {
                answers += usize::from(self.ask(token, question(provider, id(provider))).await);
            }
        }
        answers
    }

    fn failed(&mut self, status: &Status) {
        let failed = Failed::from(status);
        let details = String::from_utf8_lossy(status.details());
        self.told.push(format!("{status:?} {status} {failed:?} {details}"));
        self.reasons.insert(failed.reason);
    }

    /// A batch of known and unknown orders, and an open watch.
    async fn batch_and_watch(&mut self) -> tonic::Streaming<order_query::pb::WatchOrderResponse> {
        let orders = PLAYED.map(reference).to_vec();
        let malformed = OrderRef { id: format!("{WORD_ID}/"), ..orders[0].clone() };
        let orders = [orders, vec![malformed]].concat();
        let batch = BatchGetOrdersRequest { orders: orders.clone(), ..Default::default() };
        self.client().batch_get_orders(with(TOKEN, batch)).await.unwrap();
        let order = Some(orders[1].clone());
        let watch = self
            .client()
            .watch_order(with(TOKEN, WatchOrderRequest { order, ..Default::default() }))
            .await;
        let mut watch = watch.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        watch
    }

    /// Every caller that is refused, or for that account.
    async fn wrong_callers(&mut self) {
        for token in [STRANGERS, "", "with a space"] {
            assert_eq!(self.ask_all(token, 1).await, 0);
        }
        assert!(!self.ask(OTHER_TOKEN, question(Provider::Wechat, WORD_ID)).await);
        let request = Request::new(question(Provider::Haoka, WORD_ID));
        let status = self.client().get_order(request).await.unwrap_err();
        self.failed(&status);
    }

    /// Runs a command that fails over TLS, with a token.
    fn command(&mut self) {
        let ca = self.mounted.folder().join("ca.crt");
        std::fs::write(&ca, &self.authority.pem).unwrap();
        let url = format!("https://localhost:{}", self.server.address.port());
        let mut command = command(["get", "haoka", WORD_ID, "--endpoint", &url, "--ca-file"]);
        command.arg(ca).env("ORDER_QUERY_TOKEN", STRANGERS).env("ORDER_QUERY_LOG", LOUDEST);
        let ended = Child::start(command).end();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("CALLER_UNAUTHENTICATED"), "{ended:?}");
        self.told.extend([ended.out, ended.err]);
    }

    /// Swaps every file, with valid and then with invalid content.
    async fn rotate(&mut self, pairs: &[Pair; 3]) {
        swap(&self.mounted, rotated, &pairs[1]);
        self.expect_file_logs("reloaded");
        let token = second_token();
        assert!(self.ask(&token, question(Provider::Dingshang, NUMBER_ID)).await);
        assert!(self.ask(TOKEN, question(Provider::Dingshang, NUMBER_ID)).await, "for the overlap");
        // The access token is refused, so another one is fetched with the new secret.
        self.vendor.does(&Behavior::Answers(200, error(40_001, 4_006, "签名")));
        assert_eq!(self.ask_all(&token, 1).await, 0);
        let broken = Pair { key: pairs[2].key.replace("END", "AND"), ..pairs[2].clone() };
        swap(&self.mounted, |name, _| format!("{UNFIT}-{name}\n{UNFIT}\n"), &broken);
        self.expect_file_logs("reload failed");
    }

    /// The vendors echo secrets, and then fail until the breaker opens.
    async fn trouble(&mut self) {
        let token = second_token();
        // Each vendor echoes the secrets that it knows.
        for (provider, known) in [
            (Provider::Wechat, format!("{} {ACCESS_TOKEN}", rotated("wechat", ""))),
            (Provider::Dingshang, format!("{} {}", rotated("dingshang", ""), rotated("key", ""))),
            (Provider::Haoka, rotated("haoka", "")),
        ] {
            self.vendor.does(&Behavior::Answers(200, error(7, 7, &known)));
            assert!(!self.ask(&token, question(provider, id(provider))).await);
        }
        assert!(self.told.concat().contains("[secret] [secret]"), "{:?}", self.told);
        let before = self.vendor.played.asked().len();
        self.vendor.does(&Behavior::Answers(503, NAME.to_owned()));
        assert!(!self.ask(&token, question(Provider::Dingshang, NUMBER_ID)).await);
        assert_eq!(self.vendor.played.asked().len() - before, 2, "it is asked once more");
        assert_eq!(self.ask_all(&token, 6).await, 0);
        self.server.child.err.with("its circuit breaker is open until a probe");
    }

    /// The secrets were used, so they could have leaked.
    fn assert_arrived(&self) {
        let arrived = arrived(&self.vendor);
        for canary in [WECHAT_SECRET, DINGSHANG_SECRET, ACCESS_TOKEN, NUMBER_ID, WORD_ID] {
            assert!(arrived.contains(canary), "the vendor has seen {canary}");
        }
        for file in ["wechat", "dingshang"] {
            assert!(
                arrived.contains(&rotated(file, "")),
                "the vendor has seen {file}'s second one"
            );
        }
    }

    /// Waits for the log lines about each changed file.
    fn expect_file_logs(&mut self, what: &str) {
        for _ in 0..=FILES.len() {
            self.server.child.err.with(what);
        }
    }
}

fn id(provider: Provider) -> &'static str {
    if provider == Provider::Dingshang { NUMBER_ID } else { WORD_ID }
}

fn reference(provider: Provider) -> OrderRef {
    let id = id(provider).to_owned();
    OrderRef { provider: provider.into(), id, ..OrderRef::default() }
}

/// The message with this token, and other metadata of a caller.
fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    metadata.insert("cookie", COOKIE.parse().unwrap());
    request
}

/// All requests to the vendor, in one text.
fn arrived(vendor: &Vendor) -> String {
    let asked = vendor.played.asked();
    let texts = asked.iter().map(|asked| {
        let body = String::from_utf8_lossy(&asked.body);
        format!("{} {:?} {body}\n", asked.uri, asked.headers.get("appsecret"))
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_leaks_in_the_whole_life_of_a_server() {
    let authority = Authority::new();
    let pairs = [(); 3].map(|()| authority.issue(&["localhost"]));
    let mut life = Life::start(&pairs[0], authority).await;

    life.vendor.does(&Behavior::Answers(200, order().to_string()));
    // Ten calls fund a retry; Haoka allows ten for an order in a day.
    assert_eq!(life.ask_all(TOKEN, 9).await, 27);
    let mut watch = life.batch_and_watch().await;
    life.wrong_callers().await;
    life.command();

    life.rotate(&pairs).await;
    life.trouble().await;
    life.assert_arrived();
    life.vendor.does(&Behavior::Hangs);
    life.redis.kill();
    life.ask_all(&second_token(), 1).await;
    life.server.child.signal("TERM");
    while let Ok(Some(_)) = watch.message().await {}
    let Life { server, told, reasons, .. } = life;
    let ended = server.child.end();
    assert_eq!(ended.code, Some(0));
    for kind in [
        "CALLER_FORBIDDEN",
        "CALLER_UNAUTHENTICATED",
        "PROVIDER_CREDENTIALS_REJECTED",
        "PROVIDER_ERROR",
        "PROVIDER_QUOTA_EXHAUSTED",
        "PROVIDER_UNAVAILABLE",
        "STORE_UNAVAILABLE",
    ] {
        assert!(reasons.contains(kind), "{kind} was never seen among {reasons:?}");
    }
    for line in ["the shared store is connected", "the shared store is not connected", "stopped"] {
        assert!(ended.err.contains(line), "{line} is not in the log:\n{}", ended.err);
    }

    assert_libraries_are_quiet(&ended.err);
    let keys = pairs.iter().flat_map(inside).collect::<Vec<_>>();
    let mut canaries: Vec<&str> = keys.iter().map(String::as_str).collect();
    let others = [REDIS_PASSWORD, TOKEN, OTHER_TOKEN, STRANGERS, COOKIE, ROTATED, UNFIT];
    canaries.extend([&SECRETS[..], &PERSONAL, &others].concat());
    assert_none(&canaries, &told.concat());
    assert_none(&canaries, &ended.err);
    assert_none(&canaries, &ended.out);
}
