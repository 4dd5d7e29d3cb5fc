//! `cargo xtask gpu-run`: everything that needs a GPU, by one command.

mod correct;
mod parts;
mod process;
mod results;
mod setup;
mod speed;
mod training;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lmht_nn::atomic::write_file;
use serde_json::{Value, json};

use self::parts::{Group, MACHINE, PARTS, PLANNED, Part, Runner};
use self::process::{End, MemoryWatch, last_words};
use self::results::{Entry, Outcome, Results};
use self::setup::{Plan, Setup, Size, Skipped};
use crate::device::DeviceArgs;
use crate::terminal::{did_you_mean, message};
use crate::{provenance, repository, stop};

/// Check, measure and train on a GPU, in the minutes that there are.
///
/// First whether it computes the right thing: every kernel, the golden cases, networks against the CPU. Then how fast: the
/// neuron beside a copy, a training step beside PyTorch's. Then training runs whose schedules fit the time that is left. Each
/// part is a process with a time limit of its own; one that fails, hangs or crashes is reported, and the next one runs. The
/// same command again goes on: what passed is kept, a training continues from its checkpoint.
///
/// Written to --out, after every part: record.md, results.json, log.txt. Run it in a clone of the repository, whose golden
/// cases it needs; a Python with torch is used for PyTorch's side, and for CUDA's libraries where there is no toolkit.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  xtask gpu-run --device cuda --minutes 8 --out gpu-results --cifar10 data/cifar10 --tiny-imagenet data/tiny-imagenet
  xtask gpu-run --device cuda --only correctness
  xtask gpu-run --device cuda --only training --minutes 30 --cifar10 data/cifar10
  cargo xtask gpu-run --size small --minutes 3        a rehearsal on the CPU, kernels by the emulator")]
pub(crate) struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Everything ends within this time.
    #[arg(long, default_value_t = 8.)]
    minutes: f64,
    /// The folder of the results; what has passed there is not run again.
    #[arg(long, default_value = "gpu-results")]
    out: PathBuf,
    /// The folder of what is large or passing: training runs with checkpoints, logs [default: target/gpu-run].
    #[arg(long)]
    work: Option<PathBuf>,
    /// A parquet folder of CIFAR-10.
    #[arg(long, value_name = "FOLDER")]
    cifar10: Option<PathBuf>,
    /// A parquet folder of Tiny-ImageNet.
    #[arg(long, value_name = "FOLDER")]
    tiny_imagenet: Option<PathBuf>,
    /// The interpreter that has torch.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Parts to run, or correctness, speed, training for all parts of a kind [default: all].
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// Run again what has passed, a training from its start.
    #[arg(long)]
    again: bool,
    /// How much there is to do.
    #[arg(long, value_enum, default_value_t = Size::Full)]
    size: Size,
    /// No part but a training takes longer, in seconds.
    #[arg(long, value_name = "SECONDS")]
    limit: Option<f64>,

    /// The part that this process is.
    #[arg(long, hide = true, requires_all = ["seconds", "result"])]
    part: Option<String>,
    #[arg(long, hide = true)]
    seconds: Option<f64>,
    #[arg(long, hide = true)]
    result: Option<PathBuf>,
    #[arg(long, hide = true)]
    plan: Option<Plan>,
    /// PART=fail, hang, crash or stop: for tests.
    #[arg(long = "break", hide = true)]
    breaks: Vec<String>,
}

impl Args {
    /// Whether what a part learns from is named.
    fn has_data(&self, part: &Part) -> bool {
        let folder = if part.name.starts_with("cifar10") { &self.cifar10 } else { &self.tiny_imagenet };
        self.size == Size::Small || folder.is_some()
    }
}

/// A part with less time than this is not begun.
const SHORTEST: f64 = 3.;
/// What ending a process can take.
const RESERVE: f64 = 12.;
/// The share of the time that training has at least, where it is to run.
const TRAINING: f64 = 0.4;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.part {
        Some(part) => run_part(args, part),
        None => run_all(args),
    }
}

