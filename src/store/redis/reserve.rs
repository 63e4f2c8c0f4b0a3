//! Reserving a call: among this replica's own calls, past the fence, and in the server. Used by the store.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Failure, Operation};
use super::fence::{self, Reach};
use super::input::sortable;
use super::knowledge::Undecided;
use super::scripts::{self, Input, millis};
use super::{Redis, SERVERS};
use crate::error::Error;
use crate::store::ends::{LONGEST_FLIGHT, LONGEST_PAUSE};
use crate::store::{Call, Reservation, Store as _};

/// Why the server gave no answer to a reservation.
enum NoReservation {
    /// It may have lost calls: see [`fence`].
    Closed,
    /// It has lost calls of a replica that is gone, and they may count for this long.
    Unknown(Duration),
    /// The script failed; true if it may have reserved the call all the same.
    Failed(Failure, bool),
}

impl From<NoReservation> for Error {
    fn from(why: NoReservation) -> Self {
        match why {
            NoReservation::Closed => fence::closed(),
            NoReservation::Unknown(wait) => fence::unknown(wait),
            NoReservation::Failed(failure, _) => failure.into(),
        }
    }
}

impl Redis {
    /// Reserves the call among this replica's own calls, and in the server.
    pub(super) async fn reserve_everywhere(&self, call: &Call) -> Result<Reservation, Error> {
        // The lease exists only in the server: it coordinates this replica with others.
        let own = Call { lease: None, ..call.clone() };
        let undecided = self.here.undecided(call);
        let here = self.here.own.reserve(&own).await?;
        if here != Reservation::Reserved {
            return Ok(here);
        }
        let there = self.reserve_there(call, undecided).await;
        if !matches!(there, Ok(Reservation::Reserved) | Err(NoReservation::Failed(_, true))) {
            self.here.own.cancel(&own).await?;
        }
        there.map_err(Error::from)
    }

    /// Reserves the call in the server, once the fence is open.
    async fn reserve_there(
        &self,
        call: &Call,
        undecided: Undecided<'_>,
    ) -> Result<Reservation, NoReservation> {
        if call.windows.is_empty() {
            return self.reserve_in("", call).await;
        }
        self.fence.start(&self.server, &self.here);
        let deadline = Instant::now() + fence::PATIENCE;
        let calls = self.here.own.spent_now(call.order_window()).len();
        let reach = Reach::of(call.in_flight, calls);
        let mut epoch = self.fence.epoch(reach, deadline).await;
        let mut reservation = self.reserve_in(&epoch, call).await;
        if matches!(reservation, Err(NoReservation::Closed)) {
            self.fence.close(&epoch);
            epoch = self.fence.epoch(reach, deadline).await;
            reservation = self.reserve_in(&epoch, call).await;
        }
        // First, so that a publication that begins now has the call.
        drop(undecided);
        match reservation {
            // A publication may have begun before, without this call.
            Ok(Reservation::Reserved) if !self.fence.is_open(&epoch) => Err(NoReservation::Closed),
            reservation => reservation,
        }
    }

    /// Reserves the call in the server, if its data is whole and in this epoch; empty: in any case.
    async fn reserve_in(&self, epoch: &str, call: &Call) -> Result<Reservation, NoReservation> {
        let input = Input::default().fence().key("closed", &call.account);
        let input = input.lease(call).argument(call.mark());
        let seen = call.lease.as_ref().map(|lease| (lease.order.to_string(), lease.seen));
        let (order, seen) = seen.unwrap_or_default();
        let mut input = input
            .argument(millis(LONGEST_PAUSE))
            .argument(millis(LONGEST_FLIGHT))
            .key("order", &order)
            .argument(sortable(seen))
            .argument(epoch);
        for window in &call.windows {
            let life = millis(call.in_flight.saturating_add(window.period));
            input = input.key("slots", &window.key).argument(window.max_calls);
            input = input.argument(millis(window.period)).argument(life);
        }
        let mut operation = Operation::new();
        let answer = self.server.run_noting(&scripts::RESERVE, input, &mut operation).await;
        let answer: [u64; 4] =
            answer.map_err(|failure| NoReservation::Failed(failure, operation.in_doubt))?;
        let [what, index, wait, ahead] = answer;
        self.ahead.report(SERVERS, Duration::from_millis(ahead));
        let wait = Duration::from_millis(wait);
        let window = usize::try_from(index).ok().and_then(|index| call.windows.get(index));
        match (what, window) {
            (0, _) => Ok(Reservation::Reserved),
            (1, Some(window)) => Ok(Reservation::Full(window.limit, wait)),
            (2, _) => Ok(Reservation::Paused(wait)),
            (3, _) => Ok(Reservation::Leased),
            (4, _) => Err(NoReservation::Closed),
            (5, _) => Err(NoReservation::Unknown(wait)),
            _ => Err(NoReservation::Failed(Failure::Unreadable, true)),
        }
    }
}
