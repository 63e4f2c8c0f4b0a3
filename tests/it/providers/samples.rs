//! The vendors' documented answers, and the orders or failures that they become.

use super::bench::vendors;

const ANSWER: &str = ".answer.json";
const EXPECTED: &str = ".expected.json";

#[tokio::test]
async fn every_sample_becomes_what_its_file_says() {
    for vendor in vendors() {
        for name in vendor.files(ANSWER) {
            let outcome = vendor.outcome(vendor.text(&format!("{name}{ANSWER}"))).await;
            let expected = vendor.json(&format!("{name}{EXPECTED}"));
            assert_eq!(outcome, expected, "{} {name}", vendor.provider.word());
        }
    }
}

#[test]
fn every_expectation_has_its_answer() {
    for vendor in vendors() {
        assert_eq!(vendor.files(ANSWER), vendor.files(EXPECTED), "{}", vendor.provider.word());
    }
}
