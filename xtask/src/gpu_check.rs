//! `cargo xtask gpu-check`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lmht_gpu::check::{self, Options, Outcome, Part};

use crate::repository;

/// Check everything of the GPU code that can be checked without a GPU.
///
/// Kernel texts through the compilers of OpenCL, Metal and CUDA, the suite on an OpenCL of the CPU, and the types of both
/// launchers. A part whose tool is missing is skipped and says how to install it. The emulator's tests are `cargo test`'s.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask gpu-check --kernels
  cargo xtask gpu-check                everything; the first time Candle is checked, too")]
pub(crate) struct Args {
    /// Only the types of the launchers, which needs nothing installed.
    #[arg(long)]
    launchers: bool,
    /// Only the kernels, without the types of the launchers, for which Candle is checked twice the first time.
    #[arg(long, conflicts_with = "launchers")]
    kernels: bool,
}

impl Args {
    /// Those of `ci`.
    pub(crate) fn kernels() -> Self {
        Self { launchers: false, kernels: true }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository::root()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut failed = Vec::new();
    let mut show = |part: &Part| {
        println!("{part}");
        if matches!(part.outcome, Outcome::Failed(_)) {
            failed.push(part.name);
        }
    };
    if !args.kernels {
        launchers(&root, &target)?.iter().for_each(&mut show);
    }
    if !args.launchers {
        check::run(&Options::below(&target))?.iter().for_each(&mut show);
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The types of both launchers, without a CUDA toolkit and on any system: against copies of two crates that are made here from
/// what cargo has fetched, one without its kernels, one without its link to a framework.
fn launchers(root: &Path, target: &Path) -> Result<[Part; 2]> {
    let folder = target.join("gpu-check").join("launchers");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    stub_kernels(&fetched(root, "candle-kernels", "cuda")?, &folder.join("candle-kernels"))?;
    unlinked_metal(&fetched(root, "objc2-metal", "metal")?, &folder.join("objc2-metal"))?;
    let root = fs::canonicalize(root)?;
    let manifest = format!(
        r#"# Made by `cargo xtask gpu-check`.
[package]
name = "launchers"
edition = "2024"
[lib]
path = "lib.rs"
[features]
cuda = ["lmht-nn/cuda", "lmht-nn/cudnn"]
metal = ["lmht-nn/metal"]
[dependencies]
lmht-nn = {{ path = "{}" }}
[patch.crates-io]
candle-kernels = {{ path = "candle-kernels" }}
objc2-metal = {{ path = "objc2-metal" }}
[workspace]
"#,
        root.join("crates/lmht-nn").display()
    );
    write(&folder.join("Cargo.toml"), &manifest)?;
    write(&folder.join("lib.rs"), "")?;
    // The versions of the workspace; its own lock file stays as it is.
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).context("Cargo.lock")?;
    Ok([
        Part { name: "types of the CUDA launcher", outcome: types(&folder, target, "cuda")? },
        Part { name: "types of the Metal launcher", outcome: types(&folder, target, "metal")? },
    ])
}

fn types(folder: &Path, target: &Path, feature: &str) -> Result<Outcome> {
    let output = cargo()
        .args(["check", "--features", feature, "--target-dir"])
        .arg(target)
        .current_dir(folder)
        // What cudarc would ask nvcc for.
        .env("CUDARC_CUDA_VERSION", "13000")
        .output()
        .context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // The copies have warnings; ours may have none.
    Ok(if output.status.success() && !said.contains("`lmht-") {
        Outcome::Passed(vec![format!("cargo check of lmht-nn with the feature {feature}")])
    } else {
        Outcome::Failed(said.lines().map(str::to_string).collect())
    })
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The folder of a crate that a feature of lmht-nn needs; cargo fetches it if it is not there.
fn fetched(root: &Path, name: &str, feature: &str) -> Result<PathBuf> {
    let manifest = root.join("crates/lmht-nn/Cargo.toml");
    let arguments = ["metadata", "--format-version", "1", "--locked", "--features", feature, "--manifest-path"];
    let output = cargo().args(arguments).arg(manifest).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let found =
        packages.filter(|package| package["name"] == name).find_map(|package| package["manifest_path"].as_str());
    let Some(path) = found else { bail!("cargo metadata names no {name}, which lmht-nn's feature {feature} needs") };
    Ok(Path::new(path).parent().unwrap_or(Path::new("")).to_path_buf())
}

/// A copy of candle-kernels whose build writes empty kernels.
fn stub_kernels(from: &Path, to: &Path) -> Result<()> {
    copy(&from.join("src"), &to.join("src"), "")?;
    let build = r#"//! Writes an empty text for every kernel.
fn main() {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let mut names = String::new();
    for entry in std::fs::read_dir("src").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_uppercase();
            names += &format!("pub const {name}: &str = \"\";\n");
        }
    }
    std::fs::write(out.join("ptx.rs"), names).unwrap();
}
"#;
    write(&to.join("build.rs"), build)?;
    let manifest = fs::read_to_string(from.join("Cargo.toml")).context("candle-kernels")?;
    write(&to.join("Cargo.toml"), &without_table(&manifest, "[build-dependencies.cudaforge]"))
}

/// A copy of objc2-metal that neither links Metal nor needs Apple's runtime.
fn unlinked_metal(from: &Path, to: &Path) -> Result<()> {
    copy(&from.join("src"), &to.join("src"), "#[link(name = \"Metal\", kind = \"framework\")]\n")?;
    let mut manifest = fs::read_to_string(from.join("Cargo.toml")).context("objc2-metal")?;
    for dependency in ["objc2", "block2"] {
        manifest = with_feature(&manifest, &format!("[dependencies.{dependency}]"), "gnustep-2-1")?;
    }
    write(&to.join("Cargo.toml"), &manifest)
}

/// A manifest without one of its tables.
fn without_table(manifest: &str, table: &str) -> String {
    let mut skipped = false;
    let kept = manifest.lines().filter(|line| {
        if line.starts_with('[') {
            skipped = *line == table;
        }
        !skipped
    });
    kept.collect::<Vec<_>>().join("\n") + "\n"
}

/// A manifest with a feature more of a dependency, which has a table of its own as cargo writes it.
fn with_feature(manifest: &str, table: &str, feature: &str) -> Result<String> {
    let Some((before, after)) = manifest.split_once(&format!("{table}\n")) else {
        bail!("objc2-metal has no {table}; change gpu_check.rs")
    };
    let (own, rest) = after.split_at(after.find("\n[").unwrap_or(after.len()));
    let own = match own.split_once("features = [") {
        Some((head, tail)) => format!("{head}features = [\"{feature}\", {tail}"),
        None => format!("{}\nfeatures = [\"{feature}\"]\n", own.trim_end()),
    };
    Ok(format!("{before}{table}\n{own}{rest}"))
}

/// Copies a folder of texts, without the line `left_out`.
fn copy(from: &Path, to: &Path, left_out: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &copied, left_out)?;
        } else {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            write(&copied, &if left_out.is_empty() { text } else { text.replace(left_out, "") })?;
        }
    }
    Ok(())
}

/// Writes a file unless it has that text, so that cargo does not build it anew.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}
