#![no_main]

libfuzzer_sys::fuzz_target!(init: lmht_fuzz::allow_caught_panics(), |bytes: &[u8]| lmht_fuzz::cifar(bytes));
