//! An account at Haoka, for tests that need a vendor with limits and are about none.

/// Haoka's answer about an order that is not done.
pub const OPEN: &str = r#"{"code":0,"data":{"orderStatus":"已发货"}}"#;

/// An account of that name at Haoka.
pub fn cards(url: &str, more: &str) -> String {
    format!(
        "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{url}\"\nuser_id = \"agent\"\n\
         secret = \"s\"\n{more}\n"
    )
}
