//! What the end of a question to a vendor says of the account and the order, and where that is
//! remembered. Used by `orders`.

use std::time::SystemTime;

use super::Orders;
use super::question::Question;
use crate::error::{Closing, Error};
use crate::metrics::CLOSINGS;
use crate::pb::{ErrorReason, Order};

impl Orders {
    /// Remembers what an outcome says of the account and the order.
    pub(super) async fn note(
        &self,
        question: &Question,
        outcome: Result<&Order, &Error>,
        asked: SystemTime,
    ) {
        let account = &question.account;
        let noted = match outcome {
            Err(Error { closes: Some(closing), retry_after: Some(wait), .. }) => {
                CLOSINGS.add([&account.name], 1);
                let probe = *closing == Closing::UntilProbed;
                let seconds = wait.as_secs();
                tracing::warn!(
                    account = account.name,
                    seconds,
                    "the vendor is left alone for a while"
                );
                self.0.store.close(&account.key, *wait, probe).await
            }
            Ok(_) => self.0.store.reopen(&account.key).await,
            // Answers as well.
            Err(error)
                if matches!(
                    error.reason,
                    ErrorReason::OrderNotFound
                        | ErrorReason::OrderExpired
                        | ErrorReason::InvalidRequest
                ) =>
            {
                self.0.store.reopen(&account.key).await
            }
            Err(_) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::debug!(detail = error.detail, "an account's state could not be remembered");
        }
        match outcome {
            Ok(_) => {
                self.not_found().pop(&question.key);
            }
            Err(error) if error.reason == ErrorReason::OrderNotFound => {
                let answer = (error.clone(), asked);
                self.not_found().put(question.key.clone(), answer);
            }
            Err(_) => {}
        }
        account.note(outcome.err());
    }
}
