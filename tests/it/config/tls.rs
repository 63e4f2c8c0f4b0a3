//! `[server.tls]`: mistakes in each file, reported without its content.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use order_query::clock::{Clock, ManualClock};
use order_query::config::{Look, Section};
use order_query::server::Tls;
use order_query::telemetry::metrics::Metrics;

use super::{HAOKA, problems_in};
use crate::support::authority::{self, Authority};
use crate::support::child::{Serving, run, write};
use crate::support::log::Log;

const PEM: &str = "holds no certificate in PEM";

/// The lines of `[server.tls]`, the key that is wrong, and the report.
const TABLE: &[(&str, Option<(&str, &str)>)] = &[
    ("cert_file = \"tls.crt\"\nkey_file = \"tls.key\"", None),
    ("cert_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"", None),
    ("cert_file = \"tls.crt\"", Some(("key_file", "is missing"))),
    ("key_file = \"tls.key\"", Some(("cert_file", "is missing"))),
    ("cert_file = 5\nkey_file = \"tls.key\"", Some(("cert_file", "must be a string"))),
    ("cert_file = \"none\"\nkey_file = \"tls.key\"", Some(("cert_file", "cannot open"))),
    ("cert_file = \"large\"\nkey_file = \"tls.key\"", Some(("cert_file", "is larger than"))),
    ("cert_file = \"empty\"\nkey_file = \"tls.key\"", Some(("cert_file", PEM))),
    ("cert_file = \"text\"\nkey_file = \"tls.key\"", Some(("cert_file", PEM))),
    ("cert_file = \"broken.crt\"\nkey_file = \"tls.key\"", Some(("cert_file", "cannot be used"))),
    (
        "cert_file = \"tls.crt\"\nkey_file = \"tls.crt\"",
        Some(("key_file", "no unencrypted private key")),
    ),
    (
        "cert_file = \"tls.crt\"\nkey_file = \"text\"",
        Some(("key_file", "no unencrypted private key")),
    ),
    (
        "cert_file = \"tls.crt\"\nkey_file = \"other.key\"",
        Some(("key_file", "is not the key of cert_file")),
    ),
    (
        "cert_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"text\"",
        Some(("client_ca_file", PEM)),
    ),
    (
        "cert_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"broken.crt\"",
        Some(("client_ca_file", "cannot be used")),
    ),
    (
        "cert_file = \"tls.crt\"\nkey_file = \"tls.key\"\nca_file = \"ca.crt\"",
        Some(("ca_file", "is not a setting")),
    ),
];

#[test]
fn each_tls_file_must_have_the_right_content() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new().issue(&["localhost"]));
    let pair = authority.issue(&["localhost"]);
    pair.write(directory.path());
    for (name, text) in [
        ("ca.crt", authority.pem.as_str()),
        ("other.key", &other.key),
        ("empty", ""),
        ("text", "s3cret"),
        ("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    fs::write(directory.path().join("large"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
    for (tls, expected) in TABLE {
        // With TLS any address is allowed.
        let config = format!("[server]\nlisten = \"0.0.0.0:1\"\n[server.tls]\n{tls}\n{HAOKA}");
        let problems = problems_in(directory.path(), &config);
        let told: Vec<_> =
            problems.iter().map(|problem| (problem.path.as_str(), problem.text.as_str())).collect();
        match (expected, told.as_slice()) {
            (None, []) => {}
            (Some((key, expected)), [(path, text)]) => {
                assert_eq!(*path, format!("server.tls.{key}"), "{tls}");
                assert!(text.contains(expected), "{tls}: {text}");
                assert!(!text.contains("s3cret"), "{text}");
            }
            _ => panic!("{tls}: {told:?}"),
        }
    }
}

/// A key of this kind with its own certificate, created by openssl.
fn made_by_openssl(folder: &Path, kind: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(["req", "-x509", "-nodes", "-subj", "/CN=localhost"]);
    openssl.args(["-keyout", "tls.key", "-out", "tls.crt", "-newkey"]).args(kind);
    assert!(openssl.output().unwrap().status.success(), "{kind:?}");
}

#[test]
fn an_unsupported_key_is_reported_with_the_supported_kinds() {
    let directory = tempfile::tempdir().unwrap();
    let tls = "[server.tls]\ncert_file = \"tls.crt\"\nkey_file = \"tls.key\"\n";
    for (kind, is_fine) in [
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..], true),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], true),
        (&["ed25519"], true),
        (&["rsa:2048"], true),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], false),
        (&["rsa:1024"], false),
        (&["ed448"], false),
    ] {
        made_by_openssl(directory.path(), kind);
        let problems = problems_in(directory.path(), &format!("{tls}{HAOKA}"));
        match problems.as_slice() {
            [] => assert!(is_fine, "{kind:?}"),
            [problem] => {
                assert!(!is_fine, "{kind:?}: {problem:?}");
                assert_eq!(problem.path, "server.tls.key_file", "{kind:?}");
                assert!(problem.text.contains("P-256 or P-384"), "{kind:?}: {problem:?}");
            }
            _ => panic!("{kind:?}: {problems:?}"),
        }
    }
}

