//! The frames of HTTP/2 that are observed before h2 parses them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::connection::check(data));
