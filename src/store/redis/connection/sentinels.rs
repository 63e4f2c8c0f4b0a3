//! Asks Redis Sentinel where the primary is. Used by the connection, whenever it is made and while it
//! stands.
//!
//! All sentinels are asked at one time, so that one that hangs costs nothing while the others agree.
//! What more than half of the listed ones name is the primary: Sentinel itself needs that many for a
//! failover. Without such an agreement every server that is named is tried. In either case the server
//! itself must say that it is a primary, because a sentinel may not yet know of a failover.

use std::cmp::Reverse;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    Client, Cmd, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
    RedisResult, Value, cmd, from_redis_value,
};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::super::refusals::Why;
use super::Connection;
use super::link::{answer, is_answer, open};

/// How long a sentinel may take to answer, connecting included. Most of the limit for connecting is
/// left for the primary.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// How often the sentinels are asked while the connection stands.
const INTERVAL: Duration = Duration::from_secs(1);

const UNREACHABLE: &str = "check that the sentinels run, and their addresses in store.url";
const UNKNOWN: &str = "check the name of the master in store.url";
const REFUSED: &str = "check the sentinels' addresses, sentinel_user and sentinel_password in \
                       store.url: docs/configuration.md has the sentinels' user";
const DEMOTED: &str = "a failover is not finished, or the sentinels are wrong: if this lasts, compare \
                       what SENTINEL MASTER says on each of them";

/// The words of a refusal that are about credentials: those for the sentinels are not the primary's.
const OF_CREDENTIALS: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];

/// The address that sentinels give for the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    host: String,
    port: u16,
}

/// The sentinels of one primary.
pub(super) struct Sentinels {
    pub(super) question: Cmd,
    pub(super) all: Vec<Sentinel>,
    is_tls: bool,
}

/// One sentinel.
pub(super) struct Sentinel {
    pub(super) client: Client,
    pub(super) greeting: Vec<Cmd>,
    /// The connection that gave the last answer.
    kept: Mutex<Option<MultiplexedConnection>>,
}

/// What the sentinels have answered so far.
#[derive(Default)]
struct Answers {
    /// Each address that was named, with the number of sentinels that name it.
    named: Vec<(Named, usize)>,
    /// Whether a sentinel does not know the master.
    is_unknown: bool,
    refused: Option<Why>,
    failed: Option<Why>,
}

/// The library then sends nothing of its own on a new connection.
pub(super) fn bare() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_skip_set_lib_name()
}

/// A client of the server there.
pub(super) fn client_at(host: String, port: u16, is_tls: bool) -> Option<Client> {
    let address = if is_tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    Client::open(address.into_connection_info().ok()?.set_redis_settings(bare())).ok()
}

impl Sentinels {
    pub(super) fn new(master: &str, clients: Vec<Client>, greeting: &[Cmd], is_tls: bool) -> Self {
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let sentinel =
            |client| Sentinel { client, greeting: greeting.to_vec(), kept: Mutex::default() };
        Self { question, all: clients.into_iter().map(sentinel).collect(), is_tls }
    }

    /// Connects to the primary that the sentinels name.
    pub(super) async fn primary(
        &self,
        greeting: &[Cmd],
        deadline: Instant,
    ) -> Result<(MultiplexedConnection, Named), Why> {
        let answers = self.ask(true).await;
        let agreed = self.agreed(&answers).cloned();
        let candidates = agreed.map_or_else(|| answers.candidates(), |named| vec![named]);
        let count = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        let mut first_problem = None;
        for (named, left) in candidates.into_iter().zip((1..=count).rev()) {
            // One that hangs leaves the others their share.
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match self.try_primary(&named, greeting, Instant::now() + share).await {
                Ok(connection) => return Ok((connection, named)),
                Err(why) => drop(first_problem.get_or_insert(why)),
            }
        }
        Err(first_problem.unwrap_or_else(|| answers.problem()))
    }

