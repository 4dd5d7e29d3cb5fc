//! Every check of the kernels that needs no GPU: `cargo run -p lmht-gpu --example gpu_check --features opencl [TARGET FOLDER]`.
//!
//! It says of each part what it found, or which tool it lacks and how to install it.

use std::path::PathBuf;
use std::process::ExitCode;

use lmht_gpu::check::{Options, Outcome, run};

fn main() -> std::io::Result<ExitCode> {
    let target = std::env::args().nth(1).map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let parts = run(&Options::below(&target))?;
    for part in &parts {
        println!("{part}");
    }
    let failed = parts.iter().any(|part| matches!(part.outcome, Outcome::Failed(_)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
