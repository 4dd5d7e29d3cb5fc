//! A command, and what becomes of it when one of its file-system calls goes wrong.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Killed before it.
    Before,
    /// Killed after it.
    After,
    /// Killed when half of what it writes is there.
    Halfway,
    /// The call fails, and no other.
    Once(&'static str),
    /// The call fails, and every one after it.
    FromThenOn(&'static str),
}

impl How {
    pub(super) const ALL: [Self; 11] = [
        Self::Before,
        Self::After,
        Self::Halfway,
        Self::Once("ENOSPC"),
        Self::Once("EROFS"),
        Self::Once("EIO"),
        Self::Once("EACCES"),
        Self::FromThenOn("ENOSPC"),
        Self::FromThenOn("EROFS"),
        Self::FromThenOn("EIO"),
        Self::FromThenOn("EACCES"),
    ];

    fn action(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Halfway => "halfway",
            Self::Once(_) => "once",
            Self::FromThenOn(_) => "ever",
        }
    }

    fn error(self) -> Option<&'static str> {
        match self {
            Self::Once(error) | Self::FromThenOn(error) => Some(error),
            Self::Before | Self::After | Self::Halfway => None,
        }
    }

    /// Whether it can happen to calls that change nothing; a kill there is a kill before the next that does.
    fn meets_reads(self) -> bool {
        matches!(self.error(), Some("EIO" | "EACCES"))
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) how: How,
    /// The number of the call, from 1, among those that `how` can happen to.
    pub(super) at: usize,
}

/// How a command ended that met a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Killed,
    /// With exit status 1 and a message.
    Refused,
    /// With exit status 0: the fault was one that it can do without.
    WentOn,
}

/// What a fault led to.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) outcome: Outcome,
    /// The command that followed was killed, too.
    pub(super) is_killed_again: bool,
    /// What should not have been.
    pub(super) wrong: Option<String>,
}

/// Content by path; `None` is a folder.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// The preloaded library, what commands read, and the folders that they work in.
pub(super) struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// Compiles the library, draws images and trains two networks; `None` where there is no C compiler or no preloading.
    pub(super) fn open() -> Result<Option<Self>> {
        let workshop = Self { folder: tempfile::tempdir()? };
        std::fs::write(workshop.path("faults.c"), include_str!("faults.c"))?;
        let library = workshop.library();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(workshop.path("faults.c")).arg("-ldl");
        match cc.output() {
            Ok(output) if cfg!(target_os = "linux") && output.status.success() => {}
            Ok(output) if cfg!(target_os = "linux") => anyhow::bail!("cc: {}", String::from_utf8_lossy(&output.stderr)),
            _ => return Ok(None),
        }
        for inputs in [workshop.inputs(), workshop.inputs().join("other")] {
            draw(&inputs.join("pictures"))?;
            std::fs::write(inputs.join("tiny.toml"), TINY)?;
        }
        for (seed, inputs) in [("1", workshop.inputs()), ("2", workshop.inputs().join("other"))] {
            let arguments = ["train", "tiny.toml", "--quiet", "--data", "pictures", "--run", "run", "--seed", seed];
            succeed(command(&arguments, &inputs)?.output()?)?;
        }
        Ok(Some(workshop))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn library(&self) -> PathBuf {
        self.path("faults.so")
    }

    /// What commands read: `tiny.toml`, `pictures`, `run`; and in `other` the same with another network.
    pub(super) fn inputs(&self) -> PathBuf {
        self.path("inputs")
    }

    /// Runs a command without faults, in a folder that holds what the command `earlier` writes.
    pub(super) fn task(&self, name: &str, arguments: Vec<String>, earlier: Option<Vec<String>>) -> Result<Task<'_>> {
        let folder = self.path(name);
        std::fs::create_dir(&folder)?;
        if let Some(earlier) = earlier {
            succeed(command(&earlier, &folder)?.output()?)?;
        }
        let before = read(&folder)?;
        let mut task = Task { workshop: self, arguments, before, after: Tree::new(), changes: vec![], calls: vec![] };
        let log = self.path(&format!("{name}.log"));
        succeed(task.command(&folder, "count", None, true)?.env("LMHT_FAULT_LOG", &log).output()?)?;
        task.calls = std::fs::read_to_string(&log)?.lines().map(str::to_owned).collect();
        task.after = read(&folder)?;
        let again = tempfile::tempdir_in(self.folder.path())?;
        write(&task.before, again.path())?;
        std::fs::remove_file(&log)?;
        succeed(task.command(again.path(), "count", None, false)?.env("LMHT_FAULT_LOG", &log).output()?)?;
        task.changes = std::fs::read_to_string(&log)?.lines().map(str::to_owned).collect();
        if let Some(differs) = difference(&task.after, &read(again.path())?) {
            bail!("{name} has no result that could be compared: twice without a fault, and {differs}");
        }
        Ok(task)
    }
}

