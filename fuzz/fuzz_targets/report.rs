//! Any text as a cost report; one that is read is shown in every form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_bench::report::Report;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(report) = Report::from_json(text) {
        let _ = (report.to_text_within(80), report.to_markdown(), report.layers_csv(), report.to_html());
    }
});
