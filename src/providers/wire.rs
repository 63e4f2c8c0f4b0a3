//! What the vendors' answers have in common: loosely typed JSON, words for states, tables of errors.
//! Used by the vendors' modules only.

mod mend;
mod object;
mod scalar;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use md5::{Digest as _, Md5};

pub(super) use self::object::Object;
pub(super) use self::scalar::{Read, Scalar};
use crate::error::Error;
use crate::outbound::Answer;
use crate::pb::ErrorReason;
use crate::telemetry::metrics::{Counter, Metrics};

/// How many unknown words of a table are tracked as already logged.
const SEEN_LIMIT: usize = 1000;

/// The vendor, as far as reading its answers needs it.
#[derive(Clone)]
pub(super) struct Vendor {
    /// Its name in metrics and logs.
    name: &'static str,
    metrics: Metrics,
}

impl Vendor {
    pub(super) fn new(name: &'static str, metrics: &Metrics) -> Self {
        Self { name, metrics: metrics.clone() }
    }
}

/// The meanings of a vendor's words for a state.
pub(super) struct Words<T: 'static> {
    /// The field that holds the word: `order.status`.
    field: &'static str,
    /// The meaning of an absent word.
    unspecified: T,
    /// The meaning of a word that is not in the table.
    other: T,
    table: &'static [(&'static str, T)],
    seen: Mutex<BTreeSet<String>>,
}

impl<T: Copy> Words<T> {
    pub(super) const fn new(
        field: &'static str,
        [unspecified, other]: [T; 2],
        table: &'static [(&'static str, T)],
    ) -> Self {
        Self { field, unspecified, other, table, seen: Mutex::new(BTreeSet::new()) }
    }

    /// Creates the counter of words that are not in the table, at 0: an alert must see the first one.
    pub(super) fn announce(&self, vendor: &Vendor) {
        let _ = self.unknown(vendor);
    }

    fn unknown(&self, vendor: &Vendor) -> Counter {
        vendor.metrics.unknown_words.with([vendor.name, self.field])
    }

    /// Returns the meaning of a word. A word that is not in the table is counted, and logged once.
    pub(super) fn meaning(&self, vendor: &Vendor, word: &Scalar) -> T {
        let Some(value) = word.some() else { return self.unspecified };
        if let Some((_, meaning)) = self.table.iter().find(|(known, _)| *known == value) {
            return *meaning;
        }
        self.unknown(vendor).inc();
        self.log_unknown(vendor, word.text());
        self.other
    }

    fn log_unknown(&self, vendor: &Vendor, word: &str) {
        let word: String = word.chars().filter(|c| !c.is_control()).take(64).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < SEEN_LIMIT && seen.insert(word.clone()) {
            let field = format!("{} {}", vendor.name, self.field);
            tracing::warn!(
                field,
                word,
                "a vendor's word has no name in the contract; it is passed on as OTHER"
            );
        }
    }
}

/// The meaning of a vendor's error: a row of its table.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    reason: ErrorReason,
    /// The request's field that the vendor rejected.
    field: Option<&'static str>,
    /// How long the vendor must not be asked, and whether a single call is tried after that.
    pause: Option<(Duration, bool)>,
    /// What the operator should do.
    advice: Option<&'static str>,
}

impl Refusal {
    pub(super) const fn new(reason: ErrorReason) -> Self {
        Self { reason, field: None, pause: None, advice: None }
    }

    /// The vendor rejects the account's credentials, or the machine that presents them.
    pub(super) const fn rejected(advice: &'static str) -> Self {
        Self { advice: Some(advice), ..Self::new(ErrorReason::ProviderCredentialsRejected) }
    }

    pub(super) const fn of_field(field: &'static str) -> Self {
        Self { field: Some(field), ..Self::new(ErrorReason::InvalidRequest) }
    }

    /// The vendor reports too many calls: it is not asked for that time.
    pub(super) const fn too_often(wait: Duration) -> Self {
        Self { pause: Some((wait, false)), ..Self::new(ErrorReason::ProviderQuotaExhausted) }
    }

