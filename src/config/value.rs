//! The types of value that a key of the configuration can have. Used by `section`, which reads keys,
//! and by modules that have a type of their own.

use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::context::Context;

/// A type of value that a key can have.
pub trait Value: Sized {
    /// What the value must be, to complete "must be …".
    const EXPECTED: &'static str;

    /// Converts a TOML value.
    ///
    /// # Errors
    /// What is wrong with the value, without the value itself.
    fn read(value: toml::Value, context: &Context) -> Result<Self, String>;
}

/// The placeholder for an operator's own values in our examples, in upper or lower case.
const PLACEHOLDER: &str = "replace-me";

/// Converts a value, unless it still contains the placeholder.
///
/// # Errors
/// What is wrong with the value, without the value itself.
pub(super) fn read_value<V: Value>(value: toml::Value, context: &Context) -> Result<V, String> {
    fn check(value: &toml::Value) -> Result<(), String> {
        match value {
            toml::Value::String(text) => check_filled_in(text),
            toml::Value::Array(values) => values.iter().try_for_each(check),
            toml::Value::Table(table) => table.values().try_for_each(check),
            _ => Ok(()),
        }
    }
    check(&value)?;
    V::read(value, context)
}

/// Checks that a text does not contain the placeholder.
pub(super) fn check_filled_in(text: &str) -> Result<(), String> {
    if text.to_ascii_lowercase().contains(PLACEHOLDER) {
        return Err("still contains the example's REPLACE-ME; fill it in".to_owned());
    }
    Ok(())
}

/// The text, if it is valid: not empty, and without control characters.
pub(super) fn checked_text(text: String) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("is empty".to_owned())
    } else if text.chars().any(char::is_control) {
        Err("contains a control character, such as a line break".to_owned())
    } else {
        Ok(text)
    }
}

impl Value for String {
    const EXPECTED: &'static str = "a string";

    fn read(value: toml::Value, _: &Context) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => checked_text(text),
            _ => Err("must be a string".to_owned()),
        }
    }
}

impl Value for Vec<String> {
    const EXPECTED: &'static str = "a list of at least one string";

    fn read(value: toml::Value, context: &Context) -> Result<Self, String> {
        let texts = match value {
            toml::Value::Array(values) => {
                values.into_iter().map(|value| String::read(value, context).ok()).collect()
            }
            _ => None,
        };
        let texts: Option<Self> = texts.filter(|texts: &Self| !texts.is_empty());
        texts.ok_or_else(|| format!("must be {}", Self::EXPECTED))
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: toml::Value, _: &Context) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "must be true or false".to_owned())
    }
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn read(value: toml::Value, _: &Context) -> Result<Self, String> {
        let number = value.as_integer().and_then(|number| number.try_into().ok());
        number.ok_or_else(|| format!("must be {}", Self::EXPECTED))
    }
}

/// A share: 0 is none, and 1 is all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(pub f64);

impl Value for Ratio {
    const EXPECTED: &'static str = "a number from 0 to 1";

    fn read(value: toml::Value, _: &Context) -> Result<Self, String> {
        let whole = value.as_integer().and_then(|number| u8::try_from(number).ok());
        let ratio = value.as_float().or(whole.map(f64::from));
        let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Self).ok_or_else(|| format!("must be {}", Self::EXPECTED))
    }
}

/// Implements `Value` for a type that is parsed from a text.
macro_rules! parsed_text {
    ($type:ty, $expected:literal, $parse:expr) => {
        impl Value for $type {
            const EXPECTED: &'static str = $expected;

            fn read(value: toml::Value, _: &Context) -> Result<Self, String> {
                let parsed = value.as_str().and_then($parse);
                parsed.ok_or_else(|| concat!("must be ", $expected).to_owned())
            }
        }
    };
}

parsed_text!(SocketAddr, "an address and port such as \"127.0.0.1:50051\"", |text: &str| {
    text.parse().ok()
});
parsed_text!(Duration, "a duration such as \"250ms\", \"15s\" or \"10m\"", |text: &str| {
    jiff::fmt::friendly::SpanParser::new().parse_unsigned_duration(text).ok()
});
parsed_text!(
    Targets,
    "a log level such as \"info\", or pairs such as \"order_query=debug\"",
    parse_log_level
);

/// `Targets` itself reads a misspelled level as the name of a target, and then logs nothing else.
fn parse_log_level(text: &str) -> Option<Targets> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let fits = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.is_empty() && !level.is_empty(),
        None => !part.is_empty() && part.parse::<LevelFilter>().is_ok(),
    };
    text.split(',').all(fits).then(|| text.parse().ok()).flatten()
}