/// A command that is given again and again.
pub(super) struct Task<'a> {
    workshop: &'a Workshop,
    arguments: Vec<String>,
    /// What is there before, and after a command that met no fault.
    before: Tree,
    after: Tree,
    /// The calls that change something, and all of them.
    changes: Vec<String>,
    calls: Vec<String>,
}

impl Task<'_> {
    /// The calls that this can happen to.
    fn calls(&self, how: How) -> &[String] {
        if how.meets_reads() { &self.calls } else { &self.changes }
    }

    /// How many calls it makes.
    pub(super) fn n_calls(&self) -> usize {
        self.calls.len()
    }

    /// The numbers of the calls that this can happen to.
    pub(super) fn places(&self, how: How) -> Vec<usize> {
        let calls = (1..).zip(self.calls(how));
        calls.filter(|(_, call)| how != How::Halfway || call.contains(" write ")).map(|(at, _)| at).collect()
    }

    /// A fault in words.
    pub(super) fn describe(&self, fault: Fault) -> String {
        let call = self.calls(fault.how).get(fault.at - 1).map_or("", |call| call.trim());
        format!("{} {} call {call}", fault.how.action(), fault.how.error().unwrap_or_default())
    }

    fn command(&self, folder: &Path, action: &str, fault: Option<Fault>, counts_reads: bool) -> Result<Command> {
        let mut command = command(&self.arguments, folder)?;
        command
            .env("LD_PRELOAD", self.workshop.library())
            .env("LMHT_FAULT_ROOT", folder)
            .env("LMHT_FAULT_ACTION", action);
        if let Some(Fault { how, at }) = fault {
            command.env("LMHT_FAULT_AT", at.to_string()).env("LMHT_FAULT_ERROR", how.error().unwrap_or_default());
        }
        if counts_reads {
            command.env("LMHT_FAULT_READS", "");
        }
        Ok(command)
    }

    fn run(&self, folder: &Path, fault: Fault) -> Result<Output> {
        Ok(self.command(folder, fault.how.action(), Some(fault), fault.how.meets_reads())?.output()?)
    }

    /// Gives the command with a fault, and again until it has met none.
    pub(super) fn meet(&self, fault: Fault) -> Result<Met> {
        let folder = tempfile::tempdir_in(self.workshop.folder.path())?;
        let path = folder.path();
        write(&self.before, path)?;
        let output = self.run(path, fault)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (outcome, mut wrong) = match output.status.code() {
            None if fault.how.error().is_none() => (Outcome::Killed, None),
            Some(0) => (Outcome::WentOn, difference(&self.after, &read(path)?)),
            Some(1) if said.contains("error: ") && !said.contains("panicked") => (Outcome::Refused, None),
            _ => (Outcome::Refused, Some(format!("it ended with {}: {said}", output.status))),
        };
        let is_killed_again = fault.at.is_multiple_of(5) && {
            let at = 1 + fault.at * 31 % self.changes.len();
            self.run(path, Fault { how: How::Before, at })?.status.code().is_none()
        };
        let output = command(&self.arguments, path)?.output()?;
        if !output.status.success() {
            let again = String::from_utf8_lossy(&output.stderr);
            wrong = wrong.or(Some(format!("it did not go on afterwards: {again}; before: {said}")));
        }
        let wrong = wrong.or(difference(&self.after, &read(path)?));
        Ok(Met { outcome, is_killed_again, wrong })
    }
}

