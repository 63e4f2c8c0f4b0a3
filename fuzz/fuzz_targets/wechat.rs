//! Whatever WeChat answers to a call for an order, or for a token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_query::pb::Provider;

fuzz_target!(|answer: &[u8]| order_query_fuzz::ask(Provider::Wechat, answer));
