//! What can be checked of the kernels without a GPU, beside the tests on the emulator: [`run`].
//!
//! | part | by | finds |
//! |---|---|---|
//! | OpenCL | clang's front end, OpenCL C 1.2 | address spaces, types |
//! | Metal | clang's C++ for OpenCL, with a shim for Metal's library | the same, and any double |
//! | CUDA | NVRTC and ptxas, from NVIDIA's Python wheels | whether it compiles, registers, spills, f64 where none should be |
//! | OpenCL, run (feature `opencl`) | PoCL or another OpenCL: the whole suite | another compiler's barriers and arithmetic |
//!
//! A part whose tools are missing is skipped, with the command that installs them. The specialisations are those that
//! the plans ask for in networks of the usual sizes.

mod nvrtc;
mod programs;
mod recorder;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nvrtc::Nvrtc;
pub use programs::programs;

use crate::{Dtype, Language, METAL_SHIM, Program};

/// Where tools and scratch files are.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of NVIDIA's wheels: `pip install --target FOLDER nvidia-cuda-nvrtc nvidia-cuda-nvcc`.
    pub cuda: PathBuf,
    /// A folder for texts and compilers' output; it is made where it is not there.
    pub scratch: PathBuf,
}

impl Options {
    /// Both below a `target` folder.
    pub fn below(target: &Path) -> Self {
        Self { cuda: target.join("cuda-env"), scratch: target.join("gpu-check") }
    }
}

/// How a part ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed; what there is to say.
    Passed(Vec<String>),
    /// A tool is missing; which one, and how to install it.
    Skipped(String),
    /// It failed; what the tools said.
    Failed(Vec<String>),
}

/// A part of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What was checked.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, lines) = match &self.outcome {
            Outcome::Passed(lines) => ("passed", lines.as_slice()),
            Outcome::Skipped(reason) => return write!(f, "{}: skipped: {reason}", self.name),
            Outcome::Failed(lines) => ("FAILED", lines.as_slice()),
        };
        write!(f, "{}: {how}", self.name)?;
        lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Runs every part whose tools are there, for all [`programs`]: some minutes.
///
/// # Errors
/// The scratch folder cannot be written to.
///
/// ```no_run
/// use lmht_gpu::check::{Options, Outcome, run};
/// let parts = run(&Options::below("target".as_ref()))?;
/// for part in &parts {
///     println!("{part}");
/// }
/// assert!(!parts.iter().any(|part| matches!(part.outcome, Outcome::Failed(_))));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn run(options: &Options) -> io::Result<Vec<Part>> {
    #[cfg_attr(not(feature = "opencl"), allow(unused_mut))]
    let mut parts = run_on(&programs().map_err(io::Error::other)?, options)?;
    #[cfg(feature = "opencl")]
    parts.push(Part { name: "the suite on OpenCL", outcome: suite_on_opencl() });
    Ok(parts)
}

#[cfg(feature = "opencl")]
fn suite_on_opencl() -> Outcome {
    use crate::opencl::OpenCl;
    use crate::suite::{Hosted, checks};
    let machine = match OpenCl::first() {
        Ok(machine) => Hosted(machine),
        Err(missing) => return Outcome::Skipped(missing),
    };
    let checks = checks();
    let ran = vec![format!("{} checks, f64 and the other types", checks.len())];
    ended(checks.iter().filter_map(|check| (check.run)(&machine).err()).collect(), ran)
}

/// The same for some programs.
///
/// # Errors
/// The scratch folder cannot be written to.
pub fn run_on(programs: &[Program], options: &Options) -> io::Result<Vec<Part>> {
    fs::create_dir_all(&options.scratch)?;
    fs::write(options.scratch.join("metal_stdlib"), METAL_SHIM)?;
    let without_f64: Vec<Program> = programs.iter().filter(|program| program.dtype != Dtype::F64).cloned().collect();
    Ok(vec![
        Part { name: "OpenCL C by clang", outcome: clang(Language::OpenCl, programs, &options.scratch)? },
        Part { name: "Metal by clang and a shim", outcome: clang(Language::Metal, &without_f64, &options.scratch)? },
        Part { name: "CUDA by NVRTC and ptxas", outcome: cuda(programs, options) },
    ])
}

/// Every text through clang's front end.
fn clang(language: Language, programs: &[Program], scratch: &Path) -> io::Result<Outcome> {
    let versions = (14..=22).rev().map(|version| format!("clang-{version}"));
    let starts =
        |name: &String| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let Some(clang) = versions.chain(["clang".to_string()]).find(starts) else {
        return Ok(Outcome::Skipped("no clang on PATH; Debian: apt-get install clang".to_string()));
    };
    let flags: &[&str] = match language {
        Language::Metal => &["-x", "clcpp", "-cl-std=clc++2021", "-I."],
        _ => &["-x", "cl", "-cl-std=CL1.2"],
    };
    let mut failures = Vec::new();
    for program in programs {
        let text = program.source(language).map_err(io::Error::other)?;
        let name = format!("{}.{language:?}.txt", program.key());
        fs::write(scratch.join(&name), text)?;
        let common = ["-target", "spir64", "-fsyntax-only", "-Wno-unknown-pragmas", "-Wno-unused"];
        let output = Command::new(&clang).current_dir(scratch).args(flags).args(common).arg(&name).output()?;
        if !output.status.success() {
            failures.push(format!("{}: {}", program.key(), String::from_utf8_lossy(&output.stderr)));
        }
        fs::remove_file(scratch.join(&name))?;
    }
    Ok(ended(failures, vec![format!("{} specialisations, {clang}", programs.len())]))
}

/// Every text through NVIDIA's compilers.
fn cuda(programs: &[Program], options: &Options) -> Outcome {
    let nvrtc = match Nvrtc::find(&options.cuda) {
        Ok(nvrtc) => nvrtc,
        Err(missing) => {
            let command = format!("pip install --target {} nvidia-cuda-nvrtc nvidia-cuda-nvcc", options.cuda.display());
            return Outcome::Skipped(format!("{missing}; {command}"));
        }
    };
    let (mut failures, mut lines) = (Vec::new(), vec![format!("{} specialisations, sm_90", programs.len())]);
    for program in programs {
        match nvrtc.check(program, &options.scratch) {
            Ok(kernels) => lines.extend(kernels.iter().map(|kernel| format!("{} {kernel}", program.key()))),
            Err(said) => failures.push(format!("{}: {said}", program.key())),
        }
    }
    ended(failures, lines)
}

fn ended(failures: Vec<String>, lines: Vec<String>) -> Outcome {
    if failures.is_empty() { Outcome::Passed(lines) } else { Outcome::Failed(failures) }
}
