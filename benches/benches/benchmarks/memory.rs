//! Peak memory, which a process has one of: each case is run by another one.

use std::process::Command;

use super::{done, quick};

/// Asks this program for the memory of one backbone or conversion instead of benchmarks.
const MEMORY_OF: &str = "--memory-of";

/// The peak of another process that runs two steps of a backbone, or a conversion, in MiB beyond what it had before.
pub(super) fn memory_of(title: &str) -> String {
    let run = || -> std::io::Result<String> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([MEMORY_OF, title]);
        if !quick() {
            command.arg("--bench");
        }
        let output = command.output()?;
        assert!(output.status.success(), "{title}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    done(run())
}

/// What this process was asked to print the memory of, if [`memory_of`] started it.
pub(crate) fn asked_for() -> Option<String> {
    super::arguments().skip_while(|argument| argument != MEMORY_OF).nth(1)
}

/// A line of `/proc/self/status`, which is in KiB.
pub(super) fn status_kib(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
