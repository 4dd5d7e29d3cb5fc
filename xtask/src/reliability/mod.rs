//! `cargo xtask reliability`: commands killed, and refused by the system, at every file-system call.

mod work;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use work::{Fault, How, Outcome, Workshop};

/// Kill commands at every file-system call, fail every call, and compare what the same command makes of it afterwards.
///
/// A small C library, compiled by `cc` and preloaded (Linux), counts the calls of a command below its folder. Each run meets
/// one fault: it is killed before a call, after it or half-way through a write, or the call fails with ENOSPC, EROFS, EIO or
/// EACCES, once or from then on. Then the command is given again, to some runs with another kill. Every file must have the
/// bytes of a run that met no fault, and a command that failed must have said why. docs/reliability.md has the last counts.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask reliability                            every call; minutes
  cargo xtask reliability --every 40 --only train    a sample, as the tests take it")]
pub(crate) struct Args {
    /// One in N of the calls.
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: usize,
    /// What is run; may be repeated [default: all of it].
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
}

/// A command whose calls are counted, in a folder that may hold what an earlier one wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A run from its beginning.
    Train,
    /// A finished run that is given an epoch more.
    Extend,
    /// A conversion in place of an older one.
    Convert,
    /// A file for PyTorch.
    ToPytorch,
    /// A report in place of an older one.
    Energy,
    /// A confusion matrix.
    Eval,
    /// The tables, and the runs behind them: a sample, whatever --every says.
    Tables,
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What the folder holds before.
    fn earlier(self, inputs: &Path) -> Option<Vec<String>> {
        match self {
            Self::Extend => Some(Self::Train.arguments(inputs)),
            Self::Convert => Some(self.arguments(&inputs.join("other"))),
            Self::Energy => Some([self.arguments(inputs), vec!["--limit".into(), "1".into()]].concat()),
            Self::Train | Self::ToPytorch | Self::Eval | Self::Tables => None,
        }
    }

    fn arguments(self, inputs: &Path) -> Vec<String> {
        let at = |name: &str| inputs.join(name).display().to_string();
        let (toml, data, model) = (at("tiny.toml"), at("pictures"), at("run/model"));
        let arguments = match self {
            Self::Train => vec!["train", &toml, "--quiet", "--data", &data, "--run", "run"],
            Self::Extend => vec!["train", &toml, "--quiet", "--data", &data, "--run", "run", "--epochs", "3"],
            Self::Convert => vec!["convert", "reparameterize", &model, "--limit", "0", "--out", "out"],
            Self::ToPytorch => vec!["convert", "to-pytorch", &model, "--out", "network.pth"],
            Self::Energy => vec!["energy", &model, &data, "--quiet", "--out", "cost"],
            Self::Eval => vec!["eval", &model, "--data", &data, "--confusion", "confusion.csv"],
            Self::Tables => vec!["reproduce-tables", "--preset", "smoke", "--quiet", "--out", "tables"],
        };
        arguments.into_iter().map(str::to_owned).collect()
    }
}

/// What happened to the runs of a scenario.
#[derive(Debug, Default)]
struct Counts {
    killed: usize,
    refused: usize,
    went_on: usize,
    killed_again: usize,
    wrong: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.every > 0, "--every is 0; expected at least 1");
    let Some(workshop) = Workshop::open()? else {
        println!("skipped: this needs Linux and a C compiler called cc");
        return Ok(());
    };
    let scenarios = if args.only.is_empty() { Scenario::value_variants() } else { &args.only };
    let mut n_wrong = 0;
    println!(
        "{:<11} {:>7} {:>7} {:>8} {:>8} {:>12} {:>6}",
        "", "calls", "killed", "refused", "went on", "killed again", "wrong"
    );
    for &scenario in scenarios {
        let name = scenario.name();
        let (calls, counts) = examine(&workshop, scenario, args.every).with_context(|| name.clone())?;
        let Counts { killed, refused, went_on, killed_again, wrong } = &counts;
        println!("{name:<11} {calls:>7} {killed:>7} {refused:>8} {went_on:>8} {killed_again:>12} {:>6}", wrong.len());
        wrong.iter().for_each(|what| println!("  {what}"));
        n_wrong += wrong.len();
    }
    ensure!(n_wrong == 0, "{n_wrong} runs did not end with the same bytes or a clear error");
    Ok(())
}

/// Every fault of a scenario; the number of calls that it makes, and what came of them.
fn examine(workshop: &Workshop, scenario: Scenario, every: usize) -> Result<(usize, Counts)> {
    let earlier = scenario.earlier(&workshop.inputs());
    let task = workshop.task(&scenario.name(), scenario.arguments(&workshop.inputs()), earlier)?;
    let mut faults = Vec::new();
    for (i, how) in How::ALL.into_iter().enumerate() {
        if scenario == Scenario::Tables {
            // Each takes seconds, and the runs are processes that count for themselves.
            faults.extend([8, 40, 90, 160, 250].map(|at| Fault { how, at }));
            continue;
        }
        // Starting elsewhere for each kind of fault, a sample of one kind completes that of another.
        let places = task.places(how).into_iter().skip(i * 7 % every);
        faults.extend(places.step_by(every).map(|at| Fault { how, at }));
    }
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(Counts::default()));
    let worker = || -> Result<()> {
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let met = task.meet(*fault)?;
            let mut counts = counts.lock().expect("no worker panics");
            match met.outcome {
                Outcome::Killed => counts.killed += 1,
                Outcome::Refused => counts.refused += 1,
                Outcome::WentOn => counts.went_on += 1,
            }
            counts.killed_again += usize::from(met.is_killed_again);
            counts.wrong.extend(met.wrong.map(|what| format!("{}: {what}", task.describe(*fault))));
        }
        Ok(())
    };
    let n_workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok((task.n_calls(), counts.into_inner().expect("no worker panics")))
}
