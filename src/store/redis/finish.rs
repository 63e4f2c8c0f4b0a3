//! Finishing and canceling a call, part by part. Used by the store.

use std::time::{Duration, SystemTime};

use futures_util::future::try_join_all;

use super::connection::Failure;
use super::parts::Part;
use super::scripts::{self, millis};
use super::{Redis, SERVERS};
use crate::error::Error;
use crate::pb::Order;
use crate::store::{Call, Outcome, Store as _};

/// What the script answers: what it found of the order, the state that stays, how far a replica's clock was
/// ahead, the used slots of the order's own window, and how far the server's clock was ahead.
type Answer = (u8, Option<Vec<u8>>, u64, Vec<u64>, u64);

impl Redis {
    /// Records that the call is over here, and in the server.
    pub(super) async fn finish_everywhere(
        &self,
        call: &Call,
        outcome: Outcome<'_>,
    ) -> Result<Vec<SystemTime>, Error> {
        self.here.own.finish(call, Outcome::Counted).await?;
        let found = match outcome {
            Outcome::Found(order, state) => Some((order, state)),
            Outcome::Answered | Outcome::Counted => None,
        };
        if outcome != Outcome::Counted {
            self.here.noted.resume(&call.account);
        }
        if let Some((order, state)) = found {
            self.put_here(order, state);
        }
        let order = found.map(|(order, _)| order.as_str()).or_else(|| Part::order(call));
        let state = found.map(|(_, state)| state);
        let parts = Part::all(call, order, self.server.is_cluster);
        let finish = parts.iter().map(|part| self.finish_part(call, part, outcome, state));
        let answers = try_join_all(finish).await?;
        let mut spent = Vec::new();
        for (part, (there, later, replica_ahead, left, ahead)) in parts.iter().zip(answers) {
            self.ahead.report(SERVERS, Duration::from_millis(ahead));
            if let Some((order, _)) = found.filter(|_| part.has_order) {
                self.put_there(order, there, later.as_deref(), replica_ahead);
            }
            spent.extend(left);
        }
        Ok(self.spent_at_least(call.order_window(), spent))
    }

    async fn finish_part(
        &self,
        call: &Call,
        part: &Part<'_>,
        outcome: Outcome<'_>,
        state: Option<&Order>,
    ) -> Result<Answer, Failure> {
        let order = match outcome {
            Outcome::Found(order, _) if part.has_order => order.as_str(),
            _ => "",
        };
        let own_window =
            part.windows.iter().position(|(_, it)| Some(&it.key) == call.order_window());
        let mut input = part
            .lease(part.pause(part.input()))
            .key("order", order)
            .longest()
            .argument(call.mark())
            .argument(u8::from(outcome != Outcome::Counted))
            .argument(own_window.map_or(0, |index| index + 1))
            .state(state.filter(|_| part.has_order));
        for (_, window) in &part.windows {
            input = input.key("slots", &window.key).argument(millis(window.period));
        }
        self.server.run(&scripts::FINISH, input).await
    }

    /// Frees a part's slots. `with_lease`: it was not reserved as a whole, so its lease ends too.
    pub(super) async fn cancel_part(
        &self,
        call: &Call,
        part: &Part<'_>,
        with_lease: bool,
    ) -> Result<(), Failure> {
        let lease = call.lease.as_ref().filter(|_| part.has_order && with_lease);
        let mut input = part.input().lease(lease).argument(call.mark());
        for (_, window) in &part.windows {
            input = input.key("slots", &window.key);
        }
        self.server.run(&scripts::CANCEL, input).await
    }
}
