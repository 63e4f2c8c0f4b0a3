//! Authentication: a bearer token, a name in the client certificate, or both identify a caller. The
//! layer asks it for every call; `app` reads `[clients]` with it.

mod tokens;

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use self::tokens::{Digest, Tokens};
use super::admission::RETRY;
pub use crate::accounts::Caller;
use crate::budget::{Budget, Share};
use crate::clock::Clock;
use crate::config::Section;
use crate::error::Error;
use crate::pb::ErrorReason;
use crate::peer::Peer;
use crate::telemetry::metrics::{Counter, Gauge, Metrics};

/// How long a token may be, in characters. A shorter one can be guessed.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 16..=4096;

/// The range of a client's `vendor_calls_per_minute`.
const CALLS_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;

/// The range of a client's `max_in_flight`.
const IN_FLIGHT_RANGE: std::ops::RangeInclusive<u32> = 1..=100_000;

/// The name of a client's `max_in_flight` in metrics.
const IN_FLIGHT_LIMIT: &str = "client_max_in_flight";

/// How callers connect, as far as it matters for their credentials.
#[derive(Debug, Clone, Copy)]
pub struct Transport {
    /// Callers are asked for a certificate.
    pub certificates: bool,
    /// Others on the network can read what callers send.
    pub exposed: bool,
}

/// The clients that may ask, from the configuration. By default anyone may ask.
#[derive(Clone, Default)]
pub struct Clients(Option<Arc<ClientTable>>);

struct ClientTable {
    clients: Vec<Client>,
    tokens: Arc<Tokens>,
}

/// `[clients.NAME]`
struct Client {
    caller: Caller,
    has_token: bool,
    tls_name: Option<String>,
    /// The client's calls in progress; `None` where only the limit of all clients together applies.
    in_flight: Option<InFlight>,
}

/// A client's calls in progress, and their limit.
#[derive(Clone)]
pub(super) struct InFlight {
    budget: Arc<Budget>,
    used: Gauge,
    shed: Counter,
}

impl Clients {
    /// Reads `[clients]`, if it is set. `accounts` are the names of all accounts. Mistakes are
    /// recorded as problems.
    #[must_use]
    pub fn read(
        section: Option<Section>,
        accounts: &[String],
        transport: Transport,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Self {
        let Some(section) = section else { return Self(None) };
        let tokens = Arc::new(Tokens::new(Arc::clone(clock)));
        let mut clients: Vec<Client> = Vec::new();
        for (name, table) in section.sections() {
            let place = table.place();
            let client =
                Client::read(&name, table, (&tokens, clients.len()), accounts, transport, metrics);
            if let Some(other) = clients.iter().find(|other| client.is_like(other)) {
                let other = &other.caller.name;
                let text = format!(
                    "is also the tls_name of clients.{other}, and neither client has a token to \
                     distinguish them"
                );
                place.problem("tls_name", text);
            }
            clients.push(client);
        }
        Self(Some(Arc::new(ClientTable { clients, tokens })))
    }

    /// The number of clients; `None` where anyone may ask.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        self.0.as_ref().map(|table| table.clients.len())
    }

    /// Updates the gauges of each client's calls in progress.
    pub fn measure(&self) {
        for client in self.0.iter().flat_map(|table| &table.clients) {
            if let Some(InFlight { budget, used, .. }) = &client.in_flight {
                used.set(u32::try_from(budget.used()).unwrap_or(u32::MAX).into());
            }
        }
    }

    /// The caller of a request with these headers.
    pub(super) fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Identity, Error> {
        let Some(table) = &self.0 else {
            return Ok(Identity { caller: Caller::default(), in_flight: None, proof: None });
        };
        let shown = bearer(headers)?.map(Digest::of);
        let (index, client) = match &shown {
            Some(shown) => table.with_token(shown)?,
            None => table.without_token(peer)?,
        };
        if client.tls_name.as_ref().is_some_and(|name| !peer.names.contains(name)) {
            return Err(unknown("the certificate does not match the token"));
        }
        let proof = shown.map(|shown| Proof { table: Arc::clone(table), client: index, shown });
        let in_flight = client.in_flight.clone();
        Ok(Identity { caller: client.caller.clone(), in_flight, proof })
    }
}

