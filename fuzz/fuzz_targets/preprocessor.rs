//! Any text as a `preprocessor_config.json`; what is read is put to use and is the same after it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_datasets::Preprocessor;

fuzz_target!(init: lmht_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let Ok(preprocessor) = serde_json::from_slice::<Preprocessor>(bytes) else { return };
    let again: Preprocessor = serde_json::from_str(&preprocessor.to_json()).expect("what was written is read");
    assert_eq!(again, preprocessor);
    // Not for pixels that would take the time.
    if preprocessor.size.0.saturating_mul(preprocessor.size.1) < 1 << 16 {
        let _ = preprocessor.apply(lmht_fuzz::PNG);
    }
});
