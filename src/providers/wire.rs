//! What the vendors' answers have in common: loose JSON, words for states, tables of errors.
//! Used by the vendors' modules only.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::civil;
use md5::{Digest as _, Md5};
use prost_types::Timestamp;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::error::{Closing, Error, Trouble};
use crate::metrics::UNKNOWN_WORDS;
use crate::outbound::Answer;
use crate::pb::ErrorReason;

/// How many unknown words of a table are remembered as logged.
const SEEN_LIMIT: usize = 1000;

/// Reads a vendor's JSON object. What it holds may be personal, so the error tells the place only.
pub(super) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Error> {
    unlisted(json).map_err(|error| {
        let what = if error.is_data() { "is not as documented" } else { "is not JSON" };
        let (line, column) = (error.line(), error.column());
        Error::unreadable(format!("it {what} (line {line}, column {column})"))
    })
}

/// Reads JSON that is no list. Serde alone would take a list for an object, its elements for the
/// members in the order of the struct.
fn unlisted<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    if json.trim_ascii_start().starts_with(b"[") {
        return Err(serde_json::Error::custom("a list was not expected"));
    }
    serde_json::from_slice(json)
}

/// A number or a text, by its letters. Vendors send the one for the other; null, `""` and
/// absence are the same. No float is ever made of it.
#[derive(Default)]
pub(super) struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map(Self).map_err(D::Error::custom),
            Some(b'{' | b'[') => Err(D::Error::custom("a number or a text was expected")),
            _ if raw == "null" => Ok(Self::default()),
            _ => Ok(Self(raw.to_owned())),
        }
    }
}

impl Scalar {
    /// The text, to the letter; empty where the vendor told nothing.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The text, where the vendor told one.
    pub(super) fn some(&self) -> Option<&str> {
        Some(self.text()).filter(|text| !text.is_empty())
    }

    fn parse<T>(
        &self,
        field: &str,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.some()
            .map(|text| {
                parse(text).ok_or_else(|| Error::unreadable(format!("{field} is not {what}")))
            })
            .transpose()
    }

    /// A whole number.
    pub(super) fn integer(&self, field: &str) -> Result<Option<i64>, Error> {
        self.parse(field, "a whole number", |text| {
            // Rust would take a "+" as well.
            text.parse().ok().filter(|_| !text.starts_with('+'))
        })
    }

    /// Yes or no, as 1 and 0 or as true and false.
    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, Error> {
        self.parse(field, "0 or 1", |text| match text {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        })
    }

    /// A decimal amount, in units of its last allowed place: with 2 digits, "3.00" is 300. More
    /// digits than that are refused unless they are zeros: nothing is rounded.
    pub(super) fn amount(&self, field: &str, digits: u32) -> Result<Option<i64>, Error> {
        self.parse(field, "an exact amount", |text| minor_units(text, digits))
    }

    /// A time, given as whole units since 1970.
    pub(super) fn unix_time(
        &self,
        field: &str,
        unit: Duration,
    ) -> Result<Option<Timestamp>, Error> {
        self.parse(field, "a time", |text| {
            let count: i64 = text.parse().ok()?;
            let nanos = i128::from(count) * i128::try_from(unit.as_nanos()).ok()?;
            timestamp(jiff::Timestamp::from_nanosecond(nanos).ok()?)
        })
    }

    /// A time of the form `2023-04-12 16:59:54`, in a zone that is so many hours ahead of UTC.
    pub(super) fn civil_time(
        &self,
        field: &str,
        hours_ahead: i8,
    ) -> Result<Option<Timestamp>, Error> {
        self.parse(field, "a time", |text| {
            let time = civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text)
                .ok()
                .filter(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string() == text)?;
            timestamp(jiff::tz::offset(hours_ahead).to_timestamp(time).ok()?)
        })
    }

    /// A day of the form `2024-04-26`.
    pub(super) fn day(&self, field: &str) -> Result<String, Error> {
        let day = self.parse(field, "a day", |text| {
            let day = civil::Date::strptime("%Y-%m-%d", text).ok()?;
            Some(day.to_string()).filter(|day| day == text)
        })?;
        Ok(day.unwrap_or_default())
    }
}

/// The time, if protobuf has one like it: only the years 1 to 9999 count.
fn timestamp(time: jiff::Timestamp) -> Option<Timestamp> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let time = Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() };
    // Before 1970 both parts are negative in jiff, and nanos never are in protobuf.
    time.try_normalize().ok().filter(|time| YEARS.contains(&time.seconds))
}

fn minor_units(text: &str, digits: u32) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    if whole.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let kept = usize::try_from(digits).ok()?;
    let (fraction, excess) = fraction.split_at(fraction.len().min(kept));
    if excess.bytes().any(|b| b != b'0') {
        return None;
    }
    format!("{whole}{fraction:0<kept$}").parse::<i64>().ok()?.checked_mul(sign)
}

