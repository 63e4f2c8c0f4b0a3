//! An account at Haoka, for tests that need any vendor with limits.

/// Haoka's answer for an order that is not terminal.
pub const OPEN: &str = r#"{"code":0,"data":{"orderStatus":"已发货"}}"#;

/// An account of that name at Haoka.
pub fn cards(url: &str, more: &str) -> String {
    format!(
        "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{url}\"\nuser_id = \"agent\"\n\
         secret = \"s\"\n{more}\n"
    )
}
