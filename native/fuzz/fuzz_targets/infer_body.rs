//! The plain body of an infer over HTTP, compared with serde_json.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::infer_body::check(data));