fn run_all(args: &Args) -> Result<()> {
    let started = Instant::now();
    let is_time = |seconds: f64| seconds.is_finite() && seconds > 0. && seconds < 1e9;
    ensure!(is_time(args.minutes - 0.5), "--minutes is {}; expected more than half a minute", args.minutes);
    ensure!(args.limit.is_none_or(is_time), "--limit is {:?}; expected a positive number", args.limit);
    let selected = selected(&args.only)?;
    for (option, folder) in [("--cifar10", &args.cifar10), ("--tiny-imagenet", &args.tiny_imagenet)] {
        if let Some(folder) = folder {
            ensure!(folder.exists(), "{option} {}: there is nothing", folder.display());
        }
    }
    let work = match &args.work {
        Some(work) => work.clone(),
        None => repository::root()?.join("target/gpu-run"),
    };
    for folder in [&args.out, &work.join("runs"), &work.join("python")] {
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    }
    let mut results =
        Results::open(&args.out.join("results.json"), args.device.to_string(), args.size, provenance::commit())?;
    let libraries = args.device.gpu().and_then(|_| cuda_libraries(&args.python));
    let stop = stop::requested()?;
    let seconds_left = || args.minutes * 60. - started.elapsed().as_secs_f64();

    for part in selected.iter().copied() {
        if results.has_passed(part) && !args.again && part.name != MACHINE {
            println!("{}: passed before", part.name);
            continue;
        }
        if args.again && part.group == Group::Training {
            // Without its plan it starts again.
            let plan = work.join("runs").join(format!("{}.json", part.name));
            ensure!(!plan.exists() || fs::remove_file(&plan).is_ok(), "{}: cannot be removed", plan.display());
        }
        let has_work = |other: &Part| args.has_data(other) && (args.again || !results.has_passed(other));
        let training = selected.iter().copied().filter(|other| other.group == Group::Training && has_work(other));
        let is_before = |other: &&Part| part.group == Group::Training && other.name != part.name;
        let to_come: Vec<&Part> = training.skip_while(is_before).collect();
        let limit = limit(part, &to_come, seconds_left(), args);
        let entry = if limit < SHORTEST {
            skipped(format!("no time was left; give the command again with --only {} or more --minutes", part.name))
        } else {
            println!("{}: {}, at most {limit:.0} s", part.name, part.title);
            let plan = (part.group == Group::Training && part.name != PLANNED).then(|| results.plan(PLANNED)).flatten();
            let plan = plan.filter(|_| part.name.starts_with("cifar10"));
            let child = Child { args, part, limit, plan, work: &work, libraries: libraries.as_deref() };
            child.run(&stop)?
        };
        println!("{}: {}, {:.1} s", part.name, entry.outcome.name(), entry.seconds);
        if !entry.message.is_empty() {
            println!("  {}", entry.message.replace('\n', "\n  "));
        }
        let is_over = stop.load(Ordering::Relaxed) || (part.name == MACHINE && entry.outcome != Outcome::Passed);
        // What an earlier call left is worth more than that this one had no time.
        if entry.outcome != Outcome::Skipped || !results.has_result(part) {
            results.set(part, entry);
        }
        results.write(&args.out)?;
        write_logs(&args.out, &work)?;
        if is_over {
            break;
        }
    }
    println!("{}", args.out.join("record.md").display());
    let failures = results.failures();
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    ensure!(!stop.load(Ordering::Relaxed), "stopped; the same command goes on");
    Ok(())
}

/// The parts that are named, and the one that opens the device.
fn selected(names: &[String]) -> Result<Vec<&'static Part>> {
    let known = || PARTS.iter().flat_map(|part| [part.name, part.group.name()]);
    for name in names {
        if !known().any(|known| known == name) {
            let parts: Vec<_> = PARTS.iter().map(|part| part.name).collect();
            let hint = did_you_mean(name, known());
            bail!("--only {name}: expected correctness, speed, training, or some of {}{hint}", parts.join(", "));
        }
    }
    let is_named = |part: &Part| names.iter().any(|name| name == part.name || name == part.group.name());
    Ok(PARTS.iter().filter(|part| names.is_empty() || part.name == MACHINE || is_named(part)).collect())
}

