//! `cargo xtask gpu-build`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::repository;

/// Build this program for NVIDIA GPUs on a machine without CUDA: the compiler comes as Python wheels into target/cuda-env.
///
/// The program loads CUDA's libraries when a GPU is asked for and not before, so it starts where there is no driver. It needs
/// Linux, Python with pip, a C compiler, and 500 MB. With an installed toolkit, `cargo build --release --features cuda,cudnn
/// -p xtask` does without this command.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask gpu-build                         target/gpu/xtask for compute capability 8.0 and newer
  eval \"$(cargo xtask gpu-build --env)\"         for a cargo build, test or check of one's own")]
pub(crate) struct Args {
    /// The oldest GPU to run on: 80 for the A100 and all that came after it, 86 and 89 for GeForce 30 and 40. What Candle
    /// compiles for 90 and more runs on that GPU alone.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(80..90))]
    compute_cap: u32,
    /// An interpreter with pip.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// The program to write [default: target/gpu/xtask].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Fetch what is missing, print the variables of a build for the shell, and build nothing.
    #[arg(long, conflicts_with = "out")]
    env: bool,
}

/// The CUDA whose compiler and headers are fetched. Its PTX runs on drivers from 580 on.
const CUDA: &str = "13.0";
const WHEELS: [&str; 6] = [
    "nvidia-cuda-nvcc",
    "nvidia-cuda-crt",
    "nvidia-nvvm",
    "nvidia-cuda-runtime",
    "nvidia-cuda-cccl",
    "nvidia-cuda-nvrtc",
];
/// What Candle's build asks the linker for, and the program loads by itself.
const LIBRARIES: [&str; 6] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc", "cudnn"];

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        cfg!(target_os = "linux"),
        "the wheels and what is made of them are for Linux; install the CUDA toolkit here"
    );
    let root = repository::root()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    let target = fs::canonicalize(target)?;
    let toolkit = target.join("cuda-build");
    make_toolkit(&fetch(&args.python, &target.join("cuda-env"))?, &toolkit)?;
    let triple = host()?;
    let variables = variables(&toolkit, &triple, args.compute_cap);
    if args.env {
        for (name, value) in variables {
            println!("export {name}='{value}'");
        }
        return Ok(());
    }
    let build = ["build", "--release", "--locked", "--package", "xtask", "--features", "cuda,cudnn", "--target-dir"];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    done(cargo.args(build).arg(&target).envs(variables).current_dir(&root))?;
    let out = args.out.clone().unwrap_or_else(|| target.join("gpu/xtask"));
    repository::make_parent(&out)?;
    done(Command::new("strip").arg("-o").arg(&out).arg(target.join(&triple).join("release/xtask")))?;
    // A library of CUDA that was linked after all has a name that no machine has.
    done(Command::new(&out).arg("--version"))?;
    let mib = fs::metadata(&out)?.len() as f64 / f64::from(1 << 20);
    println!("{}: {mib:.1} MiB; on the machine with the GPU: xtask gpu-run --help", out.display());
    Ok(())
}

