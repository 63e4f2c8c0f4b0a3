//! Whether an account's vendor can be asked now, as far as is known, and what stands against it.
//! Used by `orders`; `health` tells it.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What stands against asking a vendor. Each comes and goes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// The vendor turns the account's credentials down.
    Refused,
    /// The vendor fails, and its breaker is open.
    Failing,
}

impl Hindrance {
    fn of(self, [refused, failing]: &mut [bool; 2]) -> &mut bool {
        match self {
            Self::Refused => refused,
            Self::Failing => failing,
        }
    }
}

/// What is known of an account.
#[derive(Debug)]
pub(super) struct Standing {
    hindrances: Mutex<[bool; 2]>,
    askable: watch::Sender<bool>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { hindrances: Mutex::default(), askable: watch::Sender::new(true) }
    }
}

impl Standing {
    /// Tells whether the vendor can be asked, now and at each change.
    pub(super) fn askable(&self) -> watch::Receiver<bool> {
        self.askable.subscribe()
    }

    fn hindrances(&self) -> MutexGuard<'_, [bool; 2]> {
        self.hindrances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a hindrance is there.
    pub(super) fn has(&self, hindrance: Hindrance) -> bool {
        *hindrance.of(&mut self.hindrances())
    }

    /// Notes whether a hindrance is there. True where that is news.
    pub(super) fn note(&self, hindrance: Hindrance, is_there: bool) -> bool {
        let mut hindrances = self.hindrances();
        let is_news = mem::replace(hindrance.of(&mut hindrances), is_there) != is_there;
        // Under the lock, so that the last word is of the last change.
        let askable = !hindrances.contains(&true);
        self.askable.send_if_modified(|was| mem::replace(was, askable) != askable);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_is_askable_while_nothing_at_all_stands_against_it() {
        use Hindrance::{Failing, Refused};
        let standing = Standing::default();
        let askable = standing.askable();
        assert!(*askable.borrow());
        for (hindrance, is_there, is_news, expected) in [
            (Refused, false, false, true),
            (Refused, true, true, false),
            (Failing, true, true, false),
            (Refused, true, false, false),
            (Refused, false, true, false),
            (Failing, false, true, true),
        ] {
            let case = format!("{hindrance:?} {is_there}");
            assert_eq!(standing.note(hindrance, is_there), is_news, "{case}");
            assert_eq!(*askable.borrow(), expected, "{case}");
        }
    }
}
