//! The plain ModelInfer, compared with prost.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::infer::check(data));
