//! The plain body of a :classify or :regress over REST, compared with serde_json and prost.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::rest_examples::check(data));
