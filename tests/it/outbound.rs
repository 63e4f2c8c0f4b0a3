//! The vendors' transport, against real sockets: certificates, redirects, proxies, and bodies
//! without an end.

mod bodies;
mod ends;
mod proxies;
mod sent;
mod tls;

/// An account at each vendor, at one address. `more` is set for each of them.
pub fn accounts(url: &str, more: &str) -> String {
    format!(
        "[accounts.market]\nprovider = \"wechat\"\nbase_url = \"{url}\"\n{more}\n\
         app_id = \"wx\"\napp_secret = \"s\"\n\
         [accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"{url}\"\n{more}\n\
         app_id = \"ds\"\napp_secret = \"s\"\napp_key = \"k\"\nmachine_no = \"16327129\"\n\
         [accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{url}\"\n{more}\n\
         user_id = \"agent\"\nsecret = \"s\"\n"
    )
}

/// An answer that is a token and order 54 at each of the vendors.
pub const ANSWER: &str = r#"{
    "access_token": "t", "expires_in": 7200, "order": {"orderId": "54", "status": 2},
    "code": 0, "data": {
        "order_id": 54, "status": "SUCCESS", "downOrderNo": "54", "orderStatus": "已发货"
    }
}"#;
