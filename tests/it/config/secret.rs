//! Secrets from a file and as plain text, and what is refused. Those from the environment are in
//! `cli/settings.rs`, where each test has its own environment.

use std::fs;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use super::{DINGSHANG, HAOKA, WECHAT, problems_in, read_in};
use crate::support::Server;
use crate::support::child::PATIENCE;
use crate::support::played::{Played, answer};
use order_query::config::{Look, Section};
use order_query::pb::Provider;

/// The secret as the vendor receives it. `user_id` does not show it, a signature is hard to read;
/// WeChat sends its secret as it is.
async fn sent(secret: &str, directory: &std::path::Path) -> String {
    let vendor = Played::start(|_| async { answer(200, "{\"errcode\":40125}") }).await;
    let config = format!(
        "[accounts.market]\nprovider = \"wechat\"\nbase_url = \"{}\"\napp_id = \"wx\"\n\
         app_secret = {}\n",
        vendor.url(),
        secret.replace("DIR", directory.to_str().unwrap())
    );
    let server = Server::start(&config).await;
    server.order(Provider::Wechat, "DD1").await.unwrap_err();
    let asked = vendor.asked();
    let body: serde_json::Value = serde_json::from_slice(&asked[0].body).unwrap();
    body["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_trailing_line_break_of_a_secret_file_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    for (content, secret) in [
        ("word", "word"),
        ("word\n", "word"),
        ("word\r\n", "word"),
        (" word ", " word "),
        ("w\"o\\rd密", "w\"o\\rd密"),
    ] {
        fs::write(directory.path().join("secret"), content).unwrap();
        assert_eq!(sent("{ file = \"DIR/secret\" }", directory.path()).await, secret);
    }
    assert_eq!(sent("\"plain word\"", directory.path()).await, "plain word");
}

#[test]
fn a_file_without_a_secret_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("right"), "word\n").unwrap();
    fs::write(path.join("largest"), "x".repeat(64 * 1024)).unwrap();
    fs::write(path.join("too-large"), "x".repeat(64 * 1024 + 1)).unwrap();
    fs::write(path.join("empty"), "").unwrap();
    fs::write(path.join("newline"), "\n").unwrap();
    fs::write(path.join("blank"), "  \n").unwrap();
    fs::write(path.join("two-newlines"), "word\n\n").unwrap();
    fs::write(path.join("two-lines"), "a\nb").unwrap();
    fs::write(path.join("bytes"), b"word\xff").unwrap();
    fs::create_dir(path.join("directory")).unwrap();
    for (file, problem) in [
        ("right", None),
        ("largest", None),
        ("too-large", Some("is larger than 65536 bytes")),
        ("empty", Some("is empty")),
        ("newline", Some("is empty")),
        ("blank", Some("is empty")),
        ("two-newlines", Some("control character")),
        ("two-lines", Some("control character")),
        ("bytes", Some("UTF-8")),
        ("directory", Some("irectory")),
        ("missing", Some("cannot open ")),
    ] {
        // Paths are relative to the configuration's own folder.
        let config = HAOKA.replace("\"s\"", &format!("{{ file = \"{file}\" }}"));
        let problems = problems_in(path, &config);
        match problem {
            None => assert_eq!(problems, [], "{file}"),
            Some(told) => {
                assert_eq!(problems.len(), 1, "{file}: {problems:?}");
                assert_eq!(problems[0].path, "accounts.cards.secret");
                assert!(problems[0].text.contains(told), "{file}: {problems:?}");
            }
        }
    }
}

#[test]
fn invisible_characters_in_a_secret_are_a_warning_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (mark, width, space) = ("byte order mark", "zero-width", "begins or ends with a space");
    for (content, told) in [
        ("word", None),
        ("a word", None),
        ("wörd密", None),
        ("\u{feff}word", Some(mark)),
        ("wo\u{feff}rd", Some(width)),
        ("word\u{200b}", Some(width)),
        ("wo\u{200d}rd", Some(width)),
        ("\u{2060}word", Some(width)),
        ("wo\u{ad}rd", Some(width)),
        ("\u{202e}word", Some(width)),
        ("word ", Some(space)),
        (" word\n", Some(space)),
        ("word\u{a0}", Some(space)),
        ("word\u{3000}", Some(space)),
    ] {
        fs::write(directory.path().join("secret"), content).unwrap();
        let plain = serde_json::to_string(content.trim_end_matches('\n')).unwrap();
        for (account, path) in [
            (WECHAT.replace("\"s\"", "{ file = \"secret\" }"), "accounts.market.app_secret"),
            (WECHAT.replace("\"s\"", &plain), "accounts.market.app_secret"),
            (DINGSHANG.replace("\"k\"", "{ file = \"secret\" }"), "accounts.vending.app_key"),
            (HAOKA.replace("\"s\"", "{ file = \"secret\" }"), "accounts.cards.secret"),
        ] {
            let setup = read_in(directory.path(), &account).ok().unwrap();
            let told = told.map(|told| (path, told));
            let warned: Vec<_> =
                setup.warnings.iter().map(|it| (it.path.as_str(), it.text.as_str())).collect();
            match (told, warned.as_slice()) {
                (None, []) => {}
                (Some((path, told)), [(warned_path, text)]) => {
                    assert_eq!(*warned_path, path);
                    assert!(text.contains(told) && !text.contains("word"), "{content:?}: {text}");
                }
                _ => panic!("{content:?}: {warned:?}"),
            }
        }
    }
    let lines = format!("store.url = \"redis://:wo\u{200b}rd@h:6379/0\"\n{HAOKA}");
    let setup = read_in(directory.path(), &lines).ok().unwrap();
    assert_eq!(setup.warnings[0].path, "store.url");
}

#[test]
fn a_secret_has_exactly_three_forms() {
    let directory = tempfile::tempdir().unwrap();
    for value in [
        "{ env = \"PATH\", file = \"x\" }",
        "{ env = 1 }",
        "{ file = [] }",
        "{ vault = \"x\" }",
        "{ }",
        "1",
        "1.5",
        "true",
        "[\"s\"]",
        "2026-01-01",
    ] {
        let problems = problems_in(directory.path(), &HAOKA.replace("\"s\"", value));
        assert_eq!(problems.len(), 1, "{value}");
        assert!(problems[0].text.starts_with("must be a secret: "), "{problems:?}");
    }
    // Set on every machine.
    assert_eq!(problems_in(directory.path(), &HAOKA.replace("\"s\"", "{ env = \"PATH\" }")), []);
}

/// Reading a pipe blocks until something writes to it, and would block all other rotated files.
#[test]
fn a_pipe_instead_of_a_secret_file_is_invalid_and_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, "word").unwrap();
    let text = "token = { file = \"secret\" }";
    let mut section = Section::parse(text, directory.path()).unwrap();
    section.secret_into("token", |_| Ok(())).unwrap();
    let mut reload = section.reloads().remove(0);
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let checks = [reload.check(), reload.check(), reload.check()];
        tell.send(checks).unwrap();
    });
    let [first, second, third] = told.recv_timeout(PATIENCE).expect("the pipe is waited for");
    let Look::Changed(Err(problem)) = second else { panic!("{second:?}") };
    assert!(problem.ends_with("secret is not a regular file"), "{problem}");
    assert_eq!([first, third], [Look::Changing, Look::Same], "it is told once");
}