/// An object that may be absent, null or `""`.
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match <&RawValue>::deserialize(deserializer)?.get() {
            "null" | "\"\"" => Ok(Self(None)),
            raw => unlisted(raw.as_bytes()).map(|it| Self(Some(it))).map_err(D::Error::custom),
        }
    }
}

/// A list of objects that may be absent, null or `""`.
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = match <&RawValue>::deserialize(deserializer)?.get() {
            "null" | "\"\"" => return Ok(Self::default()),
            raw => serde_json::from_str::<Vec<&RawValue>>(raw).map_err(D::Error::custom)?,
        };
        let read = raw.iter().map(|raw| unlisted(raw.get().as_bytes()));
        read.collect::<Result<_, _>>().map(Self).map_err(D::Error::custom)
    }
}

/// What a vendor's words for a state mean.
pub(super) struct Words<T: 'static> {
    /// Which field of which vendor they are in: `wechat order.status`.
    field: &'static str,
    /// What no word at all means.
    unspecified: T,
    /// What a word means that is not in the table.
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

    /// Begins to count the words that are not in the table: an alert must see the first one.
    pub(super) fn announce(&self) {
        self.count(0);
    }

    fn count(&self, count: u64) {
        let (provider, field) = self.field.split_once(' ').unwrap_or(("", self.field));
        UNKNOWN_WORDS.add([provider, field], count);
    }

    /// What the word means. One that is not in the table is counted, and logged once.
    pub(super) fn meaning(&self, word: &str) -> T {
        if word.is_empty() {
            return self.unspecified;
        }
        if let Some((_, meaning)) = self.table.iter().find(|(known, _)| *known == word) {
            return *meaning;
        }
        self.count(1);
        self.log_unknown(word);
        self.other
    }

    fn log_unknown(&self, word: &str) {
        let word: String = word.chars().filter(|c| !c.is_control()).take(64).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < SEEN_LIMIT && seen.insert(word.clone()) {
            tracing::warn!(
                field = self.field,
                word,
                "a vendor's word has no name in the contract; it is passed on as OTHER"
            );
        }
    }
}

/// What a vendor's error means: a row of its table.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    reason: ErrorReason,
    /// The request's field that the vendor turned down.
    field: Option<&'static str>,
    /// How long the vendor wants to be left alone.
    wait: Option<(Duration, Closing)>,
    /// What the operator should do.
    advice: Option<&'static str>,
}

impl Refusal {
    pub(super) const fn new(reason: ErrorReason) -> Self {
        Self { reason, field: None, wait: None, advice: None }
    }

    /// The vendor turns down the account's credentials, or whoever shows them.
    pub(super) const fn rejected(advice: &'static str) -> Self {
        Self { advice: Some(advice), ..Self::new(ErrorReason::ProviderCredentialsRejected) }
    }

    pub(super) const fn of_field(field: &'static str) -> Self {
        Self { field: Some(field), ..Self::new(ErrorReason::InvalidRequest) }
    }

    pub(super) const fn too_often(wait: Duration, closing: Closing) -> Self {
        let wait = Some((wait, closing));
        Self { wait, ..Self::new(ErrorReason::ProviderQuotaExhausted) }
    }

    /// The error for a caller, with the vendor's own code and text.
    pub(super) fn error(self, code: &str, text: &str) -> Error {
        let message = match self.reason {
            ErrorReason::OrderNotFound => {
                "the vendor does not know the order; check the id and the account"
            }
            ErrorReason::OrderExpired => {
                "the vendor answered that the order has expired, and tells no more of it"
            }
            ErrorReason::InvalidRequest => {
                "the vendor turned the request down as malformed; check its fields"
            }
            ErrorReason::ProviderQuotaExhausted => {
                "the vendor answered that it is asked too often; wait before asking again"
            }
            ErrorReason::ProviderUnavailable => {
                "the vendor answered that it is busy; ask again later"
            }
            ErrorReason::ProviderCredentialsRejected => {
                "the vendor turned down this deployment's credentials, address, clock or \
                 signature; its operator must act, and finds the vendor's words in the log"
            }
            _ => "the vendor answered with an error that has no name here: see its code and text",
        };
        let error = if self.reason == ErrorReason::ProviderUnavailable {
            Error { trouble: Some(Trouble::Passing), ..Error::unavailable(message) }
        } else {
            Error::new(self.reason, message)
        };
        let (wait, closes) = self.wait.unzip();
        let retry_after = wait.or(error.retry_after);
        Error { field: self.field, retry_after, closes, advice: self.advice, ..error }
            .vendor_said(Some(code.to_owned()), Some(text.to_owned()))
    }
}

/// The row of a code, in the first of the tables that has one.
pub(super) fn row(tables: &[&[(&str, Refusal)]], code: &str) -> Option<Refusal> {
    tables.iter().copied().flatten().find(|(known, _)| *known == code).map(|(_, row)| *row)
}

/// The error for an answer that says it is one. What the vendor's table says of its code goes
/// first, then what the HTTP status says; else it has no name here.
pub(super) fn refused(row: Option<Refusal>, answer: &Answer, code: &str, text: &str) -> Error {
    match (row, answer.check_status()) {
        (None, Err(error)) => error.vendor_said(Some(code.to_owned()), Some(text.to_owned())),
        (row, _) => row.unwrap_or(Refusal::new(ErrorReason::ProviderError)).error(code, text),
    }
}

