//! What must hold of a question's outcome, whatever the vendor answers.

use std::time::Duration;

use order_query::clock::Clock as _;
use order_query::error::Error;
use order_query::pb::{self, ErrorReason, Order, OrderStatus};
use prost::Message as _;
use prost_types::Timestamp;

use crate::vendor::{Asked, Vendor};

/// What a vendor's answer can end in.
const REASONS: &[ErrorReason] = &[
    ErrorReason::InvalidRequest,
    ErrorReason::OrderNotFound,
    ErrorReason::OrderExpired,
    ErrorReason::ProviderQuotaExhausted,
    ErrorReason::ProviderUnavailable,
    ErrorReason::ProviderCredentialsRejected,
    ErrorReason::ProviderResponseInvalid,
    ErrorReason::ProviderError,
];

/// The most that a caller is shown of a vendor's text, in characters.
const SHOWN: usize = 256;

/// The most that our own words take, in characters.
const MESSAGE: usize = 300;

/// No vendor keeps us waiting for longer.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// The seconds since 1970 of the years that the contract can tell.
const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl Vendor {
    /// Checks how a question ended.
    pub(crate) fn check(&self, asked: Asked<'_>) {
        let Asked { answer, status, is_order_call, secrets, outcome } = asked;
        match outcome {
            Ok(order) => {
                assert!((200..300).contains(&status), "an order in spite of HTTP {status}");
                self.check_order(&order);
                if is_order_call {
                    self.check_word(&order, answer);
                }
            }
            // What `orders` does with an error before anyone sees it.
            Err(error) => {
                check_error(&error.presentable(&self.module.secrets()), &secrets);
            }
        }
    }

    fn check_order(&self, order: &Order) {
        assert_eq!(order.id, self.query.id);
        assert_eq!(order.machine_no, self.query.machine_no);
        // Whose order it is is for `orders` to say.
        assert_eq!((order.provider(), order.account.as_str()), (pb::Provider::Unspecified, ""));
        assert_eq!(order.observe_time, Some(Timestamp::from(self.clock.now())));
        let status = OrderStatus::try_from(order.status).expect("a status of the contract");
        let has_word = !order.provider_status.is_empty();
        assert_eq!(status != OrderStatus::Unspecified, has_word, "a status, or a word, of its own");
        let last = self.terminal.contains(&order.provider_status);
        assert_eq!(order.terminal, last, "terminal, or not, against the vendor's promise");
        for time in [order.create_time, order.update_time].into_iter().flatten() {
            assert!(YEARS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos));
        }
        let stored = order.encode_to_vec();
        assert!(Order::decode(&*stored).is_ok_and(|read| read == *order), "stored as another one");
    }

    /// The vendor's own word is the one of the answer, to the letter.
    fn check_word(&self, order: &Order, answer: &[u8]) {
        // This reader takes numbers apart, and does not go as deep as ours.
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(answer) else { return };
        if let Some(word) = answer.pointer(&self.status_at).and_then(serde_json::Value::as_str) {
            assert_eq!(order.provider_status, word);
        }
    }
}

fn check_error(error: &Error, secrets: &[String]) {
    assert!(REASONS.contains(&error.reason), "{:?}", error.reason);
    assert!(error.message.chars().count() <= MESSAGE, "a long message");
    assert!(!error.message.contains(char::is_control), "a message with control characters");
    check_secrets(&error.message, secrets);
    if error.reason == ErrorReason::ProviderCredentialsRejected {
        assert_eq!(error.provider_message, None, "it can hold our address");
    }
    for said in [&error.provider_code, &error.provider_message, &error.detail] {
        let Some(said) = said else { continue };
        assert!((1..=SHOWN).contains(&said.chars().count()), "no text, or a long one");
        assert!(!said.contains(char::is_control), "a text with control characters");
        check_secrets(said, secrets);
    }
    assert!(error.retry_after.is_none_or(|wait| wait <= LONGEST_WAIT), "a long wait");
}

fn check_secrets(text: &str, secrets: &[String]) {
    for secret in secrets {
        let escaped: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        assert!(!text.contains(secret) && !text.contains(&escaped), "a secret");
    }
}
