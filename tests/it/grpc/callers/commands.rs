//! The commands as callers: with a token, and over TLS.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use super::{AUDIT, BILLING, two_clients};
use crate::support::authority::{self, Authority};
use crate::support::child::{Child, Ended, Serving, command};

/// The real binary over its sandbox vendors, with two clients.
fn serving() -> Serving {
    Serving::start_with(&two_clients(), |command| {
        command.arg("--dev");
    })
}

/// Runs the command with these arguments and a token in the environment.
async fn asks(arguments: &[&str], token: Option<impl AsRef<OsStr>>) -> Ended {
    let mut command = command(arguments);
    command.env_remove("ORDER_QUERY_TOKEN");
    if let Some(token) = token {
        command.env("ORDER_QUERY_TOKEN", token);
    }
    tokio::task::spawn_blocking(|| Child::start(command).end()).await.unwrap()
}

#[tokio::test]
async fn get_and_watch_send_the_token() {
    let server = serving();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let [right, wrong, empty, odd] = [
        file("right", &format!("{BILLING}\n")),
        file("wrong", "token-of-nobody-0001"),
        file("empty", "\n"),
        file("odd", "tökén-of-nobody-0001"),
    ];
    let unknown = "error: CALLER_UNAUTHENTICATED: this server does not recognize the caller;";
    for (file, environment, refused) in [
        (Some(&right), None, None),
        (None, Some(AUDIT), None),
        // The argument overrides the environment.
        (Some(&right), Some("token-of-nobody-0001"), None),
        (Some(&wrong), Some(AUDIT), Some(unknown)),
        (None, Some("token-of-nobody-0001"), Some(unknown)),
        (None, Some(""), Some(unknown)),
        (None, None, Some(unknown)),
        (Some(&empty), None, Some("error: --token-file: ")),
        (Some(&"no-such-file".to_owned()), None, Some("error: --token-file: cannot open no-such")),
        (Some(&odd), None, Some(unknown)),
        (None, Some("two\nlines-of-a-token"), Some("error: the token must be ASCII")),
    ] {
        for subcommand in ["get", "watch"] {
            let url = server.url();
            // Terminal, so that the watch ends.
            let mut arguments = vec![subcommand, "haoka", "settled", "--endpoint", &url];
            if let Some(file) = file {
                arguments.extend(["--token-file", file]);
            }
            let ended = asks(&arguments, environment).await;
            match refused {
                None => assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}"),
                Some(text) => {
                    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
                    assert!(ended.err.starts_with(text), "{}", ended.err);
                }
            }
        }
    }
}

/// An empty variable counts as unset, and an invalid one is reported.
#[tokio::test]
async fn a_token_in_the_environment_must_be_utf_8() {
    let server = serving();
    let token = OsStr::from_bytes(b"token-of-nobody-\xff");
    for subcommand in ["get", "watch"] {
        let arguments = [subcommand, "haoka", "settled", "--endpoint", &server.url()];
        let ended = asks(&arguments, Some(token)).await;
        assert_eq!(ended.err, "error: ORDER_QUERY_TOKEN is not UTF-8\n");
    }
}

#[tokio::test]
async fn commands_use_tls_and_present_a_certificate() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).write(folder.path());
    let settings = authority::settings(folder.path(), Some(&authority));
    let server = Serving::start_with(&format!("{}{settings}", two_clients()), |command| {
        command.arg("--dev");
    });
    let own = tempfile::tempdir().unwrap();
    authority.issue(&["client.example"]).write(own.path());
    let url = format!("https://localhost:{}", server.address.port());
    let [ca, cert, key] =
        [folder.path().join("ca.crt"), own.path().join("tls.crt"), own.path().join("tls.key")]
            .map(|file| file.display().to_string());
    let whole = ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    let numeric = format!("https://{}", server.address);
    for (subcommand, code) in [
        (&["get", "haoka", "settled"][..], 0),
        (&["watch", "haoka", "settled"], 0),
        (&["health"], 0),
    ] {
        for (endpoint, tls, code) in [
            (&url, &whole[..], Some(code)),
            // An untrusted or differently named server is not called; an unidentified caller is not accepted.
            (&url, &whole[2..], Some(1)),
            (&numeric, &whole[..], Some(1)),
            (&url, &whole[..2], Some(1)),
            (&server.url(), &whole[..2], Some(1)),
            (&url, &whole[2..4], Some(2)),
        ] {
            let arguments = [subcommand, &["--endpoint", endpoint], tls].concat();
            let ended = asks(&arguments, Some(AUDIT)).await;
            assert_eq!(ended.code, code, "{arguments:?} {ended:?}");
            assert_eq!(ended.out.is_empty(), code != Some(0), "{ended:?}");
        }
    }
}