/// The compiler's wheels, unpacked; what pip says goes to standard error.
fn fetch(python: &Path, folder: &Path) -> Result<PathBuf> {
    let home = folder.join("nvidia").join(format!("cu{}", CUDA.split('.').next().unwrap_or_default()));
    let ready = folder.join(format!("cuda-{CUDA}"));
    if !ready.exists() {
        let wheels = WHEELS.map(|wheel| format!("{wheel}=={CUDA}.*"));
        let output = Command::new(python)
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--upgrade", "--target"])
            .arg(folder)
            .args(&wheels)
            .output()
            .with_context(|| format!("{}: cannot be started; name an interpreter with --python", python.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} -m pip install {}: {}", python.display(), wheels.join(" "), said.trim());
        fs::write(&ready, "").with_context(|| ready.display().to_string())?;
    }
    ensure!(
        home.join("bin/nvcc").is_file(),
        "{}: expected bin/nvcc of the wheels; remove {}",
        home.display(),
        folder.display()
    );
    Ok(home)
}

/// What a build takes for an installed toolkit: the compiler, its headers, and libraries to link with.
///
/// The libraries are empty, because cudarc loads the real ones when it calls them; only the runtime library that Candle's
/// kernels start with is linked, the static one.
fn make_toolkit(home: &Path, folder: &Path) -> Result<()> {
    for part in ["bin", "lib"] {
        fs::create_dir_all(folder.join(part)).with_context(|| folder.display().to_string())?;
    }
    for (link, to) in [("include", "include"), ("lib/libcudart.a", "lib/libcudart_static.a")] {
        let link = folder.join(link);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(home.join(to), &link).with_context(|| link.display().to_string())?;
    }
    for library in LIBRARIES {
        let name = format!("-Wl,-soname,lib{library}-is-loaded-and-not-linked");
        let to = folder.join(format!("lib/lib{library}.so"));
        done(Command::new("cc").args(["-shared", "-nostdlib", "-x", "c", "/dev/null", &name, "-o"]).arg(to))?;
    }
    let nvcc = folder.join("bin/nvcc");
    fs::write(&nvcc, compiler(home)).with_context(|| nvcc.display().to_string())?;
    fs::set_permissions(&nvcc, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// NVIDIA's compiler, but for the kernels of quantised weights and mixtures of experts: minutes each on two cores, megabytes, and
/// called by nothing here. What calls them cannot be linked, or says that there is no such function.
fn compiler(home: &Path) -> String {
    format!(
        r#"#!/bin/sh
# Made by `cargo xtask gpu-build`.
out=; last=
for argument; do
  case "$last" in -o|--output-directory) out=$argument ;; esac
  last=$argument
done
case "$*" in
  *-c*src/moe/*|*-c*gguf*) exec cc -c -x c /dev/null -o "$out" ;;
  *--ptx*src/quantized.cu) printf '.version 9.0\n.target sm_80\n.address_size 64\n' >"$out/quantized.ptx"; exit ;;
esac
exec '{}/bin/nvcc' "$@"
"#,
        home.display()
    )
}

/// What cargo, candle-kernels and cudarc are told.
fn variables(toolkit: &Path, triple: &str, compute_cap: u32) -> [(String, String); 6] {
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    let version = CUDA.replace('.', "0") + "0";
    [
        ("NVCC".into(), toolkit.join("bin/nvcc").display().to_string()),
        ("CUDA_HOME".into(), toolkit.display().to_string()),
        ("CUDARC_CUDA_VERSION".into(), version),
        ("CUDA_COMPUTE_CAP".into(), compute_cap.to_string()),
        // Candle asks for cudarc's feature dynamic-linking, whose build script refuses dynamic-loading beside it. Flags do
        // not reach build scripts where a target is named: the script links (to nothing), and the crate loads.
        ("CARGO_BUILD_TARGET".into(), triple.into()),
        (flags, r#"--cfg feature="dynamic-loading""#.into()),
    ]
}

/// The triple that rustc compiles for.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("rustc -vV: expected a line `host: …`, got {said}"))
}

/// Runs a command to its end.
fn done(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(std::io::stderr()).status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("{name} {}: {status}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler is NVIDIA's, but not for what nobody calls.
    #[test]
    #[cfg(target_os = "linux")]
    fn kernels_that_nothing_calls_become_empty_objects() {
        if Command::new("cc").arg("--version").output().is_err() {
            println!("skipped: no C compiler; install gcc or clang");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let nvcc = folder.path().join("bin/nvcc");
        fs::create_dir_all(nvcc.parent().unwrap()).unwrap();
        fs::write(&nvcc, "#!/bin/sh\necho \"$@\"\n").unwrap();
        let wrapper = folder.path().join("nvcc");
        fs::write(&wrapper, compiler(folder.path())).unwrap();
        for file in [&nvcc, &wrapper] {
            fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let output = Command::new(&wrapper).args(["--ptx", "src/unary.cu"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "--ptx src/unary.cu\n");
        let ptx =
            ["--ptx", "--output-directory", &folder.path().display().to_string(), "src/quantized.cu"].map(String::from);
        assert!(Command::new(&wrapper).args(&ptx).status().unwrap().success());
        assert!(fs::read_to_string(folder.path().join("quantized.ptx")).unwrap().starts_with(".version"));
        let object = folder.path().join("a b.o");
        let status =
            Command::new(&wrapper).args(["-c", "-o"]).arg(&object).arg("src/mmq_gguf/mmq.cu").status().unwrap();
        assert!(status.success() && object.is_file());
    }

    #[test]
    fn variables_name_the_target_and_the_version() {
        let variables = variables(Path::new("/t"), "x86_64-unknown-linux-gnu", 80);
        let value = |name: &str| variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        assert_eq!(value("CUDARC_CUDA_VERSION"), Some("13000"));
        assert_eq!(value("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS"), Some("--cfg feature=\"dynamic-loading\""));
        assert_eq!(value("CUDA_COMPUTE_CAP"), Some("80"));
    }
}
