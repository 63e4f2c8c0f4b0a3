//! `check` and `serve` before serving: which configuration is read, and its mistakes.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Command;

use crate::support::child::{Child, Ended, LISTEN, Serving, command, run, write};

/// The required account.
const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

fn check(config: &str) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    run(["check", "--config", &write(&directory, config)])
}

#[test]
fn check_succeeds_with_warnings() {
    let checked = check(
        "[accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"https://vending.example\"\n\
         app_id = \"ds\"\napp_secret = \"s\"\n",
    );
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{checked:?}");
    assert_eq!(
        checked.out,
        "warning: accounts.vending.app_key: is not set, so requests to the vendor are unsigned\n\
         the configuration is valid; accounts: 1\n"
    );
}

#[test]
fn check_accepts_sentinels_and_hides_what_is_wrong_with_their_secrets() {
    let store = |url: &str| check(&format!("store.url = \"{url}\"\n{HAOKA}"));
    let accepted = store("redis-sentinel://u:p@a:1,b:1/m?db=1&sentinel_user=s&sentinel_password=t");
    assert_eq!((accepted.code, accepted.err.as_str()), (Some(0), ""), "{accepted:?}");
    let refused = store("redis-sentinel://u:hunter2@a/m?sentinel_pasword=hunter2");
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.err.contains("\nstore.url: must have no parameters but db, "), "{refused:?}");
    assert!(!refused.err.contains("hunter2"), "{refused:?}");
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_paths() {
    let config = r#"
        [server]
        listn = "127.0.0.1:0"
        request_timeout = "15 parsecs"

        [accounts.market]
        provider = "wechat"
        app_secret = { file = "no-such-file" }

        [accounts.vending]
        provider = "dingshang"
        base_url = "http://vending.example"
        app_id = "ds"
        app_secret = { env = "ORDER_QUERY_TEST_THAT_NOBODY_SETS" }
    "#;
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, config);
    for subcommand in ["check", "serve"] {
        let wrong = run([subcommand, "--config", &path]);
        assert_eq!((wrong.code, wrong.out.as_str()), (Some(78), ""), "{wrong:?}");
        let mut lines = wrong.err.lines();
        assert_eq!(lines.next(), Some("error: the configuration is invalid:"));
        let mut told: Vec<_> = lines.map(|line| line.split_once(": ").expect(line)).collect();
        told.sort_unstable();
        let expected = [
            ("accounts.market.app_id", "is missing; it must be a string"),
            ("accounts.market.app_secret", "cannot open "),
            ("accounts.vending.app_secret", "the environment variable ORDER_QUERY_TEST_THAT_"),
            ("accounts.vending.base_url", "must begin with https://"),
            ("server.listn", "is not a setting of this version"),
            ("server.request_timeout", "must be a duration such as"),
        ];
        assert_eq!(told.len(), expected.len(), "{}", wrong.err);
        for ((path, text), (expected_path, beginning)) in told.into_iter().zip(expected) {
            assert_eq!(path, expected_path);
            assert!(text.starts_with(beginning), "{path}: {text}");
        }
    }
}

#[test]
fn a_configuration_is_required_and_the_environment_can_name_it() {
    for subcommand in ["serve", "check"] {
        let missing = run([subcommand]);
        assert_eq!((missing.code, missing.out.as_str()), (Some(78), ""));
        assert!(missing.err.contains("--config: is missing"), "{}", missing.err);
        assert!(missing.err.contains("ORDER_QUERY_CONFIG"), "{}", missing.err);

        let absent = run([subcommand, "--config", "no-such-file.toml"]);
        assert_eq!(absent.code, Some(78));
        assert!(absent.err.contains("--config: cannot open no-such-file.toml"), "{}", absent.err);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, HAOKA);
    let mut named = command(["check"]);
    named.env("ORDER_QUERY_CONFIG", &path);
    assert_eq!(Child::start(named).end().code, Some(0));

    // The argument overrides the environment.
    let mut both = command(["check", "--config", &path]);
    both.env("ORDER_QUERY_CONFIG", "no-such-file.toml");
    assert_eq!(Child::start(both).end().code, Some(0));
}

/// Compose sets a variable without a value to the empty string: `${X:-}`.
#[test]
fn an_empty_environment_variable_counts_as_unset() {
    const OURS: [&str; 3] = ["ORDER_QUERY_CONFIG", "ORDER_QUERY_LOG", "ORDER_QUERY_TOKEN"];
    let run = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.envs(OURS.map(|name| (name, "")));
        Child::start(command).end()
    };
    for subcommand in ["serve", "check"] {
        let missing = run(&[subcommand]);
        assert_eq!((missing.code, missing.out.as_str()), (Some(78), ""), "{missing:?}");
        assert!(missing.err.contains("--config: is missing"), "{}", missing.err);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, HAOKA);
    assert_eq!(run(&["check", "--config", &path]).code, Some(0));

    // Startup reaches the port, which is in use: by this test or another process.
    let _taken = TcpListener::bind("127.0.0.1:50051");
    let dev = run(&["serve", "--dev"]);
    assert_eq!(dev.code, Some(1), "{dev:?}");
    assert!(dev.err.contains("error: cannot listen on 127.0.0.1:50051"), "{}", dev.err);

    let server = Serving::start_with("", |command| {
        command.arg("--dev").envs(OURS.map(|name| (name, "")));
    });
    let mut get = server.get_command(&["haoka", "settled"]);
    get.envs(OURS.map(|name| (name, "")));
    assert_eq!(Child::start(get).end().code, Some(0));
}

