//! The parts of a call, each of which one script reserves, finishes or cancels: all of it in a single server; in
//! a cluster one for each hash tag, the order's first and the account's last. Used by the store.

use super::keys::HashTag;
use super::scripts::Input;
use crate::store::{Call, Window};

/// A part of a call.
pub(super) struct Part<'a> {
    tag: Option<HashTag>,
    call: &'a Call,
    /// Its windows, by their index in the call.
    pub(super) windows: Vec<(usize, &'a Window)>,
    /// Whether it has the order's lease and state.
    pub(super) has_order: bool,
    /// Whether it has the account's pause.
    pub(super) has_account: bool,
}

impl<'a> Part<'a> {
    /// The parts of a call about that order.
    pub(super) fn all(call: &'a Call, order: Option<&str>, is_cluster: bool) -> Vec<Self> {
        let windows = call.windows.iter().enumerate();
        if !is_cluster {
            let windows = windows.collect();
            return vec![Self { tag: None, call, windows, has_order: true, has_account: true }];
        }
        let part = |tag, has_order, has_account| Self {
            tag: Some(tag),
            call,
            windows: Vec::new(),
            has_order,
            has_account,
        };
        let account = HashTag::of("closed", call.account.as_str());
        let mut parts: Vec<_> = account.map(|tag| part(tag, false, true)).into_iter().collect();
        if let Some(tag) = order.and_then(|order| HashTag::of("order", order)) {
            parts.push(part(tag, true, false));
        }
        for (index, window) in windows {
            let Some(tag) = HashTag::of("slots", window.key.as_str()) else { continue };
            let at = parts.iter().position(|part| part.tag == Some(tag)).unwrap_or_else(|| {
                parts.push(part(tag, false, false));
                parts.len() - 1
            });
            parts[at].windows.push((index, window));
        }
        // The account's last: its pause can let a probe through, which must then be sent.
        parts.sort_by_key(|part| (part.has_account, part.tag));
        parts
    }

    /// The order of a call, if it has a lease.
    pub(super) fn order(call: &Call) -> Option<&str> {
        call.lease.as_ref().map(|lease| lease.order.as_str())
    }

    /// For the keys of this part.
    pub(super) fn input(&self) -> Input {
        Input::at(self.tag)
    }

    /// Adds the key of the account's pause; one that never exists if another part has it.
    pub(super) fn pause(&self, input: Input) -> Input {
        input.key("closed", if self.has_account { self.call.account.as_str() } else { "" })
    }

    /// Adds the call's lease; none if another part has it.
    pub(super) fn lease(&self, input: Input) -> Input {
        input.lease(self.call.lease.as_ref().filter(|_| self.has_order))
    }
}
