//! gRPC's frames, compressed or not, in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::frames::check(data));