#[test]
fn tls_must_be_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let config = format!("server.tls = true\n{HAOKA}");
    let problems = problems_in(directory.path(), &config);
    assert_eq!(problems[0].path, "server.tls");
    assert_eq!(problems[0].text, "must be a table");
}

/// It may be valid by the time callers see it, or they may not check: the server starts anyway.
#[test]
fn an_expired_or_future_certificate_is_a_warning_at_start_and_on_reload() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (good, expired, early) = ([2025, 2035], [2020, 2025], [2035, 2045]);
    let has_expired = "holds a certificate that has expired (2025-01-01T00:00:00Z)";
    let is_early = "holds a certificate that is not valid yet (2035-01-01T00:00:00Z)";
    let write = |[first, second]: [[i32; 2]; 2]| {
        let mut pair = authority.issue_between(&["localhost"], first);
        pair.certificate += &authority.issue_between(&["between"], second).certificate;
        pair.write(directory.path());
    };
    let year = "2030-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(year.try_into().unwrap()));
    for (chain, told) in [
        ([good, good], None),
        ([expired, good], Some(has_expired)),
        ([good, expired], Some(has_expired)),
        ([early, good], Some(is_early)),
        ([good, early], Some(is_early)),
    ] {
        let read = || {
            let text = "cert_file = \"tls.crt\"\nkey_file = \"tls.key\"";
            let section = Section::parse(text, directory.path()).unwrap();
            let place = section.place();
            assert!(
                Tls::read(section, &clock, &Metrics::default()).is_some(),
                "{:?}",
                place.problems()
            );
            place
        };
        write(chain);
        let warnings = read().warnings();
        let warned = warnings.first().map(|warning| (warning.path.as_str(), warning.text.as_str()));
        assert_eq!(
            (warnings.len(), warned.is_some()),
            (usize::from(told.is_some()), told.is_some())
        );
        let is_mapped = |(path, text): (&str, &str)| {
            path == "cert_file" && told.is_some_and(|told| text.starts_with(told))
        };
        assert!(warned.is_none_or(is_mapped), "{warned:?}");

        write([good, good]);
        let place = read();
        write(chain);
        let log = Log::start();
        let mut reload = place.reloads().remove(0);
        let looks = [reload.check(), reload.check()];
        assert_eq!(looks, [Look::Changing, Look::Changed(Ok(()))]);
        assert_eq!(log.text().contains("WARN"), told.is_some(), "{}", log.text());
        assert!(log.text().contains(told.unwrap_or_default()), "{}", log.text());
    }
}

#[test]
fn check_and_serve_warn_of_an_expired_certificate() {
    let directory = tempfile::tempdir().unwrap();
    Authority::new().issue_between(&["localhost"], [2020, 2021]).write(directory.path());
    let config = format!("{HAOKA}{}", authority::settings(directory.path(), None));
    let told = "server.tls.cert_file: holds a certificate that has expired (2021-01-01T00:00:00Z)";
    let folder = tempfile::tempdir().unwrap();
    let checked = run(["check", "--config", &write(&folder, &config)]);
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""));
    assert!(checked.out.starts_with(&format!("warning: {told}")), "{}", checked.out);
    let log = Serving::start(&config).stop().err;
    let line = log.lines().find(|line| line.contains(told)).expect(&log);
    assert!(line.contains("\"level\":\"WARN\""), "{line}");
}
