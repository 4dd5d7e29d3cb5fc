//! The program as the tests start it, and what is asked of its end.

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// In a folder.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    xtask(arguments).current_dir(folder).output().expect("the program starts")
}

/// What it printed; fails unless it ended well.
#[track_caller]
pub(crate) fn assert_succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails unless the program ended with status 1 and said all of `parts`, without a panic.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

#[track_caller]
pub(crate) fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    assert_succeeded(run(folder, arguments))
}

#[track_caller]
pub(crate) fn is_refused(folder: &Path, arguments: &[&str], parts: &[&str]) -> Output {
    let output = run(folder, arguments);
    assert_refused(&output, parts);
    output
}
