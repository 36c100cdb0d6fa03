//! The property `fuzz::splitter` on inputs that libFuzzer makes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::splitter(data));
