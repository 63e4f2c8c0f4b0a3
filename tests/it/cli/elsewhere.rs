//! `check` reports what `serve` would fail with; with `--root` it checks the configuration of another
//! machine.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::authority::Authority;
use crate::support::child::{Child, command, run, with_listeners, write};

/// The required account, at a vendor over plain HTTP.
const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n\
                     base_url = \"http://127.0.0.1:1\"\n";

#[test]
fn check_and_serve_refuse_a_store_file_that_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("file"), "").unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
    let closed = folder.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    // Permissions do not apply to root.
    let refused = File::create(closed.join("try")).is_err();
    let closed = [("closed/orders.redb", "cannot be created")];
    for (path, told) in [
        ("missing/orders.redb", "is in a folder that does not exist; create it"),
        ("folder", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("file/orders.redb", "cannot be opened"),
    ]
    .into_iter()
    .chain(closed.into_iter().filter(|_| refused))
    {
        let config = with_listeners(&format!("store.url = \"file:{path}\"\n{HAOKA}"));
        let config = write(&directory, &config);
        for arguments in [&["check"][..], &["check", "--live"], &["serve"]] {
            let ended = run([arguments, &["--config", &config]].concat());
            assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""), "{ended:?}");
            let begin = format!("\nstore.url: the store file {}/{path} ", folder.display());
            assert!(ended.err.contains(&begin) && ended.err.contains(told), "{}", ended.err);
        }
    }
    assert!(!folder.join("missing").exists());
}

#[test]
fn check_creates_no_store_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = write(&directory, &format!("store.url = \"file:orders.redb\"\n{HAOKA}"));
    assert_eq!(run(["check", "--config", &config]).code, Some(0));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the configuration alone");
}

#[test]
fn a_collector_over_tls_needs_system_authorities_or_a_ca_file() {
    let directory = tempfile::tempdir().unwrap();
    let lines = format!("telemetry.otlp_endpoint = \"https://h\"\n{HAOKA}");
    let config = write(&directory, &with_listeners(&lines));
    fs::create_dir(directory.path().join("none")).unwrap();
    fs::write(directory.path().join("empty"), "").unwrap();
    for subcommand in ["check", "serve"] {
        let mut command = command([subcommand, "--config", &config]);
        command.env("SSL_CERT_FILE", directory.path().join("empty"));
        command.env("SSL_CERT_DIR", directory.path().join("none"));
        let ended = Child::start(command).end();
        assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""), "{ended:?}");
        let told =
            "\ntelemetry.otlp_endpoint: cannot be verified: the system has no trusted authorities";
        assert!(ended.err.contains(told), "{}", ended.err);
    }
}

#[test]
fn check_resolves_paths_below_root() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let etc = root.join("etc/order-query-of-a-test");
    fs::create_dir_all(&etc).unwrap();
    let authority = Authority::new();
    authority.issue(&["localhost"]).write(&etc);
    fs::write(etc.join("ca.crt"), &authority.pem).unwrap();
    fs::write(etc.join("secret"), "word\n").unwrap();
    fs::write(etc.join("url"), "file:/var/lib/order-query-of-a-test/orders.redb\n").unwrap();
    // A relative path is relative to the configuration's own folder, as without a root.
    fs::write(directory.path().join("beside"), "word\n").unwrap();
    let config = "[server]\nlisten = \"0.0.0.0:1\"\n\
         [server.tls]\ncert_file = \"/etc/X/tls.crt\"\nkey_file = \"/etc/X/tls.key\"\n\
         client_ca_file = \"/etc/X/ca.crt\"\n\
         [store]\nurl = { file = \"/etc/X/url\" }\n\
         [telemetry]\notlp_endpoint = \"https://h\"\notlp_ca_file = \"/etc/X/ca.crt\"\n\
         [accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\n\
         secret = { file = \"/etc/X/secret\" }\nca_file = \"/etc/X/ca.crt\"\n\
         [accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"https://vending.example\"\n\
         app_id = \"ds\"\napp_key = \"k\"\napp_secret = { file = \"beside\" }\n";
    let config = write(&directory, &config.replace("/X/", "/order-query-of-a-test/"));
    let root = root.to_str().unwrap();
    let checked = run(["check", "--config", &config, "--root", root]);
    let fine = "the configuration is valid; accounts: 2\n";
    assert_eq!((checked.code, checked.out.as_str()), (Some(0), fine), "{checked:?}");

    let without = run(["check", "--config", &config]);
    assert_eq!(without.code, Some(78), "{without:?}");
    fs::remove_file(etc.join("tls.key")).unwrap();
    let lacking = run(["check", "--config", &config, "--root", root]);
    assert_eq!(lacking.code, Some(78), "{lacking:?}");
    let told = format!("server.tls.key_file: cannot open {}/tls.key: ", etc.display());
    assert!(lacking.err.contains(&told), "{}", lacking.err);
    // `--live` must run where the server runs, with its store.
    let live = run(["check", "--config", &config, "--root", root, "--live"]);
    assert_eq!((live.code, live.out.as_str()), (Some(2), ""), "{live:?}");
}