/// The vendor's envelope in an answer. Where there is none, the HTTP status may tell why.
pub(super) fn envelope<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, Error> {
    read(&answer.body).or_else(|unreadable| answer.check_status().and(Err(unreadable)))
}

/// The MD5 of the text, in 32 lower-case hexadecimal digits.
pub(super) fn md5_hex(text: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
}

/// Whether the id has 1 to 64 letters, digits, `_` and `-`.
pub(super) fn check_word_id(id: &str) -> Result<(), Error> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (1..=64).contains(&id.len()) && id.bytes().all(fits) {
        Ok(())
    } else {
        Err(Error::invalid("id", "the id must be 1 to 64 letters, digits, \"_\" and \"-\""))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scalar(json: &str) -> Scalar {
        read(json.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_and_texts_are_accepted_for_each_other() {
        for json in ["7", "\"7\""] {
            assert_eq!(scalar(json).text(), "7");
            assert_eq!(scalar(json).integer("f").unwrap(), Some(7));
        }
        for json in ["null", "\"\""] {
            assert_eq!(scalar(json).some(), None);
            assert_eq!(scalar(json).integer("f").unwrap(), None);
        }
        assert!(read::<Scalar>(b"[7]").is_err());
        assert!(read::<Scalar>(b"{}").is_err());
    }

    #[test]
    fn amounts_are_exact_or_refused() {
        let cases = [
            ("\"3.00\"", Some(300)),
            ("3.00", Some(300)),
            ("3", Some(300)),
            ("\"0.5\"", Some(50)),
            ("\"-1.05\"", Some(-105)),
            ("\"3.000\"", Some(300)),
            ("\"92233720368547758.07\"", Some(i64::MAX)),
            ("\"3.001\"", None),
            ("\"92233720368547758.08\"", None),
            ("\"+3\"", None),
            ("\"3.\"", None),
            ("\".5\"", None),
            ("\"1.2.3\"", None),
            ("\"1,000.00\"", None),
            ("\" 3\"", None),
            ("\"３\"", None),
            ("3e2", None),
            ("true", None),
        ];
        for (json, expected) in cases {
            let read = scalar(json).amount("amount", 2);
            assert_eq!(read.ok().flatten(), expected, "{json}");
        }
        assert_eq!(scalar("\"300\"").amount("amount", 0).unwrap(), Some(300));
        assert!(scalar("\"3.5\"").amount("amount", 0).is_err());
    }

    #[test]
    fn times_are_read_to_the_letter() {
        let read = |text: &str| {
            scalar(&format!("{text:?}")).civil_time("t", 8).map(|time| time.unwrap().to_string())
        };
        assert_eq!(read("2023-04-12 16:59:54").unwrap(), "2023-04-12T08:59:54Z");
        for wrong in [
            "2023-02-30 00:00:00",
            "2023-04-12T16:59:54",
            "2023-4-12 16:59:54",
            "2023-04-12 24:00:00",
            "2023-04-12",
            "2023-04-12 16:59:54 ",
            "0001-01-01 00:00:00",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let millis = scalar("1687265841964").unix_time("t", Duration::from_millis(1)).unwrap();
        assert_eq!(millis.unwrap().to_string(), "2023-06-20T12:57:21.964Z");
        assert!(scalar("9223372036854775807").unix_time("t", Duration::from_secs(1)).is_err());
        assert_eq!(scalar("\"2024-04-26\"").day("d").unwrap(), "2024-04-26");
        assert!(scalar("\"2024-13-01\"").day("d").is_err());
    }

    #[test]
    fn an_unreadable_answer_is_told_without_its_content() {
        let error = read::<Maybe<Scalar>>("{\"name\": \"田女士\"".as_bytes()).err().unwrap();
        assert_eq!(error.reason, ErrorReason::ProviderResponseInvalid);
        assert!(!error.message.contains('田'), "{}", error.message);
    }

    proptest! {
        #[test]
        fn any_amount_of_minor_units_is_read_back(units in any::<i64>(), zeros in 0_usize..3) {
            let (sign, magnitude) = (if units < 0 { "-" } else { "" }, units.unsigned_abs());
            let zeros = "0".repeat(zeros);
            let text = format!("{sign}{}.{:02}{zeros}", magnitude / 100, magnitude % 100);
            // The lowest value has no positive counterpart, and no vendor has such debts.
            prop_assume!(units != i64::MIN);
            prop_assert_eq!(minor_units(&text, 2), Some(units));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", digits in 0_u32..4) {
            let scalar = Scalar(text);
            let _ = scalar.amount("f", digits);
            let _ = scalar.integer("f");
            let _ = scalar.flag("f");
            let _ = scalar.day("f");
            let _ = scalar.civil_time("f", 8);
            let _ = scalar.unix_time("f", Duration::from_millis(1));
        }
    }
}