impl Client {
    /// Reads `[clients.NAME]` and adds its token to `tokens`, under the index `number`.
    fn read(
        name: &str,
        mut section: Section,
        (tokens, number): (&Arc<Tokens>, usize),
        accounts: &[String],
        transport: Transport,
        metrics: &Metrics,
    ) -> Self {
        section.check_name(name);
        let has_token = section.has("token");
        if !has_token && !section.has("tls_name") {
            section.problem(
                "",
                "needs a token or a tls_name: without either, no caller can authenticate as \
                 this client",
            );
        }
        if has_token && transport.exposed {
            section.warn("token", "is sent in plaintext, and anyone who reads it can use it");
        }
        let tokens = Arc::clone(tokens);
        section.secret_into("token", move |token| {
            check_token(token.expose())?;
            tokens.replace(number, token.expose())
        });
        let tls_name: Option<String> = section.take("tls_name");
        if tls_name.is_some() && !transport.certificates {
            let text = "needs server.tls.client_ca_file: without it the server requests no client \
                        certificate";
            section.problem("tls_name", text);
        }
        let own: Option<Vec<String>> = section.take("accounts");
        if let Some(place) = own.iter().flatten().position(|name| !accounts.contains(name)) {
            let text = format!(
                "holds a name that no account has (at position {}); accounts are {}",
                place + 1,
                accounts.join(", ")
            );
            section.problem("accounts", text);
        }
        let caller = Caller {
            name: name.into(),
            accounts: own.map(Into::into),
            vendor_calls_per_minute: section.count("vendor_calls_per_minute", CALLS_RANGE),
        };
        let in_flight = section.count("max_in_flight", IN_FLIGHT_RANGE);
        let shed = metrics.shed.with([IN_FLIGHT_LIMIT]);
        let in_flight = in_flight.map(|limit| InFlight {
            budget: Budget::new(usize::try_from(limit).unwrap_or(usize::MAX)),
            used: metrics.client_in_flight.with([name]),
            shed,
        });
        section.finish();
        Self { caller, has_token, tls_name, in_flight }
    }

    /// Whether one certificate would identify both clients.
    fn is_like(&self, other: &Self) -> bool {
        let alone = !self.has_token && !other.has_token;
        alone && self.tls_name.is_some() && self.tls_name == other.tls_name
    }
}

fn check_token(token: &str) -> Result<(), String> {
    if TOKEN_LENGTH.contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let (least, most) = (TOKEN_LENGTH.start(), TOKEN_LENGTH.end());
    Err(format!("must have {least} to {most} characters: ASCII, visible, and no space"))
}

impl ClientTable {
    fn with_token(&self, shown: &Digest) -> Result<(usize, &Client), Error> {
        let owner = self.tokens.owner(shown);
        let client = owner.and_then(|index| Some((index, self.clients.get(index)?)));
        client.ok_or_else(|| unknown("no client has the token"))
    }

    /// The client that needs no token and whose certificate this is.
    fn without_token(&self, peer: &Peer) -> Result<(usize, &Client), Error> {
        let mut certified = self.clients.iter().enumerate().filter(|(_, client)| {
            let name = client.tls_name.as_ref();
            !client.has_token && name.is_some_and(|name| peer.names.contains(name))
        });
        match (certified.next(), certified.next()) {
            (Some(client), None) => Ok(client),
            (Some(_), Some(_)) => Err(unknown("the certificate has the names of several clients")),
            (None, _) => {
                Err(unknown("there is no token, and no certificate that identifies a client"))
            }
        }
    }
}

/// The token of the only `authorization` header; `None` where there is no such header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(unknown("there are several authorization headers"));
    }
    let text = value.to_str().map_err(|_| unknown("the authorization header is not ASCII"))?;
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_matches(' '),
        _ => "",
    };
    if token.is_empty() {
        return Err(unknown("the authorization header holds no bearer token"));
    }
    Ok(Some(token))
}

/// The error for an unknown caller. The detail goes to the log only: it would help an attacker to
/// guess.
fn unknown(detail: &str) -> Error {
    Error::new(
        ErrorReason::CallerUnauthenticated,
        "this server does not recognize the caller; send the token or present the certificate that \
         the operator has configured for it",
    )
    .detail(detail)
}

/// The identified caller of a request.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) caller: Caller,
    in_flight: Option<InFlight>,
    /// The token that identified the caller.
    proof: Option<Proof>,
}

#[derive(Clone)]
struct Proof {
    table: Arc<ClientTable>,
    client: usize,
    shown: Digest,
}

impl Identity {
    /// Takes `count` permits of the client's own limit, if it has one. It reports nothing:
    /// [`permits`](Self::permits) does.
    ///
    /// # Errors
    /// The limit, if too few permits are left.
    pub(super) fn try_permits(&self, count: usize) -> Result<Option<Share>, &InFlight> {
        let Some(in_flight) = &self.in_flight else { return Ok(None) };
        let InFlight { budget, .. } = in_flight;
        budget.take(count.min(budget.limit())).map(Some).ok_or(in_flight)
    }

    /// Takes `count` permits of the client's own limit.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED` where the client's `max_in_flight` leaves too few.
    pub(super) fn permits(&self, count: usize) -> Result<Option<Share>, Error> {
        self.try_permits(count).map_err(|InFlight { shed, .. }| {
            shed.inc();
            let text = "this caller has too many calls in progress; wait until some of them end";
            Error::new(ErrorReason::ServerOverloaded, text).retry_after(RETRY)
        })
    }

    /// Checks that the caller's token is still valid.
    ///
    /// # Errors
    /// `CALLER_UNAUTHENTICATED` where the token has been rotated out.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Some(Proof { table, client, shown }) = &self.proof else { return Ok(()) };
        if table.tokens.owner(shown) == Some(*client) {
            Ok(())
        } else {
            Err(unknown("the token was rotated out"))
        }
    }
}
