//! The commands as a user runs them: a killed run, a full disk, bad input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A network that trains in seconds, with a checkpoint every other step.
const CONFIG: &str = r#"
[model]
backbone = "resnet18"
stem = "imagenet"
width = 4
in_channels = 1
n_classes = 10
timesteps = 2
neuron = { kind = "lmht", levels = 2 }

[train]
epochs = 3
batch_size = 32
seed = 7
checkpoint_every_steps = 2
optimizer = { kind = "sgd", lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 5e-4 }

[data]
path = "sample"
parquet = { max_per_class = 32 }
augment = { crop_padding = 2, flip = true }
"#;

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    xtask(arguments).output().expect("the program starts")
}

/// Writes a configuration and returns its path.
fn config(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// Fails unless the command ended with an error, without a panic, that says all of `parts`.
#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
}

/// Every file of a finished run that must be the same for the same run, by its path below the folder.
fn reproducible_files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().to_path_buf();
            // Command, machine and times.
            if ["run.json", "timing.jsonl", "tensorboard"].iter().any(|name| below == Path::new(name)) {
                continue;
            }
            if path.is_dir() {
                walk(&path, root, files);
            } else {
                files.insert(below, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(folder, folder, &mut files);
    files
}

/// The newest checkpoint of a run.
fn newest(run: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(run.join("checkpoints")).ok()?;
    let is_complete =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-"));
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_complete).max()
}

/// Kills the process as soon as the run has another newest checkpoint than before; false if it finished first.
fn kill_after_next_checkpoint(mut child: Child, run: &Path, before: &Option<PathBuf>) -> bool {
    let started = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if newest(run) > *before {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fails with the names of the files that differ.
#[track_caller]
fn assert_same_files(a: &Path, b: &Path) {
    let (a, b) = (reproducible_files(a), reproducible_files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "other files");
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{} differs", name.display());
    }
    assert!(a.contains_key(Path::new("model/model.safetensors")), "nothing was compared: {:?}", a.keys());
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "experiment.toml", CONFIG);
    // The model card names the command, so both runs must be given the same one.
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let arguments = |run: &'static str| ["train", &config, "--quiet", "--run", run].map(str::to_owned);
    let start = |parent: &Path| {
        std::fs::create_dir_all(parent).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(arguments("run")).current_dir(parent).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let output = start(&whole).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let run = killed.join("run");
    let mut n_killed = 0;
    for _ in 0..5 {
        let before = newest(&run);
        n_killed += usize::from(kill_after_next_checkpoint(start(&killed).spawn().unwrap(), &run, &before));
    }
    assert_eq!(n_killed, 5, "the run finished too early to be killed");
    assert!(!run.join("metrics.json").exists(), "the run finished before it was killed");
    let output = start(&killed).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same_files(&whole.join("run"), &run);
}

#[test]
fn a_full_disk_leaves_the_earlier_checkpoint_and_the_run_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "experiment.toml", CONFIG);
    let run_folder = folder.path().join("run");
    let arguments = ["train", &config, "--quiet", "--run", text(&run_folder)];
    assert!(kill_after_next_checkpoint(xtask(&arguments).spawn().unwrap(), &run_folder, &None));
    let checkpoint = newest(&run_folder).unwrap();
    let before = std::fs::read(checkpoint.join("model.safetensors")).unwrap();

    // Writing past 32 KiB fails as it does on a full disk; the ignored signal is inherited.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_xtask")]).args(arguments).output().unwrap();
    assert_refused(&output, &["model.safetensors", "File too large", "resume"]);
    assert_eq!(newest(&run_folder).unwrap(), checkpoint);
    assert!(std::fs::read(checkpoint.join("model.safetensors")).unwrap() == before, "the checkpoint was touched");
    let names = std::fs::read_dir(run_folder.join("checkpoints")).unwrap();
    assert_eq!(names.count(), 1, "something half-written stayed");

    let output = run(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn another_configuration_does_not_continue_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let one = config(folder.path(), "one.toml", &CONFIG.replace("epochs = 3", "epochs = 1"));
    let other = config(folder.path(), "other.toml", &CONFIG.replace("width = 4", "width = 8"));
    assert!(run(&["train", &one, "--quiet", "--run", text(&run_folder)]).status.success());
    let files = reproducible_files(&run_folder);
    let output = run(&["train", &other, "--quiet", "--run", text(&run_folder)]);
    assert_refused(&output, &["config.json", "another configuration", "choose another folder"]);
    assert!(reproducible_files(&run_folder) == files, "the earlier run was touched");

    // A checkpoint of another network below the right configuration.
    let foreign = folder.path().join("foreign");
    assert!(run(&["train", &other, "--quiet", "--epochs", "1", "--run", text(&foreign)]).status.success());
    std::fs::copy(
        newest(&foreign).unwrap().join("model.safetensors"),
        newest(&run_folder).unwrap().join("model.safetensors"),
    )
    .unwrap();
    let output = run(&["train", &one, "--quiet", "--run", text(&run_folder)]);
    assert_refused(&output, &["model.safetensors", "conv1.weight: expected shape [4, 1, 7, 7], got [8, 1, 7, 7]"]);

    // And a model folder whose weights are another network's.
    let model = run_folder.join("model");
    std::fs::copy(foreign.join("model/model.safetensors"), model.join("model.safetensors")).unwrap();
    assert_refused(&run(&["eval", text(&model)]), &["model.safetensors", "fc.0.weight"]);
}

