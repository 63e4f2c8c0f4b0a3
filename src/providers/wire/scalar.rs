//! Numbers and texts in vendors' answers, read from their characters. Used by the vendors' modules
//! only.

use std::borrow::Cow;
use std::time::Duration;

use jiff::civil;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::mend::BROKEN;

/// The value read from a number or a text: `None` if the vendor sent none; the error is the expected
/// form.
pub(in crate::providers) type Read<T> = Result<Option<T>, &'static str>;

/// A number or a text, as its characters. Vendors send one for the other; null, `""` and absence mean
/// the same. It is never converted to a float.
#[derive(Default, Clone)]
pub(in crate::providers) struct Scalar<'a> {
    /// The text up to where it could be read.
    text: Cow<'a, str>,
    is_cut: bool,
}

/// A JSON text: a part of the JSON itself, unless it has an escape.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'a> Scalar<'a> {
    /// Reads the JSON. A list or an object counts as a text that could not be read at all.
    pub(super) fn of(json: &'a RawValue) -> Self {
        let json = json.get();
        match json.as_bytes().first() {
            Some(b'"') => {
                let whole = serde_json::from_str(json);
                let whole = whole.map_or(BROKEN.to_string().into(), |Text(whole)| whole);
                match whole.find(BROKEN) {
                    Some(end) => Self { text: whole[..end].to_owned().into(), is_cut: true },
                    None => Self { text: whole, is_cut: false },
                }
            }
            Some(b'{' | b'[') => Self { text: Cow::default(), is_cut: true },
            _ if json == "null" => Self::default(),
            _ => Self { text: json.into(), is_cut: false },
        }
    }

    /// A copy that does not depend on the answer.
    pub(super) fn into_owned(self) -> Scalar<'static> {
        Scalar { text: self.text.into_owned().into(), is_cut: self.is_cut }
    }

    /// The text verbatim, up to where it could be read; empty if the vendor sent nothing.
    pub(in crate::providers) fn text(&self) -> &str {
        &self.text
    }

    /// The text in the form that tables use: a whole number may arrive as `2.0`.
    pub(in crate::providers) fn value(&self) -> &str {
        let of_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match self.text.split_once('.') {
            Some((whole, zeros))
                if of_digits(whole.strip_prefix('-').unwrap_or(whole))
                    && of_digits(zeros)
                    && zeros.bytes().all(|b| b == b'0') =>
            {
                whole
            }
            _ => self.text(),
        }
    }

    /// The value, if the vendor sent one.
    pub(in crate::providers) fn some(&self) -> Option<&str> {
        Some(self.value()).filter(|value| !value.is_empty())
    }

    /// The value, if the vendor sent one and it is not 0: some vendors leave zeros out, some do not.
    pub(in crate::providers) fn nonzero(&self) -> Option<&str> {
        self.some().filter(|value| *value != "0")
    }

    /// The scalar itself, if all of it could be read.
    pub(in crate::providers) fn whole(&self) -> Read<Self> {
        if self.is_cut { Err("a number or a text") } else { Ok(Some(self.clone())) }
    }

    /// The text, if any of it could be read: a truncated text is returned up to the cut.
    pub(in crate::providers) fn legible(&self) -> Read<String> {
        if self.text.is_empty() {
            self.whole()?;
        }
        Ok(Some(self.text().to_owned()))
    }

    fn parse<T>(&self, what: &'static str, parse: impl Fn(&str) -> Option<T>) -> Read<T> {
        match self.some() {
            _ if self.is_cut => Err(what),
            None => Ok(None),
            Some(value) => parse(value).map(Some).ok_or(what),
        }
    }

    /// A whole number.
    pub(in crate::providers) fn integer(&self) -> Read<i64> {
        // Rust's parser would also accept a "+".
        self.parse("a whole number", |text| text.parse().ok().filter(|_| !text.starts_with('+')))
    }

    /// A boolean, as 1 and 0 or as true and false.
    pub(in crate::providers) fn flag(&self) -> Read<bool> {
        self.parse("0 or 1", |text| match text {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        })
    }

    /// A decimal amount, in units of its last allowed place: with 2 digits, "3.00" is 300. Further
    /// digits are rejected unless they are zeros: nothing is rounded.
    pub(in crate::providers) fn amount(&self, digits: u32) -> Read<i64> {
        self.parse("an exact amount", |text| minor_units(text, digits))
    }

    /// A time in whole units since 1970.
    pub(in crate::providers) fn unix_time(&self, unit: Duration) -> Read<Timestamp> {
        let time = self.parse("a time", |text| {
            let count: i64 = text.parse().ok()?;
            let nanos = i128::from(count) * i128::try_from(unit.as_nanos()).ok()?;
            jiff::Timestamp::from_nanosecond(nanos).ok()
        })?;
        let time =
            time.filter(|time| !stands_for_none(jiff::tz::Offset::UTC.to_datetime(*time).date()));
        time.map(|time| timestamp(time).ok_or("a time")).transpose()
    }

    /// A time of the form `2023-04-12 16:59:54`, in a time zone `hours_ahead` of UTC.
    pub(in crate::providers) fn civil_time(&self, hours_ahead: i8) -> Read<Timestamp> {
        if self.begins_with_none() {
            return Ok(None);
        }
        self.parse("a time", |text| {
            let time = civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text)
                .ok()
                .filter(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string() == text)?;
            timestamp(jiff::tz::offset(hours_ahead).to_timestamp(time).ok()?)
        })
    }

    /// A day of the form `2024-04-26`.
    pub(in crate::providers) fn day(&self) -> Read<String> {
        if self.begins_with_none() {
            return Ok(None);
        }
        self.parse("a day", |text| {
            let day = civil::Date::strptime("%Y-%m-%d", text).ok()?;
            Some(day.to_string()).filter(|day| day == text)
        })
    }

    /// Whether it begins with a day that stands for none, whatever the form of the rest.
    fn begins_with_none(&self) -> bool {
        const NO_DAY: &str = "0000-00-00";
        self.text.get(..NO_DAY.len()).is_some_and(|day| {
            day == NO_DAY || civil::Date::strptime("%Y-%m-%d", day).is_ok_and(stands_for_none)
        })
    }
}

