//! A plain answer from memory: it is copied out of the store's memory as it is encoded there. Used by
//! `orders`.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::freshness::{Observation, refresh_time};
use super::{Orders, Wanted, measures};
use crate::accounts::{Account, Caller};
use crate::pb::{GetOrderResponse, OrderRef, Source};
use crate::store::{Encoded, Snapshot};

/// The number of the field `order` in the answer.
const ORDER: u32 = 1;

/// More than an answer needs besides its order, in bytes.
const REST: usize = 64;

/// A plain answer from memory, for a caller.
pub struct Hit {
    account: Arc<Account>,
    state: Encoded,
    refresh_time: Option<SystemTime>,
}

impl Orders {
    /// Returns the answer to a question if memory has one that is fresh enough. It does no I/O and waits
    /// for nothing. `None` for every other question, also for one with a mistake.
    #[must_use]
    pub fn hit(&self, caller: &Caller, order: &OrderRef, wanted: Wanted) -> Option<Hit> {
        let question = self.question(caller, order, wanted).ok()?;
        let window = question.day_window.as_ref();
        let Snapshot { state, spent } = self.0.store.snapshot(&question.key, window);
        let state = state?;
        let observation = Observation::from(&state);
        // A newer not-found answer replaces the state.
        let now = self.0.clock.now();
        if self.not_found_at_hand(&question).is_some()
            || !question.accepts(observation, spent.len(), now)
        {
            return None;
        }
        let refresh_time = refresh_time(&question.account.rules, observation, &spent, now);
        measures::hit(&question.account, &state, now);
        Some(Hit { account: question.account, state, refresh_time })
    }
}

impl Hit {
    /// The name of the account that the answer is for.
    #[must_use]
    pub fn account(&self) -> &Arc<str> {
        &self.account.name
    }

    /// The size of the encoded answer, or some bytes more.
    #[must_use]
    pub fn size(&self) -> usize {
        self.order_size() + REST
    }

    /// Writes the `GetOrderResponse`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        encode_key(ORDER, WireType::LengthDelimited, buffer);
        encode_varint(self.order_size() as u64, buffer);
        // The stored state has no account: the fields of a message may come in any order.
        buffer.extend_from_slice(self.state.bytes());
        buffer.extend_from_slice(&self.account.encoded_name);
        let rest = GetOrderResponse {
            order: None,
            source: Source::Cache.into(),
            refresh_time: self.refresh_time.map(Into::into),
        };
        // A buffer that grows has room.
        let _ = rest.encode(buffer);
    }

    fn order_size(&self) -> usize {
        self.state.bytes().len() + self.account.encoded_name.len()
    }
}