#[test]
fn a_wrong_configuration_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    for (from, to, parts) in [
        ("epochs = 3", "epoch = 3", &["bad.toml", "epoch"][..]),
        ("width = 4", "width = 0", &["width is 0", "1..=65536"]),
        ("levels = 2", "levels = 0", &["levels"]),
        ("lr = 0.05", "lr = -1.0", &["lr"]),
        ("timesteps = 2", "timesteps = \"two\"", &["timesteps"]),
        ("n_classes = 10", "n_classes = 12", &["10 classes", "model.n_classes is 12"]),
        ("in_channels = 1", "in_channels = 3", &["1 channel", "model.in_channels is 3"]),
        ("crop_padding = 2", "crop_padding = 28", &["crop_padding"]),
        ("path = \"sample\"", "path = \"nowhere\"", &["nowhere"]),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        let config = config(folder.path(), "bad.toml", &CONFIG.replace(from, to));
        let output = run(&["train", &config, "--quiet", "--run", text(&run_folder)]);
        assert_refused(&output, parts);
        assert!(!run_folder.join("config.json").exists(), "{to}: something was written");
    }
}

#[test]
fn damaged_data_is_refused_with_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/sample");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let (train, test) = ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet");
    std::fs::copy(sample.join(test), data.join(test)).unwrap();
    let bytes = std::fs::read(sample.join(train)).unwrap();
    let config = config(folder.path(), "experiment.toml", CONFIG);
    let run_folder = folder.path().join("run");
    for damaged in [&bytes[..bytes.len() / 2], b"label,image\n1,a.png\n", b""] {
        std::fs::write(data.join(train), damaged).unwrap();
        let output = run(&["train", &config, "--quiet", "--data", text(&data), "--run", text(&run_folder)]);
        assert_refused(&output, &[train]);
    }
}

#[test]
fn a_value_that_is_not_finite_ends_the_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "wild.toml", &CONFIG.replace("lr = 0.05", "lr = 1e30"));
    let run_folder = folder.path().join("run");
    let output = run(&["train", &config, "--quiet", "--run", text(&run_folder)]);
    assert_refused(&output, &["not finite", "epoch 1", "smaller lr"]);
    assert!(!run_folder.join("metrics.json").exists());
}

