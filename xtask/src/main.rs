//! Commands of the workspace. Each is thin: what a user of the crates would want is in the crates.

/// As in std, but a reader that has gone away (`| head`) ends the program quietly and not by a panic.
macro_rules! print {
    ($($text:tt)*) => { crate::write_out(format_args!($($text)*)) };
}
macro_rules! println {
    ($($text:tt)*) => { print!("{}\n", format_args!($($text)*)) };
}
/// As in std, but nothing happens where nobody listens.
macro_rules! eprintln {
    ($($text:tt)*) => { crate::write_err(format_args!("{}\n", format_args!($($text)*))) };
}

mod ci;
mod compare;
mod convert;
mod data;
mod device;
mod energy;
mod eval;
mod events;
mod experiment;
mod fetch;
mod golden;
mod gpu_build;
mod gpu_check;
mod gpu_run;
mod hub;
mod package;
mod predict;
mod provenance;
mod published;
mod reliability;
mod repository;
mod reproduce;
mod stop;
mod terminal;
mod train;
mod trained;

use clap::{Parser, Subcommand};

/// Every tensor is a fresh allocation; an allocator that keeps freed pages saves the cost of touching new ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Commands of the LM-HT workspace.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    ReproduceTables(reproduce::Args),
    Train(train::Args),
    Eval(eval::Args),
    Predict(predict::Args),
    Convert(convert::Args),
    Energy(energy::Args),
    Events(events::Args),
    Fetch(fetch::Args),
    Package(package::Args),
    Golden(golden::Args),
    GpuCheck(gpu_check::Args),
    Reliability(reliability::Args),
    GpuBuild(gpu_build::Args),
    GpuRun(gpu_run::Args),
    Compare(compare::Args),
    #[command(hide = true)]
    CompareWorker(compare::worker::Args),
    Ci(ci::Args),
}

fn main() -> std::process::ExitCode {
    // A decoder that gives up on a damaged file ends in an error that names the file; its panic is no news beside it.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !lmht_datasets::is_decoding() {
            usual(panic);
        }
    }));
    let result = match Cli::parse().command {
        Command::ReproduceTables(args) => reproduce::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Energy(args) => energy::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Fetch(args) => fetch::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Golden(args) => golden::run(&args),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Reliability(args) => reliability::run(&args),
        Command::GpuBuild(args) => gpu_build::run(&args),
        Command::GpuRun(args) => gpu_run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::CompareWorker(args) => compare::worker::run(&args),
        Command::Ci(args) => ci::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(lmht_train::Error::Stopped { .. })) => {
            eprintln!("{}", terminal::message(&error));
            stop::exit_code().into()
        }
        Err(error) => {
            eprintln!("error: {}", terminal::message(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

fn write_out(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout();
    let Err(error) = out.write_all(shown(text).as_bytes()).and_then(|()| out.flush()) else { return };
    let is_closed = error.kind() == std::io::ErrorKind::BrokenPipe;
    if !is_closed {
        eprintln!("error: cannot write to standard output: {error}");
    }
    std::process::exit(i32::from(!is_closed));
}

fn write_err(text: std::fmt::Arguments<'_>) {
    _ = std::io::Write::write_all(&mut std::io::stderr(), shown(text).as_bytes());
}

/// Text without what moves a terminal: the names in it may be anybody's.
fn shown(text: std::fmt::Arguments<'_>) -> String {
    text.to_string().replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), "\u{fffd}")
}
