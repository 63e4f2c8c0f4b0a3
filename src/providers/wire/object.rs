//! Objects in vendors' answers, read so that an unreadable field affects only itself. Used by the
//! vendors' modules only.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::mend::mended;
use super::scalar::{Read, Scalar, Text};
use super::{Vendor, Words};
use crate::error::Error;

/// The maximum number of members of an object: more than any vendor sends. Each uses many times its
/// size in memory.
const MEMBERS: usize = 1000;

/// The number of members that most objects have at most.
const USUAL_MEMBERS: usize = 8;

/// The maximum number of lines of an order.
const ELEMENTS: usize = 1000;

/// The fields already logged as unreadable: at most as many as the code reads.
static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// An object in a vendor's answer. Members that nobody reads can be anything.
pub(in crate::providers) struct Object<'a> {
    vendor: &'a Vendor,
    /// The object that it is a part of, and its name there; `None` for the answer itself.
    outer: Option<(&'a Object<'a>, &'a str)>,
    members: Members<'a>,
    is_blank: bool,
}

/// The names and the JSON of members, as they are in the answer's text.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl Members<'_> {
    /// A copy that does not depend on the text.
    fn into_owned(self) -> Members<'static> {
        let own = |(name, raw): (Cow<'_, str>, Cow<'_, RawValue>)| {
            (Cow::Owned(name.into_owned()), Cow::Owned(raw.into_owned()))
        };
        Members(self.0.into_iter().map(own).collect())
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(USUAL_MEMBERS);
                while let Some((Text(name), raw)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    if members.len() == MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push((name, Cow::Borrowed(raw)));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// The first elements of a list, at most one more than an order may have.
#[derive(Default)]
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Elements<'de>, A::Error> {
                let mut elements = Vec::new();
                while elements.len() <= ELEMENTS {
                    let Some(element) = list.next_element()? else { return Ok(Elements(elements)) };
                    elements.push(element);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

impl<'a> Object<'a> {
    /// Reads a vendor's answer. The contents may be personal, so the error names only the place.
    pub(super) fn read(vendor: &'a Vendor, json: &'a [u8]) -> Result<Self, Error> {
        // An escape may be half a surrogate pair, which only `mended` detects.
        let plain = std::str::from_utf8(json).ok().filter(|text| !text.contains("\\u"));
        let whole = plain.and_then(|text| serde_json::from_str::<Members<'a>>(text).ok());
        let mend = || serde_json::from_str(&mended(json)).map(Members::into_owned);
        let members = whole.map_or_else(mend, Ok).map_err(|error| {
            let what = if error.is_data() { "is not a JSON object" } else { "is not JSON" };
            let (line, column) = (error.line(), error.column());
            Error::unreadable(format!("it {what} (line {line}, column {column})"))
        })?;
        Ok(Self { vendor, outer: None, members, is_blank: false })
    }

    /// An answer in which every field exists and is empty. Reading a field of it creates the field's
    /// counter: an alert must see the first unreadable field.
    pub(in crate::providers) fn blank(vendor: &'a Vendor) -> Self {
        Self { vendor, outer: None, members: Members::default(), is_blank: true }
    }

    fn child<'b>(&'b self, name: &'b str, members: Members<'b>) -> Object<'b> {
        Object { vendor: self.vendor, outer: Some((self, name)), members, is_blank: self.is_blank }
    }

    /// The member's place in the answer: `data.records`.
    fn place(&self, name: &str) -> String {
        self.outer
            .map_or_else(|| name.to_owned(), |(outer, own)| format!("{}.{name}", outer.place(own)))
    }

    /// The member's JSON, if the vendor sent it; the last one of duplicates, as most parsers do.
    fn raw(&self, name: &str) -> Option<&RawValue> {
        self.all(name).last()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &RawValue> {
        self.members.0.iter().filter(move |(known, _)| known == name).map(|(_, raw)| &**raw)
    }

    /// Whether the vendor sent anything but null in that member.
    pub(in crate::providers) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|raw| raw.get() != "null")
    }

    /// The member as a scalar.
    pub(in crate::providers) fn scalar(&self, name: &str) -> Scalar<'_> {
        self.raw(name).map(Scalar::of).unwrap_or_default()
    }

    /// The texts of the member: a single one, or those of a list. Other JSON counts as none.
    pub(in crate::providers) fn texts(&self, name: &str) -> Vec<Scalar<'_>> {
        let Some(raw) = self.raw(name) else { return Vec::new() };
        let listed = serde_json::from_str::<Vec<&RawValue>>(raw.get());
        let listed = listed.unwrap_or_else(|_| vec![raw]);
        let texts = listed.into_iter().filter(|raw| raw.get().starts_with('"'));
        texts.map(Scalar::of).filter(|text| !text.text().is_empty()).collect()
    }

    /// The vendor's human-readable text in these members.
    pub(in crate::providers) fn said(&self, names: &[&str]) -> String {
        let texts: Vec<_> = names.iter().flat_map(|name| self.texts(name)).collect();
        texts.iter().map(Scalar::text).collect::<Vec<_>>().join("; ")
    }

    /// Reads a member that the answer must have: it is readable as a whole and unambiguous, or the
    /// answer is rejected.
    ///
    /// # Errors
    /// `PROVIDER_RESPONSE_INVALID`
    pub(in crate::providers) fn must<'b, T>(
        &'b self,
        name: &str,
        read: impl FnOnce(&Scalar<'b>) -> Read<T>,
    ) -> Result<Option<T>, Error> {
        self.check_once(name)?;
        read(&self.scalar(name)).map_err(|what| {
            let field = self.place(name);
            Error::unreadable(format!("{field} is not {what}"))
        })
    }

    /// The same for a text.
    ///
    /// # Errors
    /// `PROVIDER_RESPONSE_INVALID`
    pub(in crate::providers) fn must_whole(&self, name: &str) -> Result<Scalar<'_>, Error> {
        self.must(name, Scalar::whole).map(Option::unwrap_or_default)
    }

    /// The object that the answer is about.
    ///
    /// # Errors
    /// `PROVIDER_RESPONSE_INVALID` if there is none.
    pub(in crate::providers) fn must_object<'b>(
        &'b self,
        name: &'b str,
    ) -> Result<Object<'b>, Error> {
        self.check_once(name)?;
        let raw = self.raw(name).map_or("", RawValue::get);
        match serde_json::from_str(raw) {
            _ if self.is_blank => Ok(self.child(name, Members::default())),
            Ok(members) => Ok(self.child(name, members)),
            Err(_) => Err(Error::unreadable("it holds no order")),
        }
    }

    fn check_once(&self, name: &str) -> Result<(), Error> {
        let mut all = self.all(name).map(RawValue::get);
        let first = all.next();
        if all.any(|other| Some(other) != first) {
            let field = self.place(name);
            return Err(Error::unreadable(format!("{field} occurs twice, with different values")));
        }
        Ok(())
    }

    /// Reads an optional field: an unreadable one is unset, and counted.
    pub(in crate::providers) fn side<'b, T>(
        &'b self,
        name: &'static str,
        read: impl FnOnce(&Scalar<'b>) -> Read<T>,
    ) -> Option<T> {
        self.counted(name, read(&self.scalar(name)))
    }

    /// An optional text.
    pub(in crate::providers) fn text(&self, name: &'static str) -> String {
        self.side(name, Scalar::legible).unwrap_or_default()
    }

    /// An optional id. A truncated id would be another order's.
    pub(in crate::providers) fn id(&self, name: &'static str) -> String {
        let id = self.side(name, Scalar::whole).unwrap_or_default();
        id.value().to_owned()
    }

    /// An optional word: its meaning, and its exact text. A truncated word could look like another.
    pub(in crate::providers) fn word<T: Copy>(
        &self,
        name: &'static str,
        words: &Words<T>,
    ) -> (T, String) {
        let word = self.side(name, Scalar::whole).unwrap_or_default();
        (self.meaning(words, &word), word.text().to_owned())
    }

    /// The meaning of a word.
    pub(in crate::providers) fn meaning<T: Copy>(&self, words: &Words<T>, word: &Scalar) -> T {
        words.meaning(self.vendor, word)
    }

    /// An optional object.
    pub(in crate::providers) fn object(&self, name: &'static str) -> Option<Object<'_>> {
        if self.is_blank {
            self.counted::<()>(name, Ok(None));
            return Some(self.child(name, Members::default()));
        }
        let raw = self.raw(name).filter(|raw| !stands_for_none(raw))?;
        let members = serde_json::from_str(raw.get()).map(Some);
        let members = self.counted(name, members.map_err(|_| "an object"));
        members.map(|members| self.child(name, members))
    }

    /// Builds a value from each element of an optional list of objects. An unreadable element is
    /// `None`, and counted.
    ///
    /// # Errors
    /// `PROVIDER_RESPONSE_INVALID` if the list has more elements than an order may have.
    pub(in crate::providers) fn list<T>(
        &self,
        name: &'static str,
        make: impl Fn(Option<&Object<'_>>) -> T,
    ) -> Result<Vec<T>, Error> {
        if self.is_blank {
            return Ok(vec![make(self.object(name).as_ref())]);
        }
        let Some(raw) = self.raw(name).filter(|raw| !stands_for_none(raw)) else {
            return Ok(Vec::new());
        };
        let listed = serde_json::from_str::<Elements<'_>>(raw.get()).map(Some);
        let Elements(listed) = self.counted(name, listed.map_err(|_| "a list")).unwrap_or_default();
        if listed.len() > ELEMENTS {
            let field = self.place(name);
            return Err(Error::unreadable(format!("{field} has more than {ELEMENTS} elements")));
        }
        // An empty object is an element without data; other values that stand for none are not
        // elements.
        let elements =
            listed.into_iter().filter(|raw| raw.get().starts_with('{') || !stands_for_none(raw));
        let elements = elements.map(|raw| {
            let members = serde_json::from_str(raw.get()).map(Some);
            let members = self.counted(name, members.map_err(|_| "a list of objects"));
            let element = members.map(|members| self.child(name, members));
            make(element.as_ref())
        });
        Ok(elements.collect())
    }

    /// Returns the value that could be read; an unreadable one is counted, and logged once.
    fn counted<T>(&self, name: &str, read: Read<T>) -> Option<T> {
        let unreadable = || {
            let Vendor { name: vendor, metrics } = self.vendor;
            metrics.unreadable_fields.with([vendor, &self.place(name)])
        };
        if self.is_blank {
            let _ = unreadable();
        }
        read.unwrap_or_else(|expected| {
            unreadable().inc();
            let field = format!("{} {}", self.vendor.name, self.place(name));
            let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
            if logged.insert(field.clone()) {
                // The value itself is not logged: it may be personal.
                tracing::warn!(
                    field,
                    expected,
                    "a vendor's field cannot be read; it is left unset, and the rest of the order \
                     is kept"
                );
            }
            None
        })
    }
}

/// Whether the JSON is one of the values that vendors send for a missing object or list.
fn stands_for_none(json: &RawValue) -> bool {
    match json.get().as_bytes() {
        b"null" | b"false" | b"0" | b"\"\"" => true,
        [b'{', inner @ .., b'}'] | [b'[', inner @ .., b']'] => inner.trim_ascii().is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::ErrorReason;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn an_unreadable_response_is_reported_without_its_content() {
        let cases = [
            ("{\"name\": \"田女士\"", "it is not JSON"),
            ("[\"田女士\"]", "it is not a JSON object"),
            ("田女士", "it is not JSON"),
        ];
        for (json, expected) in cases {
            let vendor = Vendor::new("haoka", &Metrics::default());
            let error = Object::read(&vendor, json.as_bytes()).err().unwrap();
            assert_eq!(error.reason, ErrorReason::ProviderResponseInvalid);
            assert!(error.message.contains(expected), "{}", error.message);
            assert!(!error.message.contains('田'), "{}", error.message);
        }
    }
}