/// Seconds that a part may take.
fn limit(part: &Part, training_to_come: &[&Part], seconds_left: f64, args: &Args) -> f64 {
    let left = seconds_left - RESERVE;
    if part.group == Group::Training {
        let all: f64 = training_to_come.iter().map(|part| part.limit).sum();
        return left * part.limit / all.max(part.limit);
    }
    let kept = if training_to_come.is_empty() { 0. } else { TRAINING * args.minutes * 60. };
    part.limit.min(args.limit.unwrap_or(f64::MAX)).min(left - kept)
}

fn skipped(message: String) -> Entry {
    Entry { outcome: Outcome::Skipped, seconds: 0., memory_mib: None, message, result: Value::Null }
}

/// Folders of CUDA's libraries in a Python environment, for LD_LIBRARY_PATH.
fn cuda_libraries(python: &Path) -> Option<OsString> {
    const FIND: &str =
        "import glob, sys; print(':'.join(sorted({d for p in sys.path for d in glob.glob(p + '/nvidia/*/lib')})))";
    let output = Command::new(python).args(["-c", FIND]).output().ok()?;
    let found = String::from_utf8(output.stdout).ok()?.trim().to_string();
    let before = std::env::var_os("LD_LIBRARY_PATH").filter(|path| !path.is_empty());
    let paths = before.iter().flat_map(std::env::split_paths).chain(std::env::split_paths(&found));
    let joined = std::env::join_paths(paths.filter(|path| !path.as_os_str().is_empty())).ok()?;
    (!joined.is_empty()).then_some(joined)
}

/// A part about to be run by a process.
struct Child<'a> {
    args: &'a Args,
    part: &'a Part,
    limit: f64,
    plan: Option<Plan>,
    work: &'a Path,
    libraries: Option<&'a std::ffi::OsStr>,
}

impl Child<'_> {
    fn run(&self, stop: &AtomicBool) -> Result<Entry> {
        let name = self.part.name;
        let (result, log) = (self.work.join(format!("{name}.result.json")), self.log());
        let _ = fs::remove_file(&result);
        let mut command = match self.part.runner {
            Runner::Own(_) => self.own(&result)?,
            Runner::Python(arguments) => self.python(arguments, &result)?,
        };
        let is_step = name.starts_with("step") || name.starts_with("pytorch");
        let memory = self.args.device.gpu().filter(|_| is_step).map(MemoryWatch::start);
        let started = Instant::now();
        // A training stops by itself before; this is for one that does not.
        let limit = Duration::from_secs_f64(self.limit);
        let end = process::run(&mut command, &log, limit, stop);
        let memory_mib = memory.and_then(MemoryWatch::peak_mib);
        let seconds = started.elapsed().as_secs_f64();
        let mut entry =
            Entry { outcome: Outcome::Failed, seconds, memory_mib, message: String::new(), result: Value::Null };
        match end {
            Ok(End::Exited(status)) if status.success() => match read(&result) {
                Ok(value) => {
                    entry.outcome = match &value["finished"] {
                        Value::Bool(false) => Outcome::Unfinished,
                        _ => Outcome::Passed,
                    };
                    if let Some(reason) = value["skipped"].as_str() {
                        (entry.outcome, entry.message) = (Outcome::Skipped, reason.to_string());
                    } else {
                        entry.result = value;
                    }
                }
                Err(error) => entry.message = format!("it left no result: {error:#}"),
            },
            Ok(End::Exited(status)) => {
                entry.message = format!("{}\n({status})", last_words(&log, 12)).trim_start().to_string()
            }
            Ok(End::TimedOut) => {
                entry.outcome = Outcome::TimedOut;
                entry.message = format!("ended after {:.0} s; its last words:\n{}", self.limit, last_words(&log, 6));
            }
            Ok(End::Stopped) => (entry.outcome, entry.message) = (Outcome::Skipped, "stopped by the user".to_string()),
            Err(error) => {
                // A Python that is not there is no failure of ours.
                let is_python = matches!(self.part.runner, Runner::Python(_));
                entry.outcome = if is_python { Outcome::Skipped } else { Outcome::Failed };
                entry.message = format!("{error:#}");
            }
        }
        Ok(entry)
    }

    fn log(&self) -> PathBuf {
        self.work.join(format!("{}.log", self.part.name))
    }

    /// This program with the same arguments and those of a part.
    fn own(&self, result: &Path) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).args([
            "--part",
            self.part.name,
            "--seconds",
            &self.limit.to_string(),
        ]);
        command.arg("--result").arg(result);
        if let (Some(Plan { epochs, images_per_epoch }), None) = (self.plan, self.args.plan) {
            command.args(["--plan", &format!("{epochs}x{images_per_epoch}")]);
        }
        if let Some(libraries) = self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        // What the driver makes of Candle's kernels for one part, some seconds of work, is there for the next one, whether
        // the home folder can be written to or not.
        if std::env::var_os("CUDA_CACHE_PATH").is_none() {
            command.env("CUDA_CACHE_PATH", std::path::absolute(self.work)?.join("cuda-cache"));
        }
        Ok(command)
    }

    /// PyTorch's side, which travels in this program.
    fn python(&self, arguments: &[&str], result: &Path) -> Result<Command> {
        let folder = self.work.join("python");
        write_file(&folder.join("gpu.py"), include_bytes!("../../../benches/compare/gpu.py"))?;
        write_file(&folder.join("networks.py"), include_bytes!("../../../benches/compare/networks.py"))?;
        let mut command = Command::new(&self.args.python);
        command.arg(folder.join("gpu.py")).arg("--result").arg(result).args(arguments);
        command.args(["--device", &self.args.device.to_string().replace("metal", "mps")]);
        if self.args.size == Size::Small {
            command.args(["--width", "16", "--batch", "4", "--side", "8", "--steps", "2"]);
        }
        Ok(command)
    }
}

