//! The plain requests of an HTTP/1.1 connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::requests::check(data));
