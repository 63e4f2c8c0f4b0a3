//! PEM files as people make them: concatenated without a line break between them, and truncated.
//! Wherever one is read, it is read in full or refused with its path.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use order_query::pb::Provider;

use crate::server::tls::handshake;
use crate::support::Server;
use crate::support::authority::{self, Authority, BOTH, Pair, client};
use crate::support::child::{Child, Serving, command, run, write};
use crate::support::facts::{ANSWER, accounts};
use crate::support::mounted::Mounted;
use crate::support::played::answer;
use crate::support::secured::Secured;

const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

/// Both, as `cat` concatenates them when the first has no trailing line break.
pub fn glued(first: &str, second: &str) -> String {
    format!("{}{second}", first.trim_end())
}

/// A configuration that uses this file for every setting that holds certificates.
fn everywhere(file: &str, key: &str) -> String {
    format!(
        "[server.tls]\ncert_file = \"{file}\"\nkey_file = \"{key}\"\nclient_ca_file = \"{file}\"\n\
         [telemetry]\notlp_endpoint = \"https://h\"\notlp_ca_file = \"{file}\"\n\
         {HAOKA}ca_file = \"{file}\"\n"
    )
}

#[test]
fn a_truncated_pem_file_is_refused_with_its_path_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(&["localhost"]).write(directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (torn, key) = (path("torn"), path("tls.key"));
    let whole = &authority.pem;
    let cut = &whole[..whole.len() - 10];
    for content in [glued(whole, cut), format!("{whole}{cut}"), cut.to_owned(), String::new()] {
        fs::write(&torn, &content).unwrap();
        let config = write(&directory, &everywhere(&torn, &key));
        for subcommand in ["check", "serve"] {
            let ended = run([subcommand, "--config", &config]);
            assert_eq!(ended.code, Some(78), "{ended:?}");
            for setting in [
                "server.tls.cert_file",
                "server.tls.client_ca_file",
                "telemetry.otlp_ca_file",
                "accounts.cards.ca_file",
            ] {
                let told = format!("\n{setting}: {torn} ");
                assert!(ended.err.contains(&told), "{setting}: {}", ended.err);
            }
        }
        for asks in [&["get", "haoka", "x"][..], &["watch", "haoka", "x"], &["health"]] {
            for (argument, more) in [
                ("--ca-file", [""; 0].as_slice()),
                ("--cert-file", &["--key-file", &key]),
                ("--key-file", &["--cert-file", &path("tls.crt")]),
            ] {
                // No connection is made.
                let endpoint = ["--endpoint", "https://localhost:1", argument, &torn];
                let ended = run([asks, &endpoint, more].concat());
                assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
                let told = format!("error: {argument}: {torn} ");
                assert!(ended.err.starts_with(&told), "{}", ended.err);
            }
        }
    }
}

#[test]
fn a_concatenated_pem_file_is_read_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    pair.write(directory.path());
    let file = directory.path().join("chain").display().to_string();
    fs::write(&file, glued(&pair.certificate, &authority.pem)).unwrap();
    let key = directory.path().join("tls.key").display().to_string();
    let ended = run(["check", "--config", &write(&directory, &everywhere(&file, &key))]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
}

/// Whether the server accepts a caller with a certificate of this authority.
async fn accepts(server: &Serving, trusted: &str, callers: &Authority) -> bool {
    let pair = callers.issue(&["caller.example"]);
    let config = Arc::new(client(trusted, BOTH, Some(&pair)));
    handshake(server, &config).await.is_ok()
}

/// The files of a server: its own, and its callers' authorities.
fn with_authorities<'a>(pair: &'a Pair, authorities: &'a str) -> [(&'static str, &'a str); 3] {
    [("tls.crt", &pair.certificate), ("tls.key", &pair.key), ("ca.crt", authorities)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_both_authorities_are_accepted_at_start_and_after_a_reload() {
    let [old, new, newest] = [(); 3].map(|()| Authority::new());
    let pair = old.issue(&["localhost"]);
    let files = |authorities| with_authorities(&pair, authorities);
    let both = glued(&old.pem, &new.pem);
    let mounted = Mounted::new(&files(&both));
    let settings = authority::settings_of(mounted.folder(), true);
    let mut server = Serving::start(&format!("{settings}{HAOKA}"));
    for (callers, let_in) in [(&old, true), (&new, true), (&newest, false)] {
        assert_eq!(accepts(&server, &old.pem, callers).await, let_in);
    }
    let later = glued(&new.pem, &newest.pem);
    mounted.swap(&files(&later));
    server.child.err.with("reloaded");
    for (callers, let_in) in [(&old, false), (&new, true), (&newest, true)] {
        assert_eq!(accepts(&server, &old.pem, callers).await, let_in);
    }
    let torn = glued(&old.pem, &new.pem[..new.pem.len() / 2]);
    mounted.swap(&files(&torn));
    let line = server.child.err.with("reload failed");
    assert!(line.contains("client_ca_file: ") && line.contains("ca.crt is incomplete"), "{line}");
    assert!(accepts(&server, &old.pem, &newest).await, "the old file is used on");
}

#[tokio::test]
async fn a_vendor_of_either_authority_is_trusted() {
    let [other, authority] = [(); 2].map(|()| Authority::new());
    let pair = authority.issue(&["127.0.0.1"]);
    let secured = Secured::showing(&authority, &pair, || answer(200, ANSWER.as_str())).await;
    fs::write(secured.ca_path(), glued(&other.pem, &authority.pem)).unwrap();
    let server = Server::start(&accounts(&secured.url(), &secured.ca_file())).await;
    for provider in Provider::all() {
        server.order(provider, "54").await.unwrap();
    }
}

/// Without its second certificate, the chain leads to no authority that the other side trusts.
fn chained(folder: &Path, root: &Authority, names: &[&str]) {
    let between = root.subordinate();
    let pair = between.issue(names);
    fs::write(folder.join("tls.crt"), glued(&pair.certificate, &between.pem)).unwrap();
    fs::write(folder.join("tls.key"), pair.key).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_read_whole_files_and_the_server_presents_its_full_chain() {
    let [other, authority] = [(); 2].map(|()| Authority::new());
    let [servers, own] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    chained(servers.path(), &authority, &["localhost"]);
    chained(own.path(), &authority, &["caller.example"]);
    let settings = authority::settings(servers.path(), Some(&authority));
    let server = Serving::start(&format!("{settings}{HAOKA}"));
    let file = |name: &str| own.path().join(name).display().to_string();
    fs::write(file("ca.crt"), glued(&other.pem, &authority.pem)).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    for (asks, told) in [
        (&["get", "wechat", "x"][..], "PROVIDER_NOT_CONFIGURED"),
        (&["watch", "wechat", "x"], "PROVIDER_NOT_CONFIGURED"),
        (&["health"], ""),
    ] {
        let mut command = command(asks);
        command.args(["--endpoint", &url, "--ca-file", &file("ca.crt")]);
        command.args(["--cert-file", &file("tls.crt"), "--key-file", &file("tls.key")]);
        let ended = tokio::task::spawn_blocking(|| Child::start(command).end()).await.unwrap();
        assert!(ended.err.contains(told), "{ended:?}");
        assert_eq!(ended.code, Some(i32::from(!told.is_empty())), "{ended:?}");
    }
}
