//! The client's decoder of answers, compared with prost.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::answers::check(data));