    /// A client of a server that the sentinels name.
    pub(super) fn client(&self, named: &Named) -> Option<Client> {
        client_at(named.host.clone(), named.port, self.is_tls)
    }

    /// Connects to a server, which must be a primary.
    async fn try_primary(
        &self,
        named: &Named,
        greeting: &[Cmd],
        deadline: Instant,
    ) -> Result<MultiplexedConnection, Why> {
        let Some(client) = self.client(named) else {
            return Err(Why::new("the sentinels name an impossible address"));
        };
        let opened = open(&client, greeting, deadline).await;
        let at_primary = |error| Why::of(&error).at("the primary");
        let mut connection = opened.map_err(at_primary)?;
        let role = answer(&mut connection, &cmd("ROLE"), deadline).await;
        if is_primary(&role.map_err(at_primary)?) {
            return Ok(connection);
        }
        Err(Why::advised("the server that the sentinels name is not a primary", DEMOTED))
    }

    /// The address that the sentinels agree on now; `None` if they do not, or cannot be asked.
    pub(super) async fn named(&self) -> Option<Named> {
        let answers = self.ask(false).await;
        self.agreed(&answers).cloned()
    }

    /// The address that more than half of all sentinels name.
    fn agreed<'a>(&self, answers: &'a Answers) -> Option<&'a Named> {
        let mut named = answers.named.iter();
        named.find(|(_, votes)| votes * 2 > self.all.len()).map(|(named, _)| named)
    }

    /// Asks all sentinels; `in_haste` until they agree. Otherwise each one gets the time to connect, and
    /// keeps its connection for the next question.
    async fn ask(&self, in_haste: bool) -> Answers {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let asked = self.all.iter().map(|sentinel| sentinel.ask(&self.question, deadline));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut answers = Answers::default();
        while let Some(answer) = asked.next().await {
            answers.add(answer);
            if in_haste && self.agreed(&answers).is_some() {
                break;
            }
        }
        answers
    }
}

impl Sentinel {
    /// Asks for the primary: on the kept connection, or on a new one if that does not work any more.
    async fn ask(&self, question: &Cmd, deadline: Instant) -> RedisResult<Option<Named>> {
        let kept = self.kept().take();
        if let Some(mut connection) = kept
            && let Ok(value) = answer(&mut connection, question, deadline).await
        {
            *self.kept() = Some(connection);
            return named_in(value);
        }
        let mut connection = open(&self.client, &self.greeting, deadline).await?;
        let value = answer(&mut connection, question, deadline).await?;
        *self.kept() = Some(connection);
        named_in(value)
    }

    fn kept(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn add(&mut self, answer: RedisResult<Option<Named>>) {
        match answer {
            Ok(Some(named)) => match self.named.iter_mut().find(|(known, _)| *known == named) {
                Some((_, votes)) => *votes += 1,
                None => self.named.push((named, 1)),
            },
            Ok(None) => self.is_unknown = true,
            Err(error) if is_answer(&error) => self.refused = Some(refusal(&error)),
            Err(error) => self.failed = Some(Why::of(&error)),
        }
    }

    /// The addresses to try, the one with the most votes first.
    fn candidates(&self) -> Vec<Named> {
        let mut named = self.named.clone();
        named.sort_by_key(|(_, votes)| Reverse(*votes));
        named.into_iter().map(|(named, _)| named).collect()
    }

    /// Why no address is known: what an operator can mend comes first.
    fn problem(self) -> Why {
        if self.is_unknown {
            return Why::advised("no sentinel knows the master", UNKNOWN);
        }
        let failed = self.failed.unwrap_or_default();
        let unreachable = Why { advice: Some(UNREACHABLE), ..failed.at("no sentinel answers") };
        self.refused.unwrap_or(unreachable)
    }
}

/// Reads the answer to the question for the primary.
fn named_in(value: Value) -> RedisResult<Option<Named>> {
    let named: Option<(String, u16)> = from_redis_value(value)?;
    Ok(named.map(|(host, port)| Named { host, port }))
}

/// Whether this answer to `ROLE` is that of a primary.
fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    match parts.first() {
        Some(Value::BulkString(word)) => word == b"master",
        Some(Value::SimpleString(word)) => word == "master",
        _ => false,
    }
}