#[test]
fn a_port_in_use_is_reported_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (setting, other) in [("server.listen", "admin.listen"), ("admin.listen", "server.listen")] {
        let config = format!("{setting} = \"{address}\"\n{other} = \"127.0.0.1:0\"\n{HAOKA}");
        let failed = run(["serve", "--config", &write(&directory, &config)]);
        assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""));
        let last = failed.err.lines().last().unwrap();
        let text = format!("error: cannot listen on {address} ({setting}): ");
        assert!(last.starts_with(&text), "{last}");
    }
}

#[test]
fn dev_listens_on_loopback_only() {
    let directory = tempfile::tempdir().unwrap();
    let config = "server.listen = \"0.0.0.0:0\"\nserver.insecure = true\n\
                  admin.listen = \"127.0.0.1:0\"\n";
    let refused = run(["serve", "--dev", "--config", &write(&directory, config)]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(78), ""), "{refused:?}");
    assert!(refused.err.contains("server.listen: must be a loopback address with --dev"));
}

#[test]
fn dev_adds_its_accounts_to_those_of_the_configuration() {
    let server = Serving::start_with(HAOKA, |command| {
        command.arg("--dev");
    });
    let own = server.get(&["haoka", "x"]);
    assert!(own.err.contains("name one of cards, haoka-sandbox"), "{}", own.err);
    assert_eq!(server.get(&["haoka", "sample", "--account", "haoka-sandbox"]).code, Some(0));
}

#[test]
fn the_environment_overrides_the_log_level_of_the_file() {
    let quiet = format!("telemetry.log_level = \"error\"\n{HAOKA}");
    let server = Serving::start_with(&quiet, |command| {
        command.env("ORDER_QUERY_LOG", "warn, order_query=info");
    });
    let _ = server.get(&["wechat", "x"]);
    let ended = server.stop();
    assert!(ended.err.contains("PROVIDER_NOT_CONFIGURED"), "{}", ended.err);

    // An empty variable counts as unset.
    let server = Serving::start_with(HAOKA, |command| {
        command.env("ORDER_QUERY_LOG", "");
    });
    assert!(server.stop().err.contains("stopped"));

    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, HAOKA);
    let malformed =
        ["inof", "order_query=loud", "=debug", "info,,warn", "a=b=c"].map(OsString::from);
    for text in malformed.into_iter().chain([OsString::from_vec(vec![0xff])]) {
        for subcommand in ["serve", "check"] {
            let mut command = command([subcommand, "--config", &path]);
            command.env("ORDER_QUERY_LOG", &text);
            let refused = Child::start(command).end();
            assert_eq!((refused.code, refused.out.as_str()), (Some(78), ""), "{text:?}");
            assert!(refused.err.contains("\nORDER_QUERY_LOG: "), "{}", refused.err);
        }
    }
}

#[test]
fn secrets_are_read_from_the_environment() {
    let config = format!("{LISTEN}{}", HAOKA.replace("\"s\"", "{ env = \"ORDER_QUERY_TEST_A\" }"));
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, &config);
    for (value, problem) in [
        (OsString::from("fine"), None),
        (OsString::from(""), Some("the environment variable ORDER_QUERY_TEST_A is empty")),
        (OsString::from("replace-me"), Some("still contains the example's REPLACE-ME")),
        (OsString::from("two\nlines"), Some("control character")),
        (OsString::from_vec(vec![b'a', 0xff]), Some("is not UTF-8")),
    ] {
        let mut command = command(["check", "--config", &path]);
        command.env("ORDER_QUERY_TEST_A", value);
        let checked = Child::start(command).end();
        match problem {
            None => assert_eq!(checked.code, Some(0), "{checked:?}"),
            Some(text) => {
                assert_eq!(checked.code, Some(78));
                let (_, told) = checked.err.split_once("\naccounts.cards.secret: ").unwrap();
                assert!(told.contains(text), "{told}");
            }
        }
    }
}

/// The binary under limits set by its shell.
fn limited(command: &mut Command, limits: &str) {
    let whole = format!("{limits}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &whole]).arg(command.get_program()).args(command.get_args());
    shell.env_remove("ORDER_QUERY_CONFIG").env_remove("ORDER_QUERY_LOG");
    *command = shell;
}

#[test]
fn the_descriptor_limit_is_raised_and_a_shortfall_is_a_warning() {
    let with = |connections: u32, concurrency: u32| {
        format!("server.max_connections = {connections}\n{HAOKA}max_concurrency = {concurrency}\n")
    };
    // 100 for probes, 64 for everything else, and those open at the start.
    for (limits, config, warned) in [
        ("ulimit -n 600", with(1024, 64), Some("needs 1252 file descriptors")),
        ("ulimit -n 600", with(350, 64), None),
        ("ulimit -n 600", with(350, 300), Some("needs 814 file descriptors")),
        ("ulimit -n 600; ulimit -Sn 200", with(350, 64), None),
    ] {
        let told = "server.max_connections: needs";
        let directory = tempfile::tempdir().unwrap();
        let path = write(&directory, &config);
        let mut check = command(["check", "--config", &path]);
        limited(&mut check, limits);
        let checked = Child::start(check).end();
        assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{config}");
        assert_eq!(checked.out.contains(&format!("warning: {told}")), warned.is_some(), "{config}");
        assert!(checked.out.contains(warned.unwrap_or_default()), "{}", checked.out);

        let server = Serving::start_with(&config, |command| limited(command, limits));
        let status = fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let soft: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
        assert_eq!(soft, ["600", "600"], "{line}");
        let log = server.stop().err;
        assert_eq!(log.contains(told), warned.is_some(), "{log}");
    }
    // Nothing is known of another machine's limits.
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, &with(1024, 64));
    let mut check = command(["check", "--config", &path, "--root", "/"]);
    limited(&mut check, "ulimit -n 600");
    assert!(!Child::start(check).end().out.contains("warning"));
}
