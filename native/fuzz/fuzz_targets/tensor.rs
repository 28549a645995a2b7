//! A tensor's values, read and written, compared with prost.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::tensor::check(data));
