//! The vendors' documented answers, and the orders or failures that they map to.

use super::bench::Bench;
use crate::support::facts::vendors;

const ANSWER: &str = ".answer.json";
const EXPECTED: &str = ".expected.json";

#[tokio::test]
async fn every_sample_yields_the_expected_result() {
    for vendor in vendors() {
        for name in vendor.files(ANSWER) {
            let bench = Bench::start(&vendor).await;
            let status = vendor.sheet.status.get(&name).copied().unwrap_or(200);
            bench.scripted.answers(status, vendor.text(&format!("{name}{ANSWER}")));
            let outcome = bench.finish(vendor.question()).await;
            let expected = vendor.json(&format!("{name}{EXPECTED}"));
            assert_eq!(outcome, expected, "{} {name}", vendor.provider.word());
        }
    }
}

#[test]
fn every_expected_result_has_a_sample() {
    for vendor in vendors() {
        assert_eq!(vendor.files(ANSWER), vendor.files(EXPECTED), "{}", vendor.provider.word());
    }
}
