//! `[server.tls]`: what is wrong with each file, told without what is in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{HAOKA, problems_in};
use crate::authority::Authority;

const PEM: &str = "holds no certificate in PEM";

/// The lines of `[server.tls]`, and the key that is wrong with what is told of it.
const TABLE: &[(&str, Option<(&str, &str)>)] = &[
    ("cert_file = \"tls.crt\"\nkey_file = \"tls.key\"", None),
    ("cert_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"", None),
    ("cert_file = \"tls.crt\"", Some(("key_file", "is missing"))),
    ("key_file = \"tls.key\"", Some(("cert_file", "is missing"))),
    ("cert_file = 5\nkey_file = \"tls.key\"", Some(("cert_file", "must be a text"))),
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
fn each_file_must_be_what_it_is_for() {
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
        // With TLS any address will do.
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

/// A key of this kind with a certificate of its own, made by openssl.
fn made_by_openssl(folder: &Path, kind: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(["req", "-x509", "-nodes", "-subj", "/CN=localhost"]);
    openssl.args(["-keyout", "tls.key", "-out", "tls.crt", "-newkey"]).args(kind);
    assert!(openssl.output().unwrap().status.success(), "{kind:?}");
}

#[test]
fn a_key_that_cannot_be_used_is_blamed_itself_with_what_can_be() {
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
