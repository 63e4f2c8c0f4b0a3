//! The names of the keys. In a cluster each carries a hash tag, so that the keys of one script live on one
//! node: `{a:…}` for an account (its pause, its windows, its token), `{o:…}` for an order (its state, its
//! lease, the window of its day) and `{c:…}` for a caller's window. Used by the scripts.
//!
//! A tag has a number in place of the name: no name can bring a brace, and each tag can have a stamp of the
//! [fence](super::fence).

use std::fmt;

use md5::{Digest as _, Md5};

/// The kind of the fence's key, which has no name.
pub(super) const FENCE: &str = "fence";

/// A hash tag. Sorted, an order's comes first and an account's last, as a call is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HashTag {
    owner: Owner,
    number: u8,
}

/// Whom keys are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Order,
    Caller,
    Account,
}

impl HashTag {
    /// The tag of a key; `None` for a kind of key whose tag is given.
    pub(super) fn of(kind: &str, name: &str) -> Option<Self> {
        let (owner, name) = match kind {
            "order" => (Owner::Order, name),
            "lease" => (Owner::Order, name.strip_suffix(" lease").unwrap_or(name)),
            "slots" => owner_of_window(name),
            "closed" | "token" => (Owner::Account, name),
            _ => return None,
        };
        let [number, ..]: [u8; 16] = Md5::digest(name).into();
        Some(Self { owner, number })
    }

    /// Every tag.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let numbers = || 0..=u8::MAX;
        [Owner::Order, Owner::Caller, Owner::Account]
            .into_iter()
            .flat_map(move |owner| numbers().map(move |number| Self { owner, number }))
    }
}

impl fmt::Display for HashTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match self.owner {
            Owner::Order => 'o',
            Owner::Caller => 'c',
            Owner::Account => 'a',
        };
        write!(f, "{{{owner}:{:02x}}}", self.number)
    }
}

/// Whose window this is: the last word says what limits it (`accounts/quota.rs` builds the names).
fn owner_of_window(name: &str) -> (Owner, &str) {
    match name.rsplit_once(' ') {
        Some((order, "day")) => (Owner::Order, order),
        Some((client, _)) if client.starts_with("client ") => (Owner::Caller, client),
        Some((account, _)) => (Owner::Account, account),
        None => (Owner::Account, name),
    }
}

/// The name of a key in the server, or in a cluster at that tag.
pub(super) fn named(kind: &str, name: &str, tag: Option<HashTag>, is_cluster: bool) -> String {
    match (kind, tag) {
        (FENCE, Some(tag)) => format!("order-query:{tag}:fence"),
        (FENCE, None) if is_cluster => "order-query:{fence}".to_owned(),
        (FENCE, None) => "order-query:fence".to_owned(),
        (_, Some(tag)) => format!("order-query:{tag}:{kind}:{name}"),
        (_, None) => format!("order-query:{kind}:{name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_keys_of_one_owner_have_one_tag() {
        let together = [
            vec![("order", "K 1"), ("lease", "K 1 lease"), ("slots", "K 1 day")],
            vec![("closed", "K"), ("slots", "K minute"), ("slots", "K pollers"), ("token", "K")],
            vec![("slots", "client shop minute")],
        ];
        let tags: Vec<_> = together
            .iter()
            .map(|keys| {
                let tags: HashSet<_> = keys
                    .iter()
                    .map(|(kind, name)| HashTag::of(kind, name).unwrap().to_string())
                    .collect();
                assert_eq!(tags.len(), 1, "{keys:?}");
                tags.into_iter().next().unwrap()
            })
            .collect();
        assert!(tags[0].starts_with("{o:") && tags[1].starts_with("{a:"), "{tags:?}");
        assert!(tags[2].starts_with("{c:"), "{tags:?}");
    }

    #[test]
    fn every_tag_is_one_of_all_and_no_name_brings_a_brace() {
        let all: HashSet<_> = HashTag::all().map(|tag| tag.to_string()).collect();
        assert_eq!(all.len(), 3 * 256);
        for name in ["", "{x}", "}{", "a\nb", "K {o:00} day"] {
            for kind in ["order", "lease", "slots", "closed", "token"] {
                let tag = HashTag::of(kind, name);
                let key = named(kind, name, tag, true);
                let (_, rest) = key.split_once('{').unwrap();
                let (inside, _) = rest.split_once('}').unwrap();
                assert!(all.contains(&format!("{{{inside}}}")), "{key}");
            }
        }
    }

    #[test]
    fn a_single_server_keeps_its_names() {
        assert_eq!(named("order", "K 1", None, false), "order-query:order:K 1");
        assert_eq!(named(FENCE, "", None, false), "order-query:fence");
        assert_eq!(named(FENCE, "", None, true), "order-query:{fence}");
    }
}
