#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lmht_fuzz::nir_graph(bytes));
