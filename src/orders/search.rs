//! The search for one order: in the store, through another process that is asking for it, or at the
//! vendor; then it stores the result. `orders` runs each search in a task of its own.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, sleep};

use super::freshness::observed;
use super::question::{LEASE_POLL, Question};
use super::single_flight::{Leader, Outcome};
use super::{Orders, measures};
use crate::accounts::{ConcurrencyPermit, Quota};
use crate::error::{Answer, Error, Exchange};
use crate::pb::{ErrorReason, Order};
use crate::providers::Resources;
use crate::store::{self, Known, Lease};
use crate::telemetry::spans::Span;

impl Orders {
    /// Leads a search to its end. However it ends, every caller that shares it gets its outcome.
    pub(super) async fn lead(self, question: Question, leader: Leader, span: Span) {
        let mut lease = None;
        let outcome = span.around(self.search(&question, &mut lease)).await;
        let outcome =
            outcome.unwrap_or_else(|error| Outcome::Failed(error, question.class.clone()));
        if let Outcome::Live(Known { state: Some(state), .. }, latency) = &outcome {
            let asked_here = latency.is_some();
            self.0.watching.learned(&question.key, state, asked_here, self.0.clock.now());
        }
        leader.complete(outcome);
        // No caller waits for this. If it fails, the lease expires.
        if let Some(Lease { key, owner, .. }) = lease {
            let _ = self.0.store.release(&key, &owner).await;
        }
    }

    /// Finds the order: in the store, through another process that is asking for it, or at the vendor.
    /// Leaves a lease in `held` if it may be ours and has not ended.
    async fn search(
        &self,
        question: &Question,
        held: &mut Option<Lease>,
    ) -> Result<Outcome, Error> {
        let known = self.known(question).await?;
        if let Some(known) = &known
            && question.is_satisfied_by(known, self.0.clock.now())
        {
            return Ok(Outcome::Cached(known.clone()));
        }
        // Acquired before the lease, which must not expire while we wait for the permit.
        let mut permit = question.account.acquire(self.0.clock.as_ref()).await?;
        // Without a store each process asks for itself; the limits apply all the same.
        let known = known.filter(|_| self.0.store.is_shared());
        let mut lease = known.as_ref().map(|known| question.lease(known));
        let mut observed_before = known.and_then(|known| known.state.as_ref().and_then(observed));
        // A call of another process that ends while we wait may have begun before the question arrived.
        // The next one begins after that end, so it counts by whatever clock.
        let mut began_later = false;
        let longest = lease.as_ref().map(|lease| lease.life * 2).unwrap_or_default();
        let give_up = Instant::now() + longest;
        loop {
            let gate = question.gate(Arc::clone(&self.0.store), lease.clone());
            let asked = self.0.clock.now();
            if let Some(result) = self.ask(question, &mut permit, &gate).await {
                // The call has ended; the permit must not wait for the store.
                drop(permit);
                *held = lease;
                return self.conclude(question, &gate, result, asked, held).await;
            }
            // Another process is asking for the order.
            sleep(LEASE_POLL).await;
            if let Some(known) = self.known(question).await?
                && let Some(state) = &known.state
                && let Some(at) = observed(state)
                // Any different time will do, not only a later one: the known state may come from a
                // clock that was ahead.
                && Some(at) != observed_before
            {
                if began_later || question.counts(state, false, self.0.clock.now()) {
                    return Ok(Outcome::Live(known, None));
                }
                (observed_before, began_later) = (Some(at), true);
                lease = Some(question.lease(&known));
            }
            if Instant::now() >= give_up {
                return Err(Error::unavailable(
                    "other replicas keep asking for the order and get no answer; retry later",
                ));
            }
        }
    }

    /// Returns the store's known state. `None` if the store is unavailable and the answer does not
    /// depend on it.
    pub(super) async fn known(&self, question: &Question) -> Result<Option<Known>, Error> {
        match self.0.store.get(&question.key, question.day_window.as_ref()).await {
            Ok(known) => Ok(Some(known.unwrap_or_default())),
            Err(_) if !question.account.is_limited() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the vendor. `None` if another process is asking for the order.
    async fn ask(
        &self,
        question: &Question,
        permit: &mut ConcurrencyPermit<'_>,
        gate: &Quota,
    ) -> Option<Result<Order, Error>> {
        let account = &question.account;
        let resources = Resources { gate, tokens: self.0.store.as_ref() };
        loop {
            let call = account.ask(&question.query, resources);
            let result = permit.attempt(self.0.clock.as_ref(), call, || gate.was_sent()).await;
            if gate.is_leased_elsewhere() {
                return None;
            }
            measures::called(account, gate.take_sent(), &result);
            if !permit.should_retry().await {
                return Some(result);
            }
            account.meters.retries.inc();
        }
    }

    /// Stores the vendor's result, and turns it into the search's outcome.
    async fn conclude(
        &self,
        question: &Question,
        gate: &Quota,
        result: Result<Order, Error>,
        asked: SystemTime,
        held: &mut Option<Lease>,
    ) -> Result<Outcome, Error> {
        let answered = self.0.clock.now();
        self.note(question, result.as_ref(), asked);
        let spent = self.remember(question, gate, result.as_ref()).await;
        let state = result?;
        if spent.is_ok() {
            // The lease has ended with the call.
            *held = None;
        }
        let spent = spent.unwrap_or_default();
        let vendor_latency = observed(&state).and_then(|sent| answered.duration_since(sent).ok());
        Ok(Outcome::Live(Known { state: Some(state), spent }, vendor_latency))
    }

    /// Records in this process what a result says about the account and the order.
    fn note(&self, question: &Question, result: Result<&Order, &Error>, asked: SystemTime) {
        match result {
            Ok(_) => drop(self.not_found().pop(&question.key)),
            Err(error) if error.reason == ErrorReason::OrderNotFound => {
                self.not_found().put(question.key.clone(), (error.clone(), asked));
            }
            Err(_) => {}
        }
        question.account.note(result.err());
    }

    /// Stores a result; the call is finished and the account paused concurrently. Returns the used
    /// slots of the order's own limit afterwards.
    async fn remember(
        &self,
        question: &Question,
        gate: &Quota,
        result: Result<&Order, &Error>,
    ) -> Result<Vec<SystemTime>, Error> {
        let account = &question.account;
        let outcome = match result {
            Ok(state) => store::Outcome::Found(&question.key, state),
            Err(error) if error.verdict().answer == Answer::AboutOrder => store::Outcome::Answered,
            Err(_) => store::Outcome::Counted,
        };
        let pause = async {
            let Err(Error { exchange: Exchange::TooOften { wait, probe }, .. }) = result else {
                return Ok(());
            };
            account.meters.pauses.inc();
            let seconds = wait.as_secs();
            tracing::warn!(
                account = &*account.name,
                seconds,
                "requests to the vendor are suspended"
            );
            self.0.store.pause(&account.key, *wait, *probe).await
        };
        let (spent, paused) = tokio::join!(gate.finish(outcome), pause);
        for error in [spent.as_ref().err(), paused.as_ref().err()].into_iter().flatten() {
            tracing::debug!(detail = error.detail, "a result could not be stored");
        }
        spent
    }
}
