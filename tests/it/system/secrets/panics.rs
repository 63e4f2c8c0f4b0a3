//! A task that panics with secrets in its message.

use std::env;
use std::process::{Command, Stdio};

use order_query::telemetry;
use order_query::telemetry::metrics::Metrics;

use super::{HAOKA_SECRET, NAME, PERSONAL, SECRETS, assert_none};
use crate::support::child::exact;

/// Set in the child process that the test starts.
const INSIDE: &str = "ORDER_QUERY_TEST_PANICS";

/// Logging is global to the process, so this test runs itself again in a child process.
#[test]
fn a_panic_is_logged_by_its_location_only() {
    if env::var_os(INSIDE).is_some() {
        return panic_over_canaries();
    }
    let name = exact(module_path!(), "a_panic_is_logged_by_its_location_only");
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{said}");
    let logged = said.lines().find(|line| line.contains("a task panicked")).expect("a log line");
    assert!(logged.contains(concat!(file!(), ":")), "{logged}");
    assert_none(&SECRETS, &said);
    assert_none(&PERSONAL, &said);
}

fn panic_over_canaries() {
    let _logs = telemetry::init(&telemetry::Settings::default(), &Metrics::default()).unwrap();
    let task = std::thread::spawn(|| panic!("{NAME} has {HAOKA_SECRET}"));
    assert!(task.join().is_err());
}