    /// The same, but then a single call is tried, and the others follow once it is answered.
    pub(super) const fn too_often_until_probed(wait: Duration) -> Self {
        Self { pause: Some((wait, true)), ..Self::new(ErrorReason::ProviderQuotaExhausted) }
    }

    /// Builds the error for a caller, with the vendor's own code and text.
    pub(super) fn error(self, code: &str, text: &str) -> Error {
        let message = match self.reason {
            ErrorReason::OrderNotFound => {
                "the vendor does not know the order; check the id and the account"
            }
            ErrorReason::OrderExpired => {
                "the vendor answered that the order has expired, and gives no further details"
            }
            ErrorReason::InvalidRequest => {
                "the vendor rejected the request as malformed; check its fields"
            }
            ErrorReason::ProviderQuotaExhausted => {
                "the vendor answered that it receives too many requests; wait before retrying"
            }
            ErrorReason::ProviderUnavailable => "the vendor answered that it is busy; retry later",
            ErrorReason::ProviderCredentialsRejected => {
                "the vendor rejected this deployment's credentials, address, clock or signature; \
                 the operator must act, and the log has the vendor's text"
            }
            _ => "the vendor answered with an unknown error; see its code and text",
        };
        let error = match (self.reason, self.pause) {
            (_, Some((wait, probe))) => Error::too_often(wait, probe, message),
            (ErrorReason::ProviderUnavailable, None) => Error::failed(message),
            (reason, None) => Error::new(reason, message),
        };
        Error { field: self.field, advice: self.advice, ..error }
            .vendor_said(Some(code.to_owned()), Some(text.to_owned()))
    }
}

/// Returns the row of a code, or of an HTTP status, in the first table that has one. A status means
/// this only in the vendor's own answer, so look up its row only after an [`envelope`] with a code was
/// found.
pub(super) fn row<K: PartialEq + Copy>(tables: &[&[(K, Refusal)]], key: K) -> Option<Refusal> {
    tables.iter().copied().flatten().find(|(known, _)| *known == key).map(|(_, row)| *row)
}

/// Builds the error for an answer that reports one. The row for its code in the vendor's table
/// overrides the meaning of the HTTP status; without either, the error has no specific reason.
pub(super) fn refused(row: Option<Refusal>, answer: &Answer, code: &Scalar, text: &str) -> Error {
    let code = code.text();
    match (row, answer.check_status()) {
        (None, Err(error)) => error.vendor_said(Some(code.to_owned()), Some(text.to_owned())),
        (row, _) => row.unwrap_or(Refusal::new(ErrorReason::ProviderError)).error(code, text),
    }
}

/// Returns the vendor's envelope in an answer, and the code in it, whatever else it contains. If there
/// is none, the HTTP status may say why.
pub(super) fn envelope<'a>(
    vendor: &'a Vendor,
    answer: &'a Answer,
    code: &'static str,
) -> Result<(Object<'a>, Scalar<'static>), Error> {
    let read = Object::read(vendor, &answer.body);
    let read = read.and_then(|envelope| Ok((envelope.must_whole(code)?.into_owned(), envelope)));
    match read {
        Ok((code, envelope)) => Ok((envelope, code)),
        Err(unreadable) => answer.check_status().and(Err(unreadable)),
    }
}

/// The MD5 of the text, in 32 lower-case hexadecimal digits.
pub(super) fn md5_hex(text: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
}

/// Checks that a setting can be sent in a header.
pub(super) fn fits_a_header(text: &str) -> Result<(), String> {
    if text.is_ascii() { Ok(()) } else { Err("must be ASCII: it is sent in a header".to_owned()) }
}

/// Checks that the id has 1 to 64 letters, digits, `_` and `-`.
pub(super) fn check_word_id(id: &str) -> Result<(), Error> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (1..=64).contains(&id.len()) && id.bytes().all(fits) {
        Ok(())
    } else {
        Err(Error::invalid("id", "the id must be 1 to 64 letters, digits, \"_\" and \"-\""))
    }
}
