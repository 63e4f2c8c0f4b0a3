//! The architecture: which module may use which, and the rules for files. The tables are the rule; the
//! scan reads every path that begins with `crate::`, `super::` or `self::`, in whatever group it
//! is imported.

mod circles;
pub mod source;

use std::path::Path;

use order_query::pb::Provider;

use self::circles::circles;
use self::source::{File, paths, sources};

/// What each module of the crate's root may use, besides itself. Arrows point inward only.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &[
            "app",
            "live_check",
            "telemetry",
            "sandbox",
            "error",
            "clock",
            "pb",
            "certificate",
            "config",
        ],
    ),
    (
        "app",
        &[
            "server",
            "grpc",
            "health",
            "telemetry",
            "orders",
            "accounts",
            "providers",
            "store",
            "peer",
            "budget",
            "error",
            "clock",
            "pb",
            "certificate",
            "config",
        ],
    ),
    // `check --live`.
    (
        "live_check",
        &["app", "accounts", "providers", "store", "error", "pb", "certificate", "config"],
    ),
    ("server", &["peer", "budget", "clock", "certificate", "telemetry", "config"]),
    (
        "grpc",
        &["orders", "accounts", "peer", "budget", "error", "clock", "pb", "telemetry", "config"],
    ),
    ("health", &["orders", "peer", "budget", "error", "clock", "pb", "config"]),
    ("telemetry", &["error", "pb", "certificate", "config"]),
    // It is built from the vendors' documents, not from our reading of them.
    ("sandbox", &["clock"]),
    ("orders", &["accounts", "providers", "store", "error", "clock", "pb", "telemetry"]),
    (
        "accounts",
        &[
            "providers",
            "store",
            "outbound",
            "budget",
            "error",
            "clock",
            "chance",
            "pb",
            "telemetry",
            "config",
        ],
    ),
    // It implements a trait of the vendors'.
    ("store", &["providers", "error", "clock", "pb", "telemetry", "config"]),
    ("providers", &["outbound", "error", "clock", "chance", "pb", "telemetry", "config"]),
    ("outbound", &["error", "clock", "pb", "telemetry", "certificate", "config"]),
    ("error", &["pb", "config"]),
    ("clock", &[]),
    ("chance", &[]),
    ("pb", &[]),
    ("peer", &["budget"]),
    ("budget", &[]),
    ("certificate", &[]),
    ("config", &["certificate"]),
];

