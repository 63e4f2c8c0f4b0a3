//! Whatever Dingshang answers to a call for an order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_query::pb::Provider;

fuzz_target!(|answer: &[u8]| order_query_fuzz::ask(Provider::Dingshang, answer));
