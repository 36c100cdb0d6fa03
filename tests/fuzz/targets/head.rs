//! The property `fuzz::head` on inputs that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::head(data));
