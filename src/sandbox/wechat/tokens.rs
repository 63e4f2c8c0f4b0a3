//! The tokens of `WeChat`'s two token endpoints, by the public rules of both. Used by the played
//! `WeChat` only; the caller says what time it is.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use md5::{Digest as _, Md5};

/// How many seconds a token is valid.
const LIFE: u64 = 7200;
/// How many seconds before a token expires the stable endpoint issues a new one, and how many seconds a
/// token of the classic endpoint stays valid after the next one is issued.
const OVERLAP: u64 = 300;
/// The most tokens that are stored; older ones count as unknown.
const MAX_TOKENS: usize = 1024;

/// The two token endpoints, which are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stable,
    Classic,
}

#[derive(Debug)]
struct Token {
    text: String,
    way: Way,
    /// Unix seconds.
    ends: u64,
    /// It was invalidated before it expired.
    dead: bool,
}

/// The issued tokens, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    given: VecDeque<Token>,
    /// `token-refused-once` has already invalidated a token.
    refused: bool,
}

impl Tokens {
    /// The stable endpoint: the same token for every caller until 300 s before it expires. `force`
    /// invalidates it; the limit on how often a caller may do so is not enforced here.
    pub(super) fn stable(&mut self, now: u64, force: bool) -> (String, u64) {
        if let Some(token) = self.latest(Way::Stable) {
            let left = token.ends.saturating_sub(now);
            if force {
                token.dead = true;
            } else if left >= OVERLAP {
                return (token.text.clone(), left);
            }
        }
        self.give(Way::Stable, now)
    }

    /// The classic endpoint: a new token each time, while the previous one stays valid for 300 s.
    pub(super) fn classic(&mut self, now: u64) -> (String, u64) {
        if let Some(token) = self.latest(Way::Classic) {
            token.ends = token.ends.min(now.saturating_add(OVERLAP));
        }
        self.give(Way::Classic, now)
    }

    fn latest(&mut self, way: Way) -> Option<&mut Token> {
        self.given.iter_mut().rev().find(|token| token.way == way && !token.dead)
    }

    fn give(&mut self, way: Way, now: u64) -> (String, u64) {
        if self.given.len() >= MAX_TOKENS {
            self.given.pop_front();
        }
        let text = new_token();
        let ends = now.saturating_add(LIFE);
        self.given.push_back(Token { text: text.clone(), way, ends, dead: false });
        (text, LIFE)
    }

    /// Checks that a token is valid; the error is the `errcode`.
    pub(super) fn check(&self, text: &str, now: u64) -> Result<(), i64> {
        match self.given.iter().find(|token| token.text == text) {
            None => Err(40001),
            Some(token) if token.dead => Err(40001),
            Some(token) if now >= token.ends => Err(42001),
            Some(_) => Ok(()),
        }
    }

    /// Invalidates the token on the first call only; returns whether it did.
    pub(super) fn refuse_once(&mut self, text: &str) -> bool {
        if self.refused {
            return false;
        }
        self.refused = true;
        for token in self.given.iter_mut().filter(|token| token.text == text) {
            token.dead = true;
        }
        true
    }
}

/// A token of 515 characters that no other sandbox has issued: one that is stored across a restart must
/// count as unknown.
fn new_token() -> String {
    let mut token = "90_".to_owned();
    while token.len() < 512 {
        let seed = RandomState::new().build_hasher().finish();
        for byte in Md5::digest(seed.to_le_bytes()) {
            // Writing to a String cannot fail.
            let _ = write!(token, "{byte:02x}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stable_token_is_reused_until_300_s_before_it_expires() {
        let mut tokens = Tokens::default();
        let (first, life) = tokens.stable(1000, false);
        assert_eq!((life, first.len() >= 512), (7200, true));
        assert_eq!(tokens.stable(1000 + 6900, false), (first.clone(), 300));
        let (second, life) = tokens.stable(1000 + 6901, false);
        assert_eq!((life, second == first), (7200, false));
        assert_eq!(tokens.check(&first, 1000 + 7199), Ok(()));
        assert_eq!(tokens.check(&first, 1000 + 7200), Err(42001));
        assert_eq!(tokens.check("other", 1000), Err(40001));
    }

    #[test]
    fn a_forced_stable_token_invalidates_its_predecessor_at_once() {
        let mut tokens = Tokens::default();
        let (first, _) = tokens.stable(1000, false);
        let (second, _) = tokens.stable(1001, true);
        assert_eq!(tokens.check(&first, 1001), Err(40001));
        assert_eq!(tokens.check(&second, 1001), Ok(()));
    }

    #[test]
    fn a_replaced_classic_token_stays_valid_for_300_s_and_stable_ones_are_separate() {
        let mut tokens = Tokens::default();
        let (stable, _) = tokens.stable(1000, false);
        let (first, _) = tokens.classic(1000);
        let (second, _) = tokens.classic(2000);
        assert_ne!(first, second);
        assert_eq!(tokens.check(&first, 2299), Ok(()));
        assert_eq!(tokens.check(&first, 2300), Err(42001));
        assert_eq!(tokens.check(&second, 2300), Ok(()));
        assert_eq!(tokens.stable(2300, false).0, stable);
    }
}
