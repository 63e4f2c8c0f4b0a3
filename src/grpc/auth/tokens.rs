//! The bearer tokens that are valid now, stored as digests: a token cannot be read out of its digest.
//! Used by `auth` only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::clock::Clock;

/// How long a token stays valid after its file holds another one. Kubernetes takes up to two minutes
/// to bring a change of a Secret to every pod: callers and servers see the new token at different
/// times, in any order.
const OVERLAP: Duration = Duration::from_mins(5);

/// The digest of a token. How long it takes to find one tells nothing about the others: nobody can
/// choose a token by its digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; SHA256_OUTPUT_LEN]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// A token that is accepted.
struct Accepted {
    /// The index of its client in the list of clients.
    client: usize,
    /// When it expires; set for a token that another one has replaced.
    until: Option<SystemTime>,
}

/// The tokens of all clients.
pub(super) struct Tokens {
    accepted: RwLock<HashMap<Digest, Accepted>>,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    /// An empty set.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { accepted: RwLock::default(), clock }
    }

    /// Makes `token` the client's token. The previous token stays valid for one more [`OVERLAP`]; the
    /// one before it is dropped.
    ///
    /// # Errors
    /// Where the token belongs to another client: the two could not be told apart.
    pub(super) fn replace(&self, client: usize, token: &str) -> Result<(), String> {
        let digest = Digest::of(token);
        let now = self.clock.now();
        let mut accepted = self.accepted.write().unwrap_or_else(PoisonError::into_inner);
        accepted.retain(|_, token| token.until.is_none_or(|until| now < until));
        match accepted.get(&digest) {
            Some(token) if token.client != client => {
                return Err(
                    "is also the token of another client; each client needs its own".to_owned()
                );
            }
            // The file was written again with the same token.
            Some(Accepted { until: None, .. }) => return Ok(()),
            _ => {}
        }
        accepted.retain(|_, token| token.client != client || token.until.is_none());
        for token in accepted.values_mut().filter(|token| token.client == client) {
            token.until = Some(now + OVERLAP);
        }
        accepted.insert(digest, Accepted { client, until: None });
        Ok(())
    }

    /// The index of the client that the token belongs to now.
    pub(super) fn owner(&self, shown: &Digest) -> Option<usize> {
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let token = accepted.get(shown)?;
        let lives = token.until.is_none_or(|until| self.clock.now() < until);
        lives.then_some(token.client)
    }
}
