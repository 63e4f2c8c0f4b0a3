//! Calls under way, by order: equal questions join one. Used by `orders`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::quota::Asker;
use crate::error::Error;
use crate::store::Known;

/// What became of a call.
#[derive(Debug, Clone)]
pub(super) enum Landed {
    /// The vendor was asked: for this question, or by another process at the same time. With how
    /// long it took, where it was this process.
    Live(Known, Option<Duration>),
    /// The vendor was not asked: what was kept was young enough for whoever began.
    Kept(Known),
    /// There is no answer, for one who asks like this.
    Failed(Error, Asker),
}

/// A call under way.
#[derive(Clone)]
pub(super) struct Flight(watch::Receiver<Option<Arc<Landed>>>);

impl Flight {
    /// What became of it. Not bounded: the caller waits as long as it likes.
    pub(super) async fn landed(&mut self) -> Arc<Landed> {
        let landed = self.0.wait_for(Option::is_some).await.ok().and_then(|landed| landed.clone());
        landed.unwrap_or_else(|| {
            // Its task has panicked.
            let error = Error::internal("a task that asks a vendor panicked");
            Arc::new(Landed::Failed(error, Asker::default()))
        })
    }
}

/// All calls under way.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<String, Flight>>);

/// The duty to end a flight: whoever drops it has ended it, in whatever way.
pub(super) struct Pilot {
    flights: Arc<Flights>,
    order: String,
    tell: watch::Sender<Option<Arc<Landed>>>,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call that is under way for an order.
    pub(super) fn under_way(&self, order: &str) -> Option<Flight> {
        self.lock().get(order).cloned()
    }

    /// Joins the call that is under way, or begins one, which `pilot` then has to make. Nothing is
    /// begun where `at_hand` has an answer: one may have landed since the caller last looked.
    pub(super) fn join<T>(
        self: &Arc<Self>,
        order: &str,
        at_hand: impl FnOnce() -> Option<T>,
        pilot: impl FnOnce(Pilot),
    ) -> Result<Flight, T> {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(order) {
            return Ok(flight.clone());
        }
        if let Some(answer) = at_hand() {
            return Err(answer);
        }
        let (tell, told) = watch::channel(None);
        let flight = Flight(told);
        flights.insert(order.to_owned(), flight.clone());
        drop(flights);
        pilot(Pilot { flights: Arc::clone(self), order: order.to_owned(), tell });
        Ok(flight)
    }
}

impl Pilot {
    /// Tells everyone who joined. Whoever comes later begins anew.
    pub(super) fn land(self, landed: Landed) {
        self.flights.lock().remove(&self.order);
        self.tell.send_replace(Some(Arc::new(landed)));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        // After `land` there may be another flight by now; that one has not been told yet.
        let mut flights = self.flights.lock();
        if flights
            .get(&self.order)
            .is_some_and(|flight| flight.0.same_channel(&self.tell.subscribe()))
        {
            flights.remove(&self.order);
        }
    }
}
