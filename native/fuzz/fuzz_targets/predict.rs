//! The plain Predict, compared with prost.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::predict::check(data));
