//! The texts through the compilers that are here: nothing fails, and what is missing is said.

use std::path::Path;

use lmht_gpu::check::{Options, Outcome, programs, run_on};
use lmht_gpu::{Dtype, Error, Language, Operation, Program};

#[test]
fn every_operation_is_among_the_programs_and_no_key_stands_for_two() {
    let programs = programs().expect("programs");
    let mut names: Vec<_> = programs.iter().map(|program| program.operation.name).collect();
    names.sort();
    names.dedup();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let shared = ["access", "columns", "sums", "unit"];
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the kernels")
        .filter_map(|entry| {
            entry.expect("an entry").file_name().into_string().expect("a name").strip_suffix(".h").map(String::from)
        })
        .filter(|name| !shared.contains(&name.as_str()))
        .collect();
    files.sort();
    assert_eq!(names, files);
    let mut keys: Vec<_> = programs.iter().map(|program| program.key()).collect();
    assert!(keys.iter().all(|key| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), programs.len());
}

#[test]
fn metal_has_no_float64() {
    let programs = programs().expect("programs");
    let program = programs.iter().find(|program| program.dtype == Dtype::F64).expect("one of f64");
    let error = program.source(Language::Metal).expect_err("no f64");
    assert!(matches!(error, Error::Unsupported { .. }));
    assert_eq!(error.to_string(), "neuron: Metal has no f64; use f32 there, or another device");
}

/// One program of each operation; all of them are for `cargo xtask gpu-check`.
#[test]
fn the_compilers_that_are_here_take_every_operation() {
    let mut some = programs().expect("programs");
    some.retain(|program| program.dtype == Dtype::Bf16);
    some.sort_by_key(|program| program.operation.name);
    some.dedup_by_key(|program| program.operation.name);
    let parts = run_on(&some, &Options::below(Path::new(env!("CARGO_TARGET_TMPDIR")))).expect("a scratch folder");
    assert_eq!(parts.len(), 3);
    for part in parts {
        println!("{part}");
        assert!(!matches!(part.outcome, Outcome::Failed(_)), "{part}");
        if let Outcome::Skipped(reason) = part.outcome {
            assert!(reason.contains("install"), "{reason}");
        }
    }
}

#[test]
fn a_text_that_is_wrong_fails_in_every_language() {
    // A pointer without its address space, a type that is not there.
    const TEXT: &str = "KERNEL(wrong)(OUT(REAL, ys, 0) IDS) { PRIVATE REAL *p = ys; missing q = p[0]; }";

    let operation = Operation { name: "wrong", texts: &[TEXT], kernels: &["wrong"] };
    let program = Program { operation, dtype: Dtype::F32, width: 1, threads: 32, defines: vec![] };
    let options = Options::below(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong"));
    for part in run_on(&[program], &options).expect("a scratch folder") {
        assert!(!matches!(part.outcome, Outcome::Passed(_)), "{part}");
    }
}
