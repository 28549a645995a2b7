//! HTTP/2 frames as they pass, before h2 sees them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::connection::check(data));