#[test]
fn recorded_rows_are_read_and_not_trained_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tables");
    let arguments = ["reproduce-tables", "--preset", "smoke", "--out", text(&out)];
    let first = run(&arguments);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let tables = String::from_utf8_lossy(&first.stdout).into_owned();
    for part in ["76.22", "80.56", "96.25", "stand-in", "These accuracies mean nothing", "ResNet-18", "VGG-13"] {
        assert!(tables.contains(part), "expected {part:?} in: {tables}");
    }
    assert!(String::from_utf8_lossy(&first.stderr).contains("4 runs to train"));
    let second = run(&arguments);
    assert!(second.status.success());
    assert_eq!(String::from_utf8_lossy(&second.stderr), "", "something was trained again");
    assert_eq!(String::from_utf8_lossy(&second.stdout), tables);

    // A record of another configuration is not passed off as this one's.
    let run_folder =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let config_path = run_folder.join("config.json");
    let changed = std::fs::read_to_string(&config_path).unwrap().replace("\"epochs\": 1", "\"epochs\": 2");
    std::fs::write(&config_path, changed).unwrap();
    assert_refused(&run(&arguments), &["another configuration", "--retrain"]);
}

#[test]
fn evaluation_gives_the_accuracy_of_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let config = config(folder.path(), "one.toml", &CONFIG.replace("epochs = 3", "epochs = 1"));
    assert!(run(&["train", &config, "--quiet", "--run", text(&run_folder)]).status.success());
    let output = run(&["eval", text(&run_folder), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let evaluation: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let metrics: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(run_folder.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(evaluation["evaluation"]["top1"], metrics["top1"]);
    assert_eq!(evaluation["evaluation"]["n_images"], 2000);
}

#[test]
fn every_command_explains_itself() {
    for command in ["reproduce-tables", "train", "eval", "golden", "ci"] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(help.contains(&format!("Usage: cargo xtask {command}")), "{help}");
        assert!(command == "ci" || help.contains("Example"), "{help}");
    }
}

#[test]
fn energy_reports_what_a_run_costs() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "experiment.toml", &CONFIG.replace("epochs = 3", "epochs = 1"));
    let (run_folder, out) = (folder.path().join("run"), folder.path().join("cost"));
    let output = run(&["train", &config, "--quiet", "--run", text(&run_folder)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let energy = |arguments: &[&str]| run(&[&["energy", text(&run_folder), "sample", "--quiet"], arguments].concat());
    // The second report takes the place of the first.
    for limit in ["7", "130"] {
        let output = energy(&["--limit", limit, "--out", text(&out), "--format", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed["cost"]["n_images"].to_string(), limit);
        assert!(printed["totals"]["sops"].as_f64().unwrap() > 0.);
        assert_eq!(output.stdout, std::fs::read(out.join("report.json")).unwrap());
        // A header, and a line for each image and timestep.
        let images = std::fs::read_to_string(out.join("images.csv")).unwrap();
        assert_eq!(images.lines().count(), 1 + 2 * limit.parse::<usize>().unwrap());
        for name in ["index.html", "report.md", "layers.csv", "neurons.csv", "energy.svg", "raster.svg"] {
            assert!(std::fs::metadata(out.join(name)).unwrap().len() > 0, "{name}");
        }
    }
    // The whole test set is what the run counted.
    let output = energy(&["--format", "json"]);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let recorded: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run_folder.join("cost.json")).unwrap()).unwrap();
    assert_eq!(printed["cost"], recorded);

    assert_refused(&energy(&["--energy-model", "solar"]), &["solar", "float32-45nm"]);
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "name = 'x'\nsource = 'y'\nmac_pj = -1\nac_pj = 0.1\n").unwrap();
    assert_refused(&energy(&["--energy-model", text(&bad)]), &["bad.toml", "mac_pj is -1"]);
    assert_refused(&energy(&["--limit", "0"]), &["--limit"]);
    // What is not a report is not replaced.
    assert_refused(&energy(&["--limit", "1", "--out", text(&run_folder)]), &["run"]);
    assert!(run_folder.join("cost.json").exists());
}
