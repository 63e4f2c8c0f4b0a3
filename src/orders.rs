//! The use case: an order as its vendor tells it. Used by `grpc`, which asks, and by `app`, which
//! hands it the accounts.

mod accounts;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use accounts::{Account, Accounts};

use crate::error::Error;
use crate::pb::{ErrorReason, GetOrderResponse, Order, OrderRef, Source};
use crate::providers::Query;

/// Answers questions about orders.
pub struct Orders {
    accounts: Accounts,
}

impl Orders {
    /// Asks with these accounts.
    #[must_use]
    pub fn new(accounts: Accounts) -> Self {
        Self { accounts }
    }

    /// For each account, whether its vendor can be asked now as far as is known: not while it
    /// turns the account's credentials down.
    pub fn askable(&self) -> impl Iterator<Item = (&str, watch::Receiver<bool>)> {
        self.accounts.iter().map(|account| (account.name.as_str(), account.askable.subscribe()))
    }

    /// The order as its vendor tells it now.
    ///
    /// The vendor is asked in a task of its own: a caller whose deadline passes stops waiting,
    /// and the call goes on to its end.
    ///
    /// # Errors
    /// `INVALID_REQUEST` and `PROVIDER_NOT_CONFIGURED` before anything is sent,
    /// `DEADLINE_EXCEEDED` at the deadline, and what the vendor's module fails with.
    pub async fn get(
        &self,
        order: &OrderRef,
        deadline: Instant,
    ) -> Result<GetOrderResponse, Error> {
        let account = self.accounts.choose(order)?;
        let query =
            account.query(order).map_err(|error| error.at(account.provider, &account.name))?;
        let call = tokio::spawn(ask(Arc::clone(&account), query));
        let outcome = match timeout_at(deadline, call).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panic)) => Err(Error::internal("a task that asks a vendor panicked")),
            Err(_elapsed) => Err(Error::new(
                ErrorReason::DeadlineExceeded,
                "the vendor did not answer before the deadline; ask again, with more time",
            )),
        };
        let order = outcome
            .map_err(|error| own_mistake(error, order).at(account.provider, &account.name))?;
        Ok(GetOrderResponse {
            source: Source::Live.into(),
            // Nothing is kept yet, so asking again can bring news at any time.
            refresh_time: order.observe_time.filter(|_| !order.terminal),
            order: Some(order),
        })
    }
}

async fn ask(account: Arc<Account>, query: Query) -> Result<Order, Error> {
    let outcome = account.ask(&query).await;
    match outcome.as_ref().map_err(|error| error.reason) {
        Err(ErrorReason::ProviderCredentialsRejected) => account.askable.send_replace(false),
        // These say nothing about the credentials.
        Err(
            ErrorReason::ProviderUnavailable
            | ErrorReason::ProviderResponseInvalid
            | ErrorReason::ProviderQuotaExhausted,
        ) => false,
        _ => account.askable.send_replace(true),
    };
    outcome
}

/// A field that the caller left to the account's default is not the caller's mistake.
fn own_mistake(error: Error, order: &OrderRef) -> Error {
    if error.field == Some("machine_no") && order.machine_no.is_empty() {
        Error {
            reason: ErrorReason::ProviderError,
            field: None,
            message: "the vendor does not know the account's default machine; the operator \
                      should check its machine_no"
                .to_owned(),
            ..error
        }
    } else {
        error
    }
}
