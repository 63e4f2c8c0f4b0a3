//! Every vendor in the contract has the fixtures that the other tests use.

use std::fs;

use order_query::pb::Provider;

use super::bench::CONTRACT;
use super::errors::Errors;
use crate::support::facts::{Vendor, fixtures};

/// The files that every vendor's folder has.
pub(super) const REQUIRED: &[&str] = &[
    "vendor.toml",
    "order.answer.json",
    "order.expected.json",
    "not-found.answer.json",
    "not-found.expected.json",
    "words.toml",
    "errors.toml",
    "fields.toml",
    "unreadable.toml",
];

/// The contract's names of the vendors, in the enum's order.
fn words() -> Vec<String> {
    let providers = CONTRACT.get_enum_by_name("orderquery.v1.Provider").unwrap();
    let vendors = providers.values().filter(|value| value.number() != 0);
    let word = |name: &str| name.strip_prefix("PROVIDER_").unwrap().to_lowercase();
    vendors.map(|value| word(value.name())).collect()
}

#[test]
fn every_vendor_in_the_contract_has_fixtures() {
    for word in words() {
        for file in REQUIRED {
            let path = fixtures().join(&word).join(file);
            assert!(path.is_file(), "{word} is in the contract and lacks {}", path.display());
        }
    }
}

#[test]
fn every_fixture_folder_belongs_to_a_vendor() {
    let mut folders: Vec<_> = fs::read_dir(fixtures())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut words = words();
    words.sort();
    assert_eq!(folders, words);
}

/// The other tests iterate over the vendors that the library knows.
#[test]
fn the_library_knows_every_vendor_in_the_contract() {
    let known: Vec<_> = Provider::all().map(Provider::word).collect();
    assert_eq!(known, words());
}

#[test]
fn every_vendors_fixtures_are_complete() {
    for word in words() {
        let vendor = Vendor::of(Provider::from_word(&word).unwrap());
        let not_found = vendor.json("not-found.expected.json");
        assert_eq!(not_found["failure"]["reason"], "ORDER_NOT_FOUND", "{word}");
        let expected = vendor.expected();
        for member in ["id", "status", "providerStatus", "observeTime"] {
            assert!(expected[member].is_string(), "{word} expects no {member}");
        }
        assert!(vendor.sample().pointer(&vendor.sheet.id_at).is_some(), "{word}");
        assert!(Errors::of(&vendor).error.iter().all(|group| !group.rows.is_empty()), "{word}");
        let words: toml::Table = vendor.table("words.toml");
        assert!(words["table"].as_array().is_some_and(|tables| !tables.is_empty()), "{word}");
    }
}
