//! The house: which room may use which, and what each file must be. The tables are the rule; the
//! scan reads every path that begins with `crate::`, `super::` or `self::`, in whatever group it
//! is imported.

pub mod source;

use std::path::Path;

use self::source::{File, paths, sources};

/// What each room may use, besides itself. Arrows point inward only.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    ("cli", &["app", "telemetry", "sandbox", "error", "clock", "pb", "certificate", "config"]),
    (
        "app",
        &[
            "server",
            "grpc",
            "health",
            "telemetry",
            "sandbox",
            "orders",
            "accounts",
            "providers",
            "store",
            "outbound",
            "peer",
            "budget",
            "error",
            "clock",
            "pb",
            "certificate",
            "metrics",
            "config",
        ],
    ),
    ("server", &["peer", "budget", "clock", "random", "certificate", "metrics", "config"]),
    (
        "grpc",
        &[
            "orders", "accounts", "peer", "budget", "error", "clock", "pb", "spans", "metrics",
            "config",
        ],
    ),
    ("health", &["orders", "peer", "budget", "error", "clock", "pb", "config"]),
    ("telemetry", &["spans", "metrics", "config"]),
    // It is played from the vendors' documents, not from our reading of them.
    ("sandbox", &["clock"]),
    ("orders", &["accounts", "providers", "store", "error", "clock", "pb", "spans", "metrics"]),
    (
        "accounts",
        &[
            "providers",
            "store",
            "outbound",
            "budget",
            "error",
            "clock",
            "pb",
            "random",
            "metrics",
            "config",
        ],
    ),
    // It implements a trait of the vendors'.
    ("store", &["providers", "error", "clock", "pb", "random", "spans", "metrics", "config"]),
    ("providers", &["outbound", "error", "clock", "pb", "random", "metrics", "config"]),
    ("outbound", &["error", "clock", "pb", "spans", "certificate", "metrics", "config"]),
    ("spans", &["error", "pb"]),
    ("error", &["pb", "config"]),
    ("clock", &[]),
    ("pb", &[]),
    ("peer", &["budget"]),
    ("budget", &[]),
    ("random", &[]),
    ("metrics", &[]),
    ("certificate", &[]),
    ("config", &["certificate"]),
];

/// The vendors: each is a module of `providers`, and knows no other.
const VENDORS: &[&str] = &["wechat", "dingshang", "haoka"];

/// Libraries that only some rooms may name.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("reqwest", &["outbound"]),
    ("rustls", &["outbound", "server", "certificate", "cli"]),
    ("redis", &["store"]),
    ("redb", &["store"]),
    ("tokio_rustls", &["server"]),
    ("webpki", &["server"]),
    ("axum", &["app", "sandbox"]),
    ("hyper", &["outbound", "server", "sandbox"]),
    ("hyper_util", &["server", "sandbox"]),
    ("clap", &["cli"]),
    ("toml", &["config"]),
    ("tracing_subscriber", &["telemetry", "config"]),
    ("tonic_reflection", &["app"]),
    ("tonic_health", &["health", "app", "cli"]),
    ("md5", &["providers", "sandbox"]),
    ("base64", &["providers", "sandbox", "certificate"]),
    ("ring", &["grpc", "server"]),
    ("rustix", &["app", "store"]),
    ("strsim", &["config"]),
    ("subtle", &["grpc"]),
    ("prometheus", &["metrics"]),
    ("x509_cert", &["certificate"]),
    ("opentelemetry", &["spans", "telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_proto", &["telemetry"]),
];

