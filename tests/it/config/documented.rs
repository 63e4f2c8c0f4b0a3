//! The configurations in the documentation: `check` accepts those that are meant to be used, and
//! reports the mistakes of the wrong one as documented.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::authority::Authority;
use crate::support::child::{self, Child, Ended};

const README: &str = include_str!("../../../README.md");
const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const INSTALL: &str = include_str!("../../../docs/install.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// The blocks in that language under that heading of a document.
fn blocks(document: &'static str, heading: &str, language: &str) -> Vec<&'static str> {
    let (_, part) = document.split_once(&format!("{heading}\n")).expect(heading);
    let part = part.split("\n## ").next().unwrap();
    let begin = format!("```{language}\n");
    part.split(&begin).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// A folder with all files that the documents' configurations name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let authority = Authority::new();
    file("tls/ca.crt", &authority.pem);
    authority.issue(&["orders.internal"]).write(&folder.path().join("tls"));
    file("secrets/wechat", "invented");
    file("secrets/billing", "0123456789abcdef0123456789abcdef");
    file("secrets/billing-token", "fedcba9876543210fedcba9876543210");
    folder
}

/// Checks a configuration in that folder.
fn check(folder: &Path, name: &str, config: &str, change: impl FnOnce(&mut Command)) -> Ended {
    fs::write(folder.join(name), config).unwrap();
    let mut command = child::command(["check", "--config", name]);
    command.current_dir(folder);
    change(&mut command);
    Child::start(command).end()
}

#[test]
fn documented_configurations_are_accepted() {
    let folder = folder();
    let [accounts] = blocks(README, "## Configure", "toml")[..] else { panic!("one block") };
    let [exposed] = blocks(README, "## Expose it", "toml")[..] else { panic!("one block") };
    let [container] = blocks(INSTALL, "## Run it in a container", "toml")[..] else {
        panic!("one block")
    };
    let [clients] = blocks(CONFIGURATION, "## `[clients.NAME]`", "toml")[..] else {
        panic!("one block")
    };
    let [traces] = blocks(OPERATIONS, "## Traces", "toml")[..] else { panic!("one block") };
    let (tls, _) = exposed.split_once("[clients.").unwrap();
    let tls_and_clients = format!("{tls}{clients}");
    for (more, counted) in [
        ("", "accounts: 3"),
        (exposed, "accounts: 3, clients: 2"),
        (container, "accounts: 3"),
        (traces, "accounts: 3"),
        (&tls_and_clients, "accounts: 3, clients: 2"),
    ] {
        let ended = check(folder.path(), "config.toml", &format!("{accounts}{more}"), |command| {
            for name in ["DINGSHANG_APP_SECRET", "DINGSHANG_APP_KEY", "HAOKA_SECRET"] {
                command.env(name, "invented");
            }
            // The store's folder is not on this machine.
            command.args(["--root", "."]);
        });
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{more}");
        assert_eq!(ended.out, format!("the configuration is valid; {counted}\n"), "{more}");
    }
}

#[test]
fn the_documented_mistakes_are_reported_as_documented() {
    let heading = "# Configuration";
    let config = blocks(CONFIGURATION, heading, "toml");
    let shown = blocks(CONFIGURATION, heading, "console");
    let folder = folder();
    let ended = check(folder.path(), "bad.toml", config[0], |command| {
        command.env_remove("WECHAT_APP_SECRET");
    });
    let told = format!(
        "$ order-query check --config bad.toml\n{}{}$ echo $?\n{}\n",
        ended.out,
        ended.err,
        ended.code.unwrap()
    );
    assert_eq!(told, shown[0]);
}
