//! A configuration with a mistake at the position of a secret.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use super::{HAOKA_SECRET, SECRETS, assert_none, found};
use crate::support::child::{Child, command, write};

/// Runs `check` and `serve` with these lines for a Haoka account. Both must reject them,
/// at the path and without the secret. Returns their output.
fn refused(lines: &str, path: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    fs::write(folder.join("two-lines"), format!("{HAOKA_SECRET}\n{HAOKA_SECRET}\n")).unwrap();
    fs::write(folder.join("bytes"), [HAOKA_SECRET.as_bytes(), b"\xff"].concat()).unwrap();
    fs::write(folder.join("too-large"), HAOKA_SECRET.repeat(4000)).unwrap();
    let config = format!("[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\n{lines}\n");
    let config = write(&directory, &config);
    let mut said = String::new();
    for subcommand in ["check", "serve"] {
        let mut command = command([subcommand, "--config", &config]);
        command.env("ORDER_QUERY_TEST_LINES", format!("{HAOKA_SECRET}\n{HAOKA_SECRET}"));
        let bytes = [OsString::from(HAOKA_SECRET).as_bytes(), b"\xff"].concat();
        command.env("ORDER_QUERY_TEST_BYTES", OsString::from_vec(bytes));
        let ended = Child::start(command).end();
        assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""), "{lines}\n{ended:?}");
        assert!(ended.err.contains(&format!("\n{path}: ")), "{lines}\n{}", ended.err);
        assert_none(&SECRETS, &ended.err);
        said += &ended.err;
    }
    said
}

#[test]
fn a_line_that_is_not_toml_is_not_shown() {
    for line in [
        format!("secret = {HAOKA_SECRET}"),
        format!("secret = \"{HAOKA_SECRET}"),
        format!("secret = '{HAOKA_SECRET}\""),
        format!("secret = \"{HAOKA_SECRET}\" \"{HAOKA_SECRET}\""),
        format!("secret = \"\\q{HAOKA_SECRET}\""),
        format!("secret = {{ env = \"{HAOKA_SECRET}\""),
        format!("secret == \"{HAOKA_SECRET}\""),
        format!("secret \"{HAOKA_SECRET}\""),
        format!("secret = \"\"\"{HAOKA_SECRET}"),
        format!("secret = \"{HAOKA_SECRET}\"\nsecret = \"{HAOKA_SECRET}\""),
        format!("secret = \"{HAOKA_SECRET}\"; body = \"json\""),
        format!("secret: {HAOKA_SECRET}"),
        format!("export SECRET={HAOKA_SECRET} x"),
        HAOKA_SECRET.to_owned(),
    ] {
        let further = line.contains("\nsecret") || line.contains("\"\"\"");
        let line_number = if further { 5 } else { 4 };
        let said = refused(&line, &format!("line {line_number}"));
        assert!(said.contains("is not valid TOML: "), "{said}");
    }
}

#[test]
fn a_secret_of_the_wrong_kind_is_not_shown() {
    for value in [
        format!("[\"{HAOKA_SECRET}\"]"),
        format!("{{ plain = \"{HAOKA_SECRET}\" }}"),
        format!("{{ env = [\"{HAOKA_SECRET}\"] }}"),
        format!("{{ env = \"{HAOKA_SECRET}\" }}"),
        format!("{{ env = \"{HAOKA_SECRET}\", file = \"{HAOKA_SECRET}\" }}"),
        format!("\"{HAOKA_SECRET}\\n\""),
        "{ env = \"ORDER_QUERY_TEST_LINES\" }".to_owned(),
        "{ env = \"ORDER_QUERY_TEST_BYTES\" }".to_owned(),
        "{ file = \"two-lines\" }".to_owned(),
        "{ file = \"bytes\" }".to_owned(),
        "{ file = \"too-large\" }".to_owned(),
    ] {
        refused(&format!("secret = {value}"), "accounts.cards.secret");
    }
}

#[test]
fn a_secret_in_a_wrong_place_is_not_shown() {
    for (key, value) in [
        ("base_url", format!("https://someone:{HAOKA_SECRET}@vendor.example")),
        ("base_url", format!("https://vendor.example/?key={HAOKA_SECRET}")),
        ("base_url", format!("http://{HAOKA_SECRET}.example")),
        ("base_url", HAOKA_SECRET.to_owned()),
        ("proxy", format!("socks5://someone:{HAOKA_SECRET}@egress:1080")),
        ("proxy", format!("http://someone:{HAOKA_SECRET}@")),
        ("body", HAOKA_SECRET.to_owned()),
        ("timeout", HAOKA_SECRET.to_owned()),
        ("default", HAOKA_SECRET.to_owned()),
        ("app_secret", HAOKA_SECRET.to_owned()),
    ] {
        let lines = format!("secret = \"s\"\n{key} = \"{value}\"");
        refused(&lines, &format!("accounts.cards.{key}"));
    }
}

/// The control: text that may be shown is found.
#[test]
fn a_mistake_is_reported_by_its_key() {
    let said = refused("secret = \"s\"\ncolour = \"red\"", "accounts.cards.colour");
    assert_eq!(found(&["colour", "red"], &said), ["colour"]);
}