#[test]
fn arrows_point_inward() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let allowed = ARROWS.iter().find(|(room, _)| *room == file.room());
        let Some((room, allowed)) = allowed else {
            wrong.push(format!("{}: the table of rooms has no such room", file.name));
            continue;
        };
        for path in paths(&file) {
            if path.is_empty() || path[0] == *room || allowed.contains(&path[0].as_str()) {
                continue;
            }
            wrong.push(format!("{}: {room} must not use {}", file.name, path.join("::")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_vendor_knows_another() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in sources("src") {
        let [_, vendor, ..] = file.module.as_slice() else { continue };
        if file.room() != "providers" || !VENDORS.contains(&vendor.as_str()) {
            continue;
        }
        seen += 1;
        for path in paths(&file) {
            if let [room, other, ..] = path.as_slice()
                && room == "providers"
                && other != vendor
                && VENDORS.contains(&other.as_str())
            {
                wrong.push(format!("{}: {vendor} must not use {other}", file.name));
            }
        }
    }
    assert!(seen >= VENDORS.len(), "the vendors' files were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table_and_in_the_house() {
    let rooms: Vec<_> = sources("src").iter().map(|file| file.room().to_owned()).collect();
    for (room, _) in ARROWS {
        assert!(rooms.iter().any(|known| known == room), "there is no room {room}");
    }
}

#[test]
fn every_vendor_has_its_fuzz_target() {
    let targets = sources("fuzz/fuzz_targets");
    for vendor in VENDORS {
        let target = targets.iter().find(|target| target.module == [*vendor]);
        let target = target.unwrap_or_else(|| panic!("{vendor} has no fuzz target"));
        let name = format!("Provider::{}{},", vendor[..1].to_uppercase(), &vendor[1..]);
        assert!(target.text.contains(&name), "{} is about another vendor", target.name);
        let manifest = include_str!("../../fuzz/Cargo.toml");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{vendor}.rs\"")), "{vendor}");
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        for (library, rooms) in LIBRARIES {
            if !rooms.contains(&file.room()) && file.names(library) {
                wrong.push(format!("{}: {library} belongs to {}", file.name, rooms.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let files: Vec<File> =
        ["src", "tests", "fuzz/src", "fuzz/fuzz_targets"].into_iter().flat_map(sources).collect();
    assert!(files.len() > 40, "the files were not found");
    let silent = files.iter().filter(|file| !file.text.starts_with("//! ")).map(|file| &file.name);
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = sources("src")
        .iter()
        .map(|file| (file.name.clone(), file.without_tests().lines().count()))
        .filter(|(_, lines)| *lines > 400)
        .collect();
    assert_eq!(long, []);
}

/// rustls panics at its first use where it finds two crypto providers.
#[test]
fn one_crypto_provider_is_locked() {
    let names = include_str!("../../Cargo.lock").lines();
    let names = names.filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let names: Vec<_> = names.collect();
    assert!(names.contains(&"ring") && names.contains(&"rustls"), "{names:?}");
    for other in ["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"] {
        assert!(!names.contains(&other), "{other}");
    }
}

/// It would make rustup fetch another toolchain: `rust-version` in Cargo.toml says what is needed.
#[test]
fn no_file_names_a_toolchain() {
    for name in ["rust-toolchain", "rust-toolchain.toml"] {
        assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "{name}");
    }
    assert!(include_str!("../../Cargo.toml").contains("\nrust-version = "));
}

/// The scan itself: what it must find, and what it must not take for a path.
#[test]
fn the_scan_finds_paths_in_every_form() {
    let found = |module: &[&str], text: &str| -> Vec<String> {
        let module = module.iter().map(|&part| part.to_owned()).collect();
        let file = File { name: "x.rs".to_owned(), module, text: text.to_owned() };
        paths(&file).iter().map(|path| path.join("::")).collect()
    };
    let wechat = &["providers", "wechat", "token"][..];
    assert_eq!(found(&["app"], "use crate::{grpc, pb as p, server};"), ["grpc", "pb", "server"]);
    assert_eq!(
        found(&["app"], "use crate::{\n a::{self, B},\n c::d::*,\n};"),
        ["a::self", "a::B", "c::d::*"]
    );
    assert_eq!(found(wechat, "use super::super::haoka::Haoka;"), ["providers::haoka::Haoka"]);
    assert_eq!(
        found(wechat, "use super::{super::wire, row};"),
        ["providers::wire", "providers::wechat::row"]
    );
    assert_eq!(found(wechat, "let x = crate::orders::get();"), ["orders::get"]);
    assert_eq!(found(&["main"], "fn main() { order_query::cli::run() }"), ["cli::run"]);
    assert_eq!(found(&["orders"], "use self::accounts::Account;"), ["orders::accounts::Account"]);
    for not_a_path in [
        "// use crate::cli;",
        "//! [`crate::cli`]",
        "let text = \"crate::cli\";",
        "use other_crate::cli;",
        "#[cfg(test)]\nmod tests {\n use crate::cli;\n}",
    ] {
        assert_eq!(found(&["pb"], not_a_path), Vec::<String>::new(), "{not_a_path}");
    }
    let tool =
        File { name: String::new(), module: vec![], text: "my_reqwest::x; // reqwest\n".into() };
    assert!(!tool.names("reqwest"));
    assert!(File { text: "use reqwest::Url;".into(), ..tool }.names("reqwest"));
}
