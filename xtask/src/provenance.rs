//! Where a figure comes from: command, commit, machine.

use std::process::Command;

use lmht_train::RunInfo;

use crate::repository;

/// What `run.json` says of this process.
pub(crate) fn run_info(data: String) -> RunInfo {
    let directory = std::env::current_dir().unwrap_or_default();
    RunInfo { command: command(), commit: commit(), machine: machine(), data, directory }
}

/// The command line as a user types it.
pub(crate) fn command() -> String {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    format!("cargo xtask {}", arguments.join(" "))
}

/// The commit of the repository that the program works in, marked if it was changed since.
pub(crate) fn commit() -> String {
    let Ok(root) = repository::root() else { return "unknown".to_string() };
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(&root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}-dirty"),
        _ => "unknown".to_string(),
    }
}

/// Processor and threads.
pub(crate) fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim().to_string())
        .unwrap_or_else(|| std::env::consts::ARCH.to_string());
    format!("{model}, {threads} threads, {}", std::env::consts::OS)
}