/// What a sentinel refuses.
fn refusal(error: &RedisError) -> Why {
    let why = Why::of(error);
    let is_of_credentials = OF_CREDENTIALS.contains(&why.text.as_str());
    let advice = why.advice.filter(|_| !is_of_credentials).unwrap_or(REFUSED);
    Why { advice: Some(advice), ..why.at("a sentinel refuses") }
}

/// Gives the connection up if the sentinels agree on another primary: the one that it leads to may be
/// cut off from them, and still answer here. Ends with the store.
pub(super) async fn watch(connection: Weak<Connection>) {
    while let Some(in_use) = connection.upgrade() {
        in_use.compare_with_sentinels().await;
        drop(in_use);
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sentinels under test, by their count; none of them exists.
    fn sentinels(count: u16) -> Sentinels {
        let client = |port| client_at("h".to_owned(), port, false).unwrap();
        Sentinels::new("m", (1..=count).map(client).collect(), &[], false)
    }

    #[test]
    fn more_than_half_of_all_sentinels_must_agree() {
        for (count, named, agreed, candidates) in [
            (1, "a", Some("a"), "a"),
            (2, "a", None, "a"),
            (2, "ab", None, "ab"),
            (2, "aa", Some("a"), "a"),
            (3, "a", None, "a"),
            (3, "abb", Some("b"), "ba"),
            (3, "abc", None, "abc"),
            (4, "aabb", None, "ab"),
            (5, "abb", None, "ba"),
            (5, "babab", Some("b"), "ba"),
            (3, "", None, ""),
        ] {
            let mut answers = Answers::default();
            for host in named.chars() {
                answers.add(Ok(Some(Named { host: host.to_string(), port: 1 })));
            }
            answers.add(Ok(None));
            let sentinels = sentinels(count);
            let found = sentinels.agreed(&answers).map(|named| named.host.as_str());
            assert_eq!(found, agreed, "{count} {named}");
            let found: String = answers.candidates().into_iter().map(|named| named.host).collect();
            assert_eq!(found, candidates, "{count} {named}");
        }
    }

    #[test]
    fn an_unreadable_answer_names_nothing() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for value in [
            Value::Okay,
            Value::Int(1),
            Value::Array(vec![text("h")]),
            Value::Array(vec![text("h"), text("port")]),
            Value::Array(vec![text("h"), text("70000")]),
            Value::Array(vec![text("h"), text("1"), text("2")]),
        ] {
            assert!(named_in(value.clone()).is_err(), "{value:?}");
        }
        assert_eq!(named_in(Value::Nil), Ok(None));
        assert!(is_primary(&Value::Array(vec![text("master"), Value::Int(0)])));
        for value in
            [Value::Nil, text("master"), Value::Array(vec![]), Value::Array(vec![text("slave")])]
        {
            assert!(!is_primary(&value), "{value:?}");
        }
    }

    #[test]
    fn the_documented_rights_are_the_commands_that_are_sent() {
        let document = include_str!("../../../../docs/configuration.md");
        let (_, rule) = document.split_once("order-query on >SENTINEL_PASSWORD ").unwrap();
        let rights = rule.split("```").next().unwrap().split_whitespace();
        let rights: Vec<_> = rights.filter_map(|word| word.strip_prefix('+')).collect();
        let sent = String::from_utf8(sentinels(1).question.get_packed_command()).unwrap();
        let sent: Vec<_> = sent.split("\r\n").skip(2).step_by(2).take(2).collect();
        assert_eq!(rights, [sent.join("|").to_lowercase()]);
        assert!(document.contains("`+role` where it names sentinels"), "the user of the primary");
    }
}
