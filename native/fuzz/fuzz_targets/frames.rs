//! gRPC's frames, with and without compression, in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| headrace_native_fuzz::frames::check(data));