fn read(result: &Path) -> Result<Value> {
    let text = fs::read_to_string(result).with_context(|| result.display().to_string())?;
    serde_json::from_str(&text).with_context(|| result.display().to_string())
}

/// The ends of all logs in one file, each of at most this many bytes.
fn write_logs(out: &Path, work: &Path) -> Result<()> {
    const MOST: usize = 256 << 10;
    let mut all = Vec::new();
    for part in &PARTS {
        let Ok(log) = fs::read(work.join(format!("{}.log", part.name))) else { continue };
        all.extend(format!("== {}\n", part.name).into_bytes());
        all.extend(&log[log.len().saturating_sub(MOST)..]);
    }
    Ok(write_file(&out.join("log.txt"), &all)?)
}

/// A part, in the process that is it.
fn run_part(args: &Args, name: &str) -> Result<()> {
    let part = PARTS.iter().find(|part| part.name == name);
    let Some((Runner::Own(run), (seconds, result))) =
        part.map(|part| &part.runner).zip(args.seconds.zip(args.result.as_ref()))
    else {
        bail!("--part {name}: expected a part of this program, with --seconds and --result");
    };
    let work = result.parent().unwrap_or(Path::new(""));
    let how = args.breaks.iter().filter_map(|pair| pair.split_once('=')).find(|(part, _)| *part == name);
    match how.map(|(_, how)| how) {
        Some("fail") => bail!("broken on purpose"),
        Some("crash") => std::process::abort(),
        Some("hang") => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        _ => {}
    }
    let setup = Setup {
        device: &args.device,
        size: args.size,
        cifar10: args.cifar10.as_deref(),
        tiny_imagenet: args.tiny_imagenet.as_deref(),
        runs: work.join("runs"),
        deadline: Instant::now() + Duration::from_secs_f64(seconds),
        plan: args.plan,
        stop_at_once: how.is_some_and(|(_, how)| how == "stop"),
    };
    let value = match run(&setup) {
        Ok(value) => value,
        Err(error) => match error.downcast::<Skipped>() {
            Ok(Skipped(reason)) => json!({ "skipped": reason }),
            Err(error) => bail!("{}", message(&error)),
        },
    };
    Ok(write_file(result, serde_json::to_string(&value)?.as_bytes())?)
}
