//! Plain requests that carry tf.Examples, against prost.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::examples::check(data));
