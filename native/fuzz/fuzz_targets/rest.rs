//! The plain body of a :predict over REST, compared with serde_json.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::rest::check(data));
