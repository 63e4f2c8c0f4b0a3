//! The bearer tokens that are taken now, as digests: nobody can read a token out of them. Used by
//! `callers` only.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use crate::clock::Clock;

/// How long a token is taken after its file holds another one. Kubernetes takes up to two minutes to
/// bring a change of a Secret to every pod: callers and servers learn of it at different times, in
/// whatever order.
const OVERLAP: Duration = Duration::from_mins(5);

/// The digest of a token.
#[derive(Clone, Copy)]
pub(super) struct Digest(ring::digest::Digest);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        Self(digest(&SHA256, token.as_bytes()))
    }

    /// In a time that tells nothing of where they differ.
    fn is(&self, other: &Self) -> bool {
        self.0.as_ref().ct_eq(other.0.as_ref()).into()
    }
}

/// A token that is taken.
struct Accepted {
    /// Whose it is: the place in the list of clients.
    client: usize,
    digest: Digest,
    /// Until when, for one that another has taken the place of.
    until: Option<SystemTime>,
}

/// The tokens of all clients.
pub(super) struct Tokens {
    accepted: RwLock<Vec<Accepted>>,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    /// None yet.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { accepted: RwLock::default(), clock }
    }

    /// Takes a client's token in place of the one before, which is taken for one overlap more. The
    /// one before that is gone.
    ///
    /// # Errors
    /// Where the token is another client's: nobody could tell the two apart.
    pub(super) fn replace(&self, client: usize, token: &str) -> Result<(), String> {
        let digest = Digest::of(token);
        let now = self.clock.now();
        let mut accepted = self.accepted.write().unwrap_or_else(PoisonError::into_inner);
        accepted.retain(|token| token.until.is_none_or(|until| now < until));
        match accepted.iter().find(|token| token.digest.is(&digest)) {
            Some(token) if token.client != client => {
                return Err("is the token of another client, too; each needs its own".to_owned());
            }
            // The file was written anew, with the same token.
            Some(Accepted { until: None, .. }) => return Ok(()),
            _ => {}
        }
        accepted.retain(|token| token.client != client || token.until.is_none());
        for token in accepted.iter_mut().filter(|token| token.client == client) {
            token.until = Some(now + OVERLAP);
        }
        accepted.push(Accepted { client, digest, until: None });
        Ok(())
    }

    /// Whose token it is now.
    pub(super) fn owner(&self, shown: &Digest) -> Option<usize> {
        let now = self.clock.now();
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let mut owner = None;
        // To the end, whatever is found: how long it takes does not tell which one it is.
        for token in accepted.iter() {
            let lives = token.until.is_none_or(|until| now < until);
            if token.digest.is(shown) & lives {
                owner = Some(token.client);
            }
        }
        owner
    }
}
