//! A request's headers, and a status's trailers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::headers::check(data));
