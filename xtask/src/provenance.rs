//! Where a figure comes from: command, commit, machine.

use std::ffi::OsString;
use std::process::Command;

use lmht_train::RunInfo;

use crate::repository;

/// What `run.json` says of this process.
pub(crate) fn run_info(data: String, test_split: String) -> RunInfo {
    let directory = std::env::current_dir().unwrap_or_default();
    RunInfo { command: command(), commit: commit(), machine: machine(), data, test_split, directory }
}

/// Options that decide where something is written and what is said, and nothing of a result.
const SILENT: [&str; 3] = ["--quiet", "-q", "--json"];
const SILENT_WITH_VALUE: [&str; 4] = ["--run", "--out", "--format", "--jobs"];

/// The command that gives the same result, as a user types it. Two commands with one result are one command here, so that
/// what a model folder tells of its making does not depend on where it was made.
pub(crate) fn command() -> String {
    shown(std::env::args_os().skip(1))
}

fn shown(arguments: impl Iterator<Item = OsString>) -> String {
    let mut command = "cargo xtask".to_owned();
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned()).peekable();
    // A conversion measures on so many images, and what it makes is the same.
    let only_measures = arguments.peek().is_some_and(|subcommand| subcommand == "convert");
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if SILENT_WITH_VALUE.contains(&name) || (only_measures && name == "--limit") {
            if name == argument {
                arguments.next();
            }
        } else if !SILENT.contains(&name) {
            command += &format!(" {}", quoted(argument));
        }
    }
    command
}

/// An argument as a shell takes it for one.
fn quoted(argument: String) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-{}".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument;
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_no_result_is_not_part_of_the_command() {
        let of = |line: &str| shown(line.split(' ').map(OsString::from));
        let expected = "cargo xtask train a.toml --seed 3";
        for line in
            ["train a.toml --seed 3", "train -q a.toml --run b --seed 3", "train a.toml --run=c --quiet --seed 3"]
        {
            assert_eq!(of(line), expected);
        }
        let arguments = ["predict", "it's", "a b", ""].map(OsString::from);
        assert_eq!(shown(arguments.into_iter()), r"cargo xtask predict 'it'\''s' 'a b' ''");
    }
}
