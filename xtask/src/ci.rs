//! `cargo xtask ci`: every check of the repository.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::{gpu_check, repository};

/// Run every check: format, lints, docs, each crate alone, GPU kernels, tests, doc tests, and the smoke preset of reproduce-tables.
///
/// Installs cargo-nextest if it is missing. Tests and commands share the release profile, so that the dependencies are compiled
/// once; what only type-checks shares the dev profile.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A name, the arguments of cargo, and environment variables.
type Step = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

/// The checks in the order in which they fail fastest.
const STEPS: [Step; 8] = [
    ("format", &["fmt", "--all", "--check"], &[]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[]),
    ("documentation", &["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "-D warnings")]),
    (
        "tests with debug assertions and overflow checks",
        &["nextest", "run", "--package", "lmht-core", "--package", "lmht-kernels", "--locked", "--no-fail-fast"],
        &[("CARGO_PROFILE_DEV_OPT_LEVEL", "1"), ("CARGO_PROFILE_DEV_DEBUG", "false")],
    ),
    ("tests", &["nextest", "run", "--cargo-profile", "release", "--workspace", "--locked", "--no-fail-fast"], &[]),
    ("doc tests", &["test", "--release", "--workspace", "--doc", "--locked"], &[]),
    ("benchmarks compile and run", &["test", "--release", "--workspace", "--bench", "bench_main", "--locked"], &[]),
    (
        "smoke",
        &[
            "run",
            "--release",
            "--package",
            "xtask",
            "--locked",
            "--",
            "reproduce-tables",
            "--preset",
            "smoke",
            "--retrain",
            "--out",
            "target/smoke",
        ],
        &[],
    ),
];

/// What people depend on.
const CRATES: [&str; 9] = [
    "lmht-core",
    "lmht-kernels",
    "lmht-gpu",
    "lmht-hub",
    "lmht-datasets",
    "lmht-nn",
    "lmht-train",
    "lmht-convert",
    "lmht-bench",
];

/// Runs the command.
pub(crate) fn run(_: &Args) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let nextest = Command::new(&cargo).args(["nextest", "--version"]).output();
    if !nextest.is_ok_and(|output| output.status.success()) {
        println!("== cargo-nextest is not installed: cargo install --locked cargo-nextest");
        let status = Command::new(&cargo).args(["install", "--locked", "cargo-nextest"]).status();
        ensure!(
            status.context("cannot start cargo")?.success(),
            "cargo-nextest could not be installed; see https://nexte.st/docs/installation and try again"
        );
    }
    for (name, arguments, environment) in STEPS {
        step(&cargo, name, arguments, environment)?;
        if name == "lints" {
            // A crate that compiles in the workspace may miss a feature that another one switches on there.
            for package in CRATES {
                let alone = ["check", "--package", package, "--all-targets", "--locked"];
                step(&cargo, &format!("{package} alone"), &alone, &[])?;
                let bare = [&alone[..], &["--no-default-features"]].concat();
                step(&cargo, &format!("{package} without features"), &bare, &[])?;
            }
            println!("== GPU kernels: cargo xtask gpu-check --kernels");
            let started = Instant::now();
            gpu_check::run(&gpu_check::Args::kernels()).context("repeat it with `cargo xtask gpu-check --kernels`")?;
            println!("== GPU kernels: passed in {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    println!("== every check passed");
    Ok(())
}

fn step(cargo: &str, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    println!("== {name}: cargo {}", arguments.join(" "));
    let started = Instant::now();
    let status = Command::new(cargo)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(repository::root()?)
        .status()
        .with_context(|| format!("{name}: cannot start cargo"))?;
    ensure!(status.success(), "{name} failed; repeat it with `cargo {}`", arguments.join(" "));
    println!("== {name}: passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