/// Whether a vendor's day means "none": the values that databases and languages use for a missing time,
/// also shifted by a time zone. .NET uses 0001-01-01, SQL Server 1753-01-01 and 1900-01-01, Excel
/// 1899-12-30, Unix 1970-01-01. No order is that old (*assumed*).
fn stands_for_none(day: civil::Date) -> bool {
    let epoch = civil::date(1969, 12, 31)..=civil::date(1970, 1, 1);
    day.year() <= 1900 || epoch.contains(&day)
}

/// The time, if protobuf can represent it: only the years 1 to 9999 are valid.
fn timestamp(time: jiff::Timestamp) -> Option<Timestamp> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let time = Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() };
    // Before 1970 both parts are negative in jiff, but nanos are never negative in protobuf.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scalar(json: &str) -> Scalar<'static> {
        Scalar::of(&RawValue::from_string(json.to_owned()).unwrap()).into_owned()
    }

    #[test]
    fn numbers_and_strings_are_interchangeable() {
        for json in ["7", "\"7\"", "7.0", "\"7.00\""] {
            assert_eq!(scalar(json).value(), "7");
            assert_eq!(scalar(json).integer(), Ok(Some(7)));
        }
        assert_eq!(scalar("7.0").text(), "7.0");
        for json in ["null", "\"\""] {
            assert_eq!(scalar(json).some(), None);
            assert_eq!(scalar(json).integer(), Ok(None));
        }
        for json in ["[7]", "{}", "[]", "\"7\u{fdd0}\""] {
            assert!(scalar(json).whole().is_err() && scalar(json).integer().is_err(), "{json}");
        }
    }

    #[test]
    fn a_zero_fraction_is_dropped_from_whole_numbers_only() {
        let cases = [
            ("-1.0", "-1"),
            ("007.0", "007"),
            ("1.50", "1.50"),
            ("1.", "1."),
            (".0", ".0"),
            ("x.0", "x.0"),
        ];
        for (text, value) in cases {
            assert_eq!(scalar(&format!("{text:?}")).value(), value);
        }
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
            assert_eq!(scalar(json).amount(2).ok().flatten(), expected, "{json}");
        }
        assert_eq!(scalar("\"300\"").amount(0), Ok(Some(300)));
        assert!(scalar("\"3.5\"").amount(0).is_err());
    }

    #[test]
    fn times_are_parsed_strictly() {
        let read = |text: &str| {
            scalar(&format!("{text:?}")).civil_time(8).map(|time| time.unwrap().to_string())
        };
        assert_eq!(read("2023-04-12 16:59:54").unwrap(), "2023-04-12T08:59:54Z");
        assert_eq!(read("1901-01-01 08:00:00").unwrap(), "1901-01-01T00:00:00Z");
        assert_eq!(read("1970-01-02 08:00:00").unwrap(), "1970-01-02T00:00:00Z");
        for wrong in [
            "2023-02-30 00:00:00",
            "2023-04-12T16:59:54",
            "2023-4-12 16:59:54",
            "2023-04-12 24:00:00",
            "2023-04-12",
            "2023-04-12 16:59:54 ",
            "0000-01-00 00:00:00",
            "号号号号",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let millis = scalar("1687265841964").unix_time(Duration::from_millis(1)).unwrap();
        assert_eq!(millis.unwrap().to_string(), "2023-06-20T12:57:21.964Z");
        assert!(scalar("9223372036854775807").unix_time(Duration::from_secs(1)).is_err());
        assert_eq!(scalar("\"2024-04-26\"").day(), Ok(Some("2024-04-26".to_owned())));
        assert!(scalar("\"2024-13-01\"").day().is_err());
    }

    proptest! {
        #[test]
        fn any_amount_of_minor_units_round_trips(units in any::<i64>(), zeros in 0_usize..3) {
            let (sign, magnitude) = (if units < 0 { "-" } else { "" }, units.unsigned_abs());
            let zeros = "0".repeat(zeros);
            let text = format!("{sign}{}.{:02}{zeros}", magnitude / 100, magnitude % 100);
            // The lowest value has no positive counterpart, and no vendor has such amounts.
            prop_assume!(units != i64::MIN);
            prop_assert_eq!(minor_units(&text, 2), Some(units));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "\\PC*", digits in 0_u32..4) {
            let scalar = Scalar { text: text.into(), is_cut: false };
            let _ = scalar.amount(digits);
            let _ = scalar.integer();
            let _ = scalar.flag();
            let _ = scalar.day();
            let _ = scalar.civil_time(8);
            let _ = scalar.unix_time(Duration::from_millis(1));
        }
    }
}
