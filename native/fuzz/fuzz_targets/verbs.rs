//! See `bodies/verbs.rs`.

#![no_main]

#[path = "../bodies/verbs.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
