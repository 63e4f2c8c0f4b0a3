//! Tokens in files that change: the new one is accepted at once, the old one for an overlap, and then
//! on no connection.

use std::time::Duration;

use order_query::clock::Clock as _;

use super::{AUDIT, Fixture, haoka, order, shipped};
use crate::support::Failed;
use crate::support::mounted::{Mounted, Witness, until};

const FIRST: &str = "the-first-token-00001";
const SECOND: &str = "the-second-token-0002";
const THIRD: &str = "the-third-token-00003";

struct Rotating {
    fixture: Fixture,
    mounted: Mounted,
    witness: Witness,
}

impl Rotating {
    async fn new() -> Self {
        let mounted = Mounted::new(&[("token", &format!("{FIRST}\n"))]);
        let witness = Witness::start().await;
        let fixture = Fixture::new(&format!(
            "clients.billing = {{ token = {}, accounts = [\"h\"] }}\n\
             clients.witness.token = \"{AUDIT}\"\n{}{}",
            mounted.secret("token"),
            haoka("h"),
            witness.account(&mounted)
        ))
        .await;
        Self { fixture, mounted, witness }
    }

    /// Writes this to the token's file, and waits until it is reloaded.
    async fn swap(&self, content: &str) {
        self.mounted.swap(&[("token", content)]);
        let Fixture { server, clock, .. } = &self.fixture;
        self.witness.until_reloaded_for(AUDIT, server, clock, &self.mounted).await;
    }

    async fn takes(&self, token: &str) -> bool {
        match self.fixture.get(token, &order("A1")).await {
            Ok(_) => true,
            Err(failed) if failed.reason == "CALLER_UNAUTHENTICATED" => false,
            Err(failed) => panic!("{failed:?}"),
        }
    }

    /// Which of the three are accepted.
    async fn taken(&self) -> [bool; 3] {
        [self.takes(FIRST).await, self.takes(SECOND).await, self.takes(THIRD).await]
    }

    fn pass(&self, seconds: u64) {
        self.fixture.clock.advance(Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn an_old_token_is_accepted_for_one_overlap_and_then_on_no_connection() {
    let rotating = Rotating::new().await;
    assert_eq!(rotating.taken().await, [true, false, false]);
    let start = rotating.fixture.clock.now();
    rotating.swap(SECOND).await;
    assert_eq!(rotating.taken().await, [true, true, false]);
    // It was reloaded some time between the start and now.
    let read = rotating.fixture.clock.now().duration_since(start).unwrap();
    assert!(read < Duration::from_mins(1), "{read:?}");
    rotating.pass(299 - read.as_secs());
    assert_eq!(rotating.taken().await, [true, true, false]);
    rotating.pass(1 + read.as_secs());
    assert_eq!(rotating.taken().await, [false, true, false]);
}

#[tokio::test]
async fn the_token_before_the_old_one_is_rejected_at_once() {
    let rotating = Rotating::new().await;
    rotating.swap(SECOND).await;
    rotating.swap(THIRD).await;
    assert_eq!(rotating.taken().await, [false, true, true]);
    // The previous token returns, as after a mistake.
    rotating.swap(SECOND).await;
    assert_eq!(rotating.taken().await, [false, true, true]);
    rotating.pass(300);
    assert_eq!(rotating.taken().await, [false, true, false]);
}

#[tokio::test]
async fn rewriting_the_same_token_starts_no_overlap() {
    let rotating = Rotating::new().await;
    rotating.swap(SECOND).await;
    rotating.swap(&format!("{SECOND}\n")).await;
    assert_eq!(rotating.taken().await, [true, true, false]);
}

#[tokio::test]
async fn invalid_content_keeps_the_token_in_use() {
    let rotating = Rotating::new().await;
    for unfit in ["", "\n", "too-short", "with a space in it", AUDIT] {
        rotating.swap(unfit).await;
        rotating.pass(300);
        assert_eq!(rotating.taken().await, [true, false, false], "{unfit:?}");
    }
    assert!(!rotating.takes("too-short").await && !rotating.takes("with a space in it").await);
    rotating.swap(SECOND).await;
    rotating.pass(300);
    assert_eq!(rotating.taken().await, [false, true, false]);
}

#[tokio::test]
async fn an_open_watch_ends_before_its_next_update_once_its_token_expires() {
    let rotating = Rotating::new().await;
    let Fixture { vendor, clock, .. } = &rotating.fixture;
    vendor.answers(200, "{\"code\":0,\"data\":{\"orderStatus\":\"待处理\"}}");
    let mut old = rotating.fixture.watch(FIRST, &order("W1")).await.unwrap();
    old.message().await.unwrap().unwrap();
    rotating.swap(SECOND).await;
    let mut new = rotating.fixture.watch(SECOND, &order("W1")).await.unwrap();
    new.message().await.unwrap().unwrap();
    // Within the overlap the watch continues.
    vendor.answers(200, "{\"code\":0,\"data\":{\"orderStatus\":\"已提运营商\"}}");
    let asked = vendor.asked().len();
    rotating.fixture.get_now(SECOND, &order("W1")).await.unwrap();
    assert_eq!(vendor.asked().len(), asked + 1);
    old.message().await.unwrap().unwrap();
    new.message().await.unwrap().unwrap();
    rotating.pass(300);
    vendor.answers(200, shipped());
    until(clock, async || rotating.fixture.get_now(SECOND, &order("W1")).await.is_ok()).await;
    let failed = Failed::from(&old.message().await.unwrap_err());
    assert_eq!(failed.reason, "CALLER_UNAUTHENTICATED");
    new.message().await.unwrap().unwrap();
}
