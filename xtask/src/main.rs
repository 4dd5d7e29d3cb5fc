//! Commands of the workspace. Each is thin: what a user of the crates would want is in the crates.

mod ci;
mod compare;
mod convert;
mod data;
mod energy;
mod eval;
mod experiment;
mod golden;
mod provenance;
mod published;
mod reproduce;
mod stop;
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
    Convert(convert::Args),
    Energy(energy::Args),
    Golden(golden::Args),
    Compare(compare::Args),
    #[command(hide = true)]
    CompareWorker(compare::worker::Args),
    Ci(ci::Args),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::ReproduceTables(args) => reproduce::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Energy(args) => energy::run(&args),
        Command::Golden(args) => golden::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::CompareWorker(args) => compare::worker::run(&args),
        Command::Ci(args) => ci::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(lmht_train::Error::Stopped { .. })) => {
            eprintln!("{error:#}");
            stop::exit_code().into()
        }
        Err(error) => {
            // The chain from what was attempted to why it failed, one line.
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
