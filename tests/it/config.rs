//! The configuration: valid and invalid values of every setting, each mistake reported at its path,
//! and no value of the file in any report.

mod accounts;
mod clients;
mod documented;
pub mod pem;
mod placeholder;
mod rotation;
mod safety;
mod secret;
mod server;
mod suggestions;
mod tls;

use std::path::Path;
use std::sync::Arc;

use order_query::app::Config;
use order_query::app::Setup;
use order_query::clock::SystemClock;
use order_query::config::{Problem, Problems, Section};

/// One account of each vendor, with the required settings only.
const WECHAT: &str =
    "[accounts.market]\nprovider = \"wechat\"\napp_id = \"wx1\"\napp_secret = \"s\"\n";
const DINGSHANG: &str = "[accounts.vending]\nprovider = \"dingshang\"\n\
    base_url = \"https://vending.example\"\napp_id = \"ds1\"\napp_secret = \"s\"\napp_key = \"k\"\n";
const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

/// Reads a configuration whose paths are relative to the directory.
fn read_in(directory: &Path, text: &str) -> Result<Setup, Problems> {
    Setup::read(Section::parse(text, directory)?, None, Arc::new(SystemClock))
}

/// The settings outside of the accounts with these lines.
fn settings(lines: &str) -> Config {
    match read_in(Path::new(""), &format!("{lines}\n{HAOKA}")) {
        Ok(setup) => setup.config,
        Err(problems) => panic!("{lines}\n{problems}"),
    }
}

/// The problems of a configuration.
fn problems_in(directory: &Path, text: &str) -> Vec<Problem> {
    read_in(directory, text).err().map(|problems| problems.0).unwrap_or_default()
}

fn problems(text: &str) -> Vec<Problem> {
    problems_in(Path::new(""), text)
}

/// The configuration is valid, except for what is known to be missing on this machine.
#[track_caller]
fn fine(text: &str) {
    assert_eq!(problems(text), [], "{text}");
}

/// The configuration has one mistake: at this path, with this text.
#[track_caller]
fn wrong(text: &str, path: &str, told: &str) {
    let problems = problems(text);
    let [problem] = problems.as_slice() else { panic!("one mistake, not {problems:?}:\n{text}") };
    assert_eq!(problem.path, path, "{text}");
    assert!(problem.text.contains(told), "{:?} does not tell {told:?}", problem.text);
}