/// Libraries that only some modules may name.
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
    ("crc16", &["store"]),
    ("md5", &["providers", "sandbox", "store"]),
    ("base64", &["providers", "sandbox", "certificate"]),
    ("ring", &["grpc", "server"]),
    ("rustix", &["app", "store"]),
    ("strsim", &["config"]),
    ("subtle", &["grpc"]),
    ("prometheus", &["telemetry"]),
    ("x509_cert", &["certificate"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_proto", &["telemetry"]),
];

#[test]
fn dependencies_point_inward() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let allowed = ARROWS.iter().find(|(module, _)| *module == file.root());
        let Some((module, allowed)) = allowed else {
            wrong.push(format!("{}: the table of modules has no such module", file.name));
            continue;
        };
        for path in paths(&file) {
            if path.is_empty() || path[0] == *module || allowed.contains(&path[0].as_str()) {
                continue;
            }
            wrong.push(format!("{}: {module} must not use {}", file.name, path.join("::")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sibling_modules_have_no_dependency_cycles() {
    assert_eq!(circles(&sources("src")), []);
}

/// The vendors: each is a module of `providers`, and uses no other.
#[test]
fn no_vendor_module_uses_another() {
    let vendors: Vec<_> = Provider::all().map(Provider::word).collect();
    let files = sources("src");
    let mut wrong = Vec::new();
    for vendor in &vendors {
        let module = ["providers".to_owned(), vendor.clone()];
        let own: Vec<_> = files.iter().filter(|file| file.module.starts_with(&module)).collect();
        assert!(!own.is_empty(), "{vendor} has no module");
        for (file, path) in
            own.iter().flat_map(|file| paths(file).into_iter().map(move |p| (file, p)))
        {
            if let [root, other, ..] = path.as_slice()
                && root == "providers"
                && other != vendor
                && vendors.contains(other)
            {
                wrong.push(format!("{}: {vendor} must not use {other}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_is_in_both_the_table_and_the_crate() {
    let modules: Vec<_> = sources("src").iter().map(|file| file.root().to_owned()).collect();
    for (module, _) in ARROWS {
        assert!(modules.iter().any(|known| known == module), "there is no module {module}");
    }
}

#[test]
fn every_fuzz_target_is_declared() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    let targets = sources("fuzz/fuzz_targets");
    assert!(!targets.is_empty(), "the fuzz targets were not found");
    for File { name, .. } in targets {
        let path = name.trim_start_matches("fuzz/");
        assert!(
            manifest.contains(&format!("path = \"{path}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
    }
}

#[test]
fn libraries_are_used_in_their_modules_only() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        for (library, modules) in LIBRARIES {
            if !modules.contains(&file.root()) && file.names(library) {
                wrong.push(format!("{}: {library} belongs to {}", file.name, modules.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_module_comment() {
    let files: Vec<File> =
        ["src", "tests", "fuzz/src", "fuzz/fuzz_targets"].into_iter().flat_map(sources).collect();
    assert!(files.len() > 40, "the files were not found");
    let silent = files.iter().filter(|file| !file.text.starts_with("//! ")).map(|file| &file.name);
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn no_file_exceeds_400_lines() {
    let source = sources("src").into_iter().map(|file| {
        let lines = file.without_tests().lines().count();
        (file.name, lines)
    });
    let tests = sources("tests").into_iter().map(|file| {
        let lines = file.text.lines().count();
        (file.name, lines)
    });
    let long: Vec<_> = source.chain(tests).filter(|(_, lines)| *lines > 400).collect();
    assert_eq!(long, []);
}

/// rustls panics at its first use if it finds two crypto providers.
#[test]
fn exactly_one_crypto_provider_is_locked() {
    let names = include_str!("../../Cargo.lock").lines();
    let names = names.filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let names: Vec<_> = names.collect();
    assert!(names.contains(&"ring") && names.contains(&"rustls"), "{names:?}");
    for other in ["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"] {
        assert!(!names.contains(&other), "{other}");
    }
}

/// It would make rustup fetch another toolchain: `rust-version` in Cargo.toml states what is needed.
#[test]
fn no_file_pins_a_toolchain() {
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

/// The search for cycles: what is one, and what is not.
#[test]
fn cycles_are_found_through_reexports_and_groups() {
    let found = |sources: &[(&[&str], &str)]| {
        let files: Vec<_> = sources
            .iter()
            .map(|(module, text)| File {
                name: String::new(),
                module: module.iter().map(|&part| part.to_owned()).collect(),
                text: (*text).to_owned(),
            })
            .collect();
        circles(&files)
    };
    let circle = |parent: &str, modules: &[&str]| {
        vec![(
            parent.to_owned(),
            modules.iter().map(|&module| module.to_owned()).collect::<Vec<_>>(),
        )]
    };
    assert_eq!(found(&[(&["a"], "use crate::b::B;"), (&["b"], "use crate::c;"), (&["c"], "")]), []);
    assert_eq!(
        found(&[
            (&["a"], "use crate::b::B;"),
            (&["b"], "use crate::c;"),
            (&["c"], "use crate::a;")
        ]),
        circle("", &["a", "b", "c"])
    );
    // A name that the parent re-exports; and a nested file.
    let parent = (&["m"][..], "mod x;\npub(super) use self::x::{X, Other};\nfn own() {}");
    let x = (&["m", "x"][..], "fn f() { super::y::g() }");
    assert_eq!(found(&[parent, x, (&["m", "y"], "use super::X;")]), circle("m", &["x", "y"]));
    assert_eq!(
        found(&[parent, x, (&["m", "y", "z"], "use super::super::X;")]),
        circle("m", &["x", "y"])
    );
    // The parent's own items, and what only a unit test uses.
    assert_eq!(found(&[parent, x, (&["m", "y"], "use super::own;")]), []);
    assert_eq!(
        found(&[parent, x, (&["m", "y"], "#[cfg(test)]\nmod tests {\n use super::super::X;\n}")]),
        []
    );
}
