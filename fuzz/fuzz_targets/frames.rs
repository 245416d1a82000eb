#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| leasehold::test_support::fuzz("frames", bytes));
