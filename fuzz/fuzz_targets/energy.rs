//! Any text as the TOML of an energy model; one that is read has prices that can be computed with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_bench::EnergyModel;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(model) = EnergyModel::from_toml(text) {
        model.check().expect("it was checked");
        assert!(model.mac_pj.is_finite() && model.ac_pj.is_finite());
    }
});
