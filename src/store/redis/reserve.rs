//! Reserving a call: among this replica's own calls, past the fence, and in the server. In a cluster that takes
//! a script for each part; if the process dies between them, slots stay taken until they are over. Used by the
//! store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::connection::{Failure, Operation};
use super::fence::{self, Lost, Pass, Reach};
use super::input::sortable;
use super::knowledge::Undecided;
use super::parts::Part;
use super::scripts::{self, millis};
use super::{Redis, SERVERS};
use crate::error::Error;
use crate::store::ends::{LONGEST_FLIGHT, LONGEST_PAUSE};
use crate::store::{Call, Limit, Reservation, Store as _};

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
            let free = Pass { epoch: Arc::from(""), lost: Lost::default() };
            return self.reserve_parts(&free, call).await;
        }
        self.fence.start(&self.server, &self.here);
        let deadline = Instant::now() + fence::PATIENCE;
        let calls = self.here.own.spent_now(call.order_window()).len();
        let reach = Reach::of(call.in_flight, calls);
        let mut pass = self.fence.pass(reach, deadline).await;
        let mut reservation = self.reserve_parts(&pass, call).await;
        if matches!(reservation, Err(NoReservation::Closed)) {
            self.fence.close(&pass.epoch);
            pass = self.fence.pass(reach, deadline).await;
            reservation = self.reserve_parts(&pass, call).await;
        }
        // First, so that a publication that begins now has the call.
        drop(undecided);
        match reservation {
            // A publication may have begun before, without this call.
            Ok(Reservation::Reserved) if !self.fence.is_open(&pass.epoch) => {
                Err(NoReservation::Closed)
            }
            reservation => reservation,
        }
    }

    /// Reserves the parts of the call in turn. If one is not reserved, those before it are canceled.
    async fn reserve_parts(&self, pass: &Pass, call: &Call) -> Result<Reservation, NoReservation> {
        let parts = Part::all(call, Part::order(call), self.server.is_cluster);
        for (index, part) in parts.iter().enumerate() {
            let reservation = self.reserve_part(pass, call, part).await;
            if matches!(reservation, Ok(Reservation::Reserved)) {
                continue;
            }
            let (before, after) = (&parts[..index], &parts[index + 1..]);
            let cancel = before.iter().map(|part| self.cancel_part(call, part, true));
            // A slot that stays costs one call, and a lease that stays ends by itself.
            drop(join_all(cancel).await);
            return match reservation {
                Ok(Reservation::Full(limit, wait)) => {
                    Ok(self.longest_full(limit, wait, after).await)
                }
                reservation => reservation,
            };
        }
        Ok(Reservation::Reserved)
    }

    /// Reserves a part of the call, if the server's data is whole and in this epoch; empty: in any case.
    async fn reserve_part(
        &self,
        pass: &Pass,
        call: &Call,
        part: &Part<'_>,
    ) -> Result<Reservation, NoReservation> {
        let seen = call.lease.as_ref().filter(|_| part.has_order);
        let (order, seen) =
            seen.map(|lease| (lease.order.as_str(), lease.seen)).unwrap_or_default();
        let input = part.lease(part.pause(part.input().fence())).argument(call.mark());
        let mut input = input
            .argument(millis(LONGEST_PAUSE))
            .argument(millis(LONGEST_FLIGHT))
            .key("order", order)
            .argument(sortable(seen))
            .argument(&*pass.epoch)
            .argument(pass.lost.unknown())
            .argument(pass.lost.missing);
        for (_, window) in &part.windows {
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
        let window = usize::try_from(index).ok().and_then(|index| part.windows.get(index));
        match (what, window) {
            (0, _) => Ok(Reservation::Reserved),
            (1, Some((_, window))) => Ok(Reservation::Full(window.limit, wait)),
            (2, _) => Ok(Reservation::Paused(wait)),
            (3, _) => Ok(Reservation::Leased),
            (4, _) => Err(NoReservation::Closed),
            (5, _) => Err(NoReservation::Unknown(wait)),
            _ => Err(NoReservation::Failed(Failure::Unreadable, true)),
        }
    }

    /// Of the full windows, reports the one that stays full longest: no call can be made before that. The
    /// scripts of later parts have not run.
    async fn longest_full(&self, limit: Limit, wait: Duration, later: &[Part<'_>]) -> Reservation {
        let windows = later.iter().flat_map(|part| &part.windows);
        let waits = windows.map(|(_, window)| async move {
            let spent = self.spent(&window.key).await.ok()?;
            let first = spent.len().checked_sub(window.max_calls as usize)?;
            let free_at = spent.get(first)?;
            let wait = free_at.duration_since(self.clock.now()).unwrap_or_default();
            Some((wait, window.limit))
        });
        let longest = join_all(waits).await.into_iter().flatten().chain([(wait, limit)]).max();
        longest
            .map_or(Reservation::Full(limit, wait), |(wait, limit)| Reservation::Full(limit, wait))
    }
}
