//! The URLs of one account's requests. Used by `outbound` only.
//!
//! Most requests differ only in their last parameter, the order's id. What comes before it, which may
//! hold a long token, is escaped once and copied.
#![allow(clippy::disallowed_types, reason = "a part of the one module of reqwest")]

use std::sync::{Mutex, PoisonError};

use reqwest::Url;

use crate::error::Error;

/// Builds the URLs below a base URL.
pub(super) struct Urls {
    base: Url,
    /// The beginning of the last URL that was built.
    last: Mutex<Option<Beginning>>,
}

/// A URL without its last parameter, and what it was built from.
struct Beginning {
    path: Vec<String>,
    query: Vec<(String, String)>,
    url: Url,
}

impl Urls {
    pub(super) fn new(base: Url) -> Self {
        Self { base, last: Mutex::default() }
    }

    /// The host of all URLs.
    pub(super) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// The port of all URLs.
    pub(super) fn port(&self) -> Option<u16> {
        self.base.port_or_known_default()
    }

    /// Builds a URL: the base, the segments of a path, and the parameters of a query.
    ///
    /// # Errors
    /// `INTERNAL` if the base URL cannot have a path.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, Error> {
        let Some(((name, value), shared)) = query.split_last() else {
            return self.beginning(path, query);
        };
        let mut url = self.shared(path, shared)?;
        url.query_pairs_mut().append_pair(name, value);
        Ok(url)
    }

    /// The beginning of a URL: the last one that was built, or a new one.
    fn shared(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.is_of(path, query)) {
            return Ok(last.url.clone());
        }
        let url = self.beginning(path, query)?;
        *last = Some(Beginning {
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            query: query.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            url: url.clone(),
        });
        Ok(url)
    }

    fn beginning(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, Error> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::internal("a base_url that cannot have a path"))?
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

impl Beginning {
    fn is_of(&self, path: &[&str], query: &[(&str, &str)]) -> bool {
        let pairs = self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.path == path && pairs.eq(query.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, a query, and what becomes of them.
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

    #[test]
    fn every_part_of_a_url_is_escaped_and_none_is_taken_from_another() {
        let urls = Urls::new(Url::parse("https://vendor.example/base").unwrap());
        let cases: &[Case<'_>] = &[
            (&["a", "b/c"], &[("token", "t&=#"), ("id", "1?")], "a/b%2Fc?token=t%26%3D%23&id=1%3F"),
            (&["a", "b/c"], &[("token", "t&=#"), ("id", "2")], "a/b%2Fc?token=t%26%3D%23&id=2"),
            (&["a", "b/c"], &[("token", "u"), ("id", "2")], "a/b%2Fc?token=u&id=2"),
            (&["a", "b"], &[("token", "u"), ("id", "2")], "a/b?token=u&id=2"),
            (&["a", "b"], &[("token", "u"), ("more", "1"), ("id", "2")], "a/b?token=u&more=1&id=2"),
            (&["a", "b"], &[("id", "2")], "a/b?id=2"),
            (&["a", "b"], &[], "a/b"),
            (&[], &[("id", "2")], "?id=2"),
        ];
        for (path, query, expected) in cases {
            let url = urls.url(path, query).unwrap();
            let slash = if path.is_empty() { "" } else { "/" };
            assert_eq!(url.as_str(), format!("https://vendor.example/base{slash}{expected}"));
        }
    }
}
