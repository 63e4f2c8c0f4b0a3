//! Whatever the vendor that `FUZZ_VENDOR` names answers to its calls.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| order_query_fuzz::ask(answer));
