//! A part in a process of its own, with a time limit: what crashes or hangs there ends nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How a process ended.
pub(super) enum End {
    Exited(ExitStatus),
    /// It was ended after its limit.
    TimedOut,
    /// It was ended because somebody wants everything to stop.
    Stopped,
}

const POLL: Duration = Duration::from_millis(20);
/// Often enough to see a step of training, and seldom enough not to be seen in it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// What is left to a process to end by itself when it is asked to, and to the system when it is made to.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a command to its end or to its limit; all it says goes to the file `log`.
pub(super) fn run(command: &mut Command, log: &Path, limit: Duration, stop: &AtomicBool) -> Result<End> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    // A group of its own, so that what it starts ends with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let end = match wait(&mut child, limit, Some(stop))? {
        Some(status) => {
            // What it started would take part in what is measured next.
            signal(&child, "KILL");
            return Ok(End::Exited(status));
        }
        None if stop.load(Ordering::Relaxed) => End::Stopped,
        None => End::TimedOut,
    };
    // A training that is asked to stop keeps a checkpoint.
    signal(&child, "TERM");
    if wait(&mut child, GRACE, None)?.is_none() {
        signal(&child, "KILL");
        let _ = child.kill();
        // A process that a driver holds may never end.
        wait(&mut child, GRACE, None)?;
    }
    // What it started may be left.
    signal(&child, "KILL");
    Ok(end)
}

/// Waits for the end; none after `limit`, or as soon as `stop` is set.
fn wait(child: &mut Child, limit: Duration, stop: Option<&AtomicBool>) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit || stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// A signal to the whole group.
fn signal(child: &Child, name: &str) {
    let kill = format!("kill -s {name} -- -{}", child.id());
    let _ = Command::new("sh").args(["-c", &kill]).stdin(Stdio::null()).stderr(Stdio::null()).status();
}

/// The last lines of a log that say something, at most `n`; from an error on, if there is one.
pub(super) fn last_words(log: &Path, n: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let is_error =
        |line: &&str| line.starts_with("error: ") || line.contains("panicked at") || line.contains("Error: ");
    let from = lines.iter().rposition(is_error).unwrap_or(0).max(lines.len().saturating_sub(n));
    lines[from..].join("\n")
}

/// Watches the memory of a GPU by nvidia-smi until it is asked what it saw.
pub(super) struct MemoryWatch {
    is_over: Arc<AtomicBool>,
    watcher: JoinHandle<Vec<f64>>,
}

impl MemoryWatch {
    pub(super) fn start(gpu: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let used = move || -> Option<f64> {
            let arguments = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i"];
            let output = Command::new("nvidia-smi").args(arguments).arg(gpu.to_string()).output().ok()?;
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        };
        let watcher = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while let (false, Some(used)) = (flag.load(Ordering::Relaxed), used()) {
                seen.push(used);
                std::thread::sleep(BETWEEN_LOOKS);
            }
            seen
        });
        Self { is_over, watcher }
    }

    /// MiB between the smallest and the largest use; none where there is no nvidia-smi.
    pub(super) fn peak_mib(self) -> Option<f64> {
        self.is_over.store(true, Ordering::Relaxed);
        let used = self.watcher.join().ok()?;
        let smallest = used.iter().copied().reduce(f64::min)?;
        Some(used.iter().copied().fold(smallest, f64::max) - smallest)
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: f64, stop: &AtomicBool) -> (End, String, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let started = Instant::now();
        let end = run(Command::new("sh").args(["-c", script]), &log, Duration::from_secs_f64(limit), stop).unwrap();
        (end, last_words(&log, 3), started.elapsed())
    }

    #[test]
    fn a_process_ends_well_or_badly_or_is_ended_with_what_it_started() {
        let stop = AtomicBool::new(false);
        let (end, words, _) = shell("echo a; echo error: b >&2; echo c", 20., &stop);
        assert!(matches!(end, End::Exited(status) if status.success()));
        assert_eq!(words, "error: b\nc");
        let (end, ..) = shell("kill -SEGV $$", 20., &stop);
        assert!(matches!(end, End::Exited(status) if !status.success()));
        let (end, words, time) = shell("sleep 60 & echo $!; wait", 0.3, &stop);
        assert!(matches!(end, End::TimedOut) && time < Duration::from_secs(15), "{time:?}");
        // What is killed is seen until the system gets to it.
        let status = || fs::read_to_string(format!("/proc/{words}/stat")).unwrap_or_default();
        let is_gone = |status: &str| status.is_empty() || status.contains(") Z ");
        let asked = Instant::now();
        while !is_gone(&status()) && asked.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(POLL);
        }
        assert!(is_gone(&status()), "left behind: {}", status());
        let (end, _, time) = shell("sleep 60", 60., &AtomicBool::new(true));
        assert!(matches!(end, End::Stopped) && time < Duration::from_secs(15), "{time:?}");
    }
}