/// This program, in a group of processes of its own, which a kill takes as a whole.
fn command(arguments: &[impl AsRef<OsStr>], folder: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    // Runs at the same time take the cores.
    command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1");
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}

fn succeed(output: Output) -> Result<()> {
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Everything in a folder.
fn read(folder: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(inside) = folders.pop() {
        for entry in std::fs::read_dir(&inside)? {
            let path = entry?.path();
            let bytes = if path.is_dir() { None } else { Some(std::fs::read(&path)?) };
            tree.insert(path.strip_prefix(folder)?.to_path_buf(), bytes);
            folders.extend(path.is_dir().then_some(path));
        }
    }
    Ok(tree)
}

fn write(tree: &Tree, folder: &Path) -> Result<()> {
    for (path, bytes) in tree {
        let path = folder.join(path);
        match bytes {
            Some(bytes) => std::fs::write(path, bytes)?,
            None => std::fs::create_dir(path)?,
        }
    }
    Ok(())
}

/// The first file that should be the same and is not. Those with times, command and machine have to be readable.
fn difference(expected: &Tree, found: &Tree) -> Option<String> {
    let is_compared = |path: &&PathBuf| {
        let varies = ["run.json", "timing.jsonl", "tables.json", "tensorboard", ".lock"];
        !path.iter().any(|part| varies.iter().any(|name| part == *name))
    };
    if let Some(path) = found.keys().filter(is_compared).find(|path| !expected.contains_key(*path)) {
        return Some(format!("{} should not be there", path.display()));
    }
    for (path, bytes) in expected {
        let there = found.get(path);
        if is_compared(&path) && there != Some(bytes) {
            return Some(format!("{} {}", path.display(), if there.is_some() { "differs" } else { "is missing" }));
        }
        let is_readable = |bytes: &[u8]| {
            let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>();
            values.all(|value| value.is_ok())
        };
        let is_json = ["run.json", "timing.jsonl", "tables.json"].iter().any(|name| path.ends_with(name));
        if is_json && !there.is_some_and(|bytes| bytes.as_deref().is_some_and(is_readable)) {
            return Some(format!("{} cannot be read", path.display()));
        }
    }
    None
}

/// The smallest network and run with everything in it: checkpoints in and after an epoch, a best one that is not the last.
const TINY: &str = r#"
[model]
backbone = "resnet20"
width = 1
in_channels = 3
n_classes = 2
timesteps = 1
neuron = { kind = "lmht", levels = 2 }
[train]
epochs = 2
batch_size = 4
seed = 7
checkpoint_every_steps = 1
optimizer = { kind = "sgd", lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 5e-4 }
schedule = { decay = { kind = "constant" }, warmup_epochs = 0, warmup_start_factor = 1.0, update_every = "epoch" }
[data]
path = "pictures"
"#;

/// Images of 8 by 8 pixels in two classes, as BMP: a header, then rows of blue, green, red.
fn draw(folder: &Path) -> Result<()> {
    let header = [0x4d42_u16.to_le_bytes().to_vec(), vec![246, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0]].concat();
    let numbers = [40_u32, 8, 8, 1 | 24 << 16, 0, 192, 0, 0, 0, 0];
    let header = [header, numbers.iter().flat_map(|n| n.to_le_bytes()).collect()].concat();
    for (split, n) in [("train", 4_u32), ("test", 2)] {
        for (class, base) in [("dark", 30), ("light", 90)] {
            let to = folder.join(split).join(class);
            std::fs::create_dir_all(&to)?;
            for i in 0..n {
                let noise = |j: u32| base + ((i * 192 + j).wrapping_mul(2_654_435_761) >> 24) as u8 / 2;
                std::fs::write(
                    to.join(format!("{i}.bmp")),
                    [&header[..], &(0..192).map(noise).collect::<Vec<_>>()].concat(),
                )?;
            }
        }
    }
    Ok(())
}
