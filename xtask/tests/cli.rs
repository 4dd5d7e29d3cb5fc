//! The commands as a user runs them: a killed run, a full disk, bad input.

#[path = "cli/compare.rs"]
mod compare;
#[path = "cli/golden.rs"]
mod golden;
#[path = "cli/gpu_run.rs"]
mod gpu_run;
#[allow(dead_code, reason = "other tests need more of it")]
mod helpers;
#[path = "cli/reliability.rs"]
mod reliability;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/streaming.rs"]
mod streaming;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use helpers::{assert_refused, xtask};

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

/// Fails unless a run of the configuration that is killed after each of `n_kills` checkpoints ends as one that is not, which
/// is then in `whole/run` of the folder.
#[track_caller]
fn assert_survives_kills(folder: &Path, config: &str, n_kills: usize) {
    // The model card names the command, so both runs must be given the same one.
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    let start = |parent: &Path| {
        std::fs::create_dir_all(parent).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["train", config, "--quiet", "--run", "run"]);
        command.current_dir(parent).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let output = start(&whole).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let run = killed.join("run");
    let mut n_killed = 0;
    for _ in 0..n_kills {
        let before = newest(&run);
        n_killed += usize::from(kill_after_next_checkpoint(start(&killed).spawn().unwrap(), &run, &before));
    }
    assert_eq!(n_killed, n_kills, "the run finished too early to be killed");
    assert!(!run.join("metrics.json").exists(), "the run finished before it was killed");
    let output = start(&killed).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same_files(&whole.join("run"), &run);
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "experiment.toml", CONFIG);
    assert_survives_kills(folder.path(), &config, 5);
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
    assert_refused(&output, &["config.json", "model.width is 4 there and 8 here", "choose another run folder"]);
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
    assert_refused(&output, &["model.safetensors", "damaged", "no checkpoint is whole"]);

    // And a model folder whose weights are another network's.
    let model = run_folder.join("model");
    std::fs::copy(foreign.join("model/model.safetensors"), model.join("model.safetensors")).unwrap();
    assert_refused(&run(&["eval", text(&model)]), &["model.safetensors", "damaged"]);
    std::fs::remove_file(model.join("SHA256SUMS")).unwrap();
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
    for part in [
        "76.22",
        "80.56",
        "96.25",
        "stand-in",
        "These accuracies mean nothing",
        "ResNet-18",
        "VGG-13",
        "61.66",
        "63.55",
    ] {
        assert!(tables.contains(part), "expected {part:?} in: {tables}");
    }
    // The networks of Tables 1 and 3 and the ANNs of Table 4, then what is fine-tuned.
    for part in ["6 runs to train", "3 runs to train"] {
        assert!(String::from_utf8_lossy(&first.stderr).contains(part), "{part}");
    }
    let second = run(&arguments);
    assert!(second.status.success());
    assert_eq!(String::from_utf8_lossy(&second.stderr), "", "something was trained again");
    assert_eq!(String::from_utf8_lossy(&second.stdout), tables);

    // A record of another configuration is not passed off as this one's.
    let config_path = out.join("table1-resnet18-l2t2-seed42/config.json");
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
fn the_presets_are_listed_with_the_papers_accuracies() {
    let output = run(&["train", "--list", "--format", "csv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "resnet19-cifar100-L2T2,ResNet-19,2,2,uoft-cs/cifar100,300,81.76 (Table 3)",
        "\"61.09 (Table 3), 61.64 (Table 2, before), 61.66 (Table 2, after)\"",
    ] {
        assert!(list.contains(line), "no {line} in: {list}");
    }
    assert!(list.lines().next().unwrap().contains("published"));
}

#[test]
fn what_a_preset_lacks_is_named_with_where_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |arguments: &[&str]| xtask(arguments).current_dir(folder.path()).output().unwrap();
    let output = in_folder(&["train", "resnet18-cifar100-L2T2"]);
    assert_refused(&output, &["data/cifar100", "huggingface.co/datasets/uoft-cs/cifar100", "--data FOLDER"]);
    assert_refused(
        &in_folder(&["train", "resnet18-cifar10dvs-L2T4"]),
        &["data/cifar10-dvs", "recordings of events", "--data FOLDER"],
    );
    let output = in_folder(&["train", "resnet20-cifar100-Q4-L2T2"]);
    assert_refused(&output, &["resnet20-cifar100-qcfs-Q4-seed42", "QCFS", "--start"]);
    let output = in_folder(&["train", "fashion-mnist-resnet20-L2T2-restart", "--data", "sample"]);
    assert_refused(&output, &["runs/fashion-mnist-resnet20-L2T2-seed42", "train it first", "--start"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was written");
}

#[test]
fn training_starts_from_the_weights_of_a_model_folder() {
    let folder = tempfile::tempdir().unwrap();
    let one = config(folder.path(), "one.toml", &CONFIG.replace("epochs = 3", "epochs = 1"));
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    assert!(run(&["train", &one, "--quiet", "--run", text(&first)]).status.success());
    // At a learning rate of 0 the weights stay what they were at the start.
    let still =
        CONFIG.replace("epochs = 3", "epochs = 1").replace("lr = 0.05", "lr = 0.0").replace("seed = 7", "seed = 8");
    let still = config(folder.path(), "still.toml", &still);
    let model = first.join("model");
    let output = run(&["train", &still, "--quiet", "--run", text(&second), "--start", text(&model)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = |run: &Path| {
        let bytes = std::fs::read(run.join("model/model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        tensors.tensor("conv1.weight").unwrap().data().to_vec()
    };
    assert!(weights(&first) == weights(&second), "the start was not used");
    let other = config(folder.path(), "other.toml", &CONFIG.replace("levels = 2", "levels = 4"));
    let output =
        run(&["train", &other, "--quiet", "--run", text(&folder.path().join("third")), "--start", text(&model)]);
    assert_refused(&output, &["another network", "\"levels\":2", "\"levels\":4"]);
}

#[test]
fn every_command_explains_itself() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").expect("commands are listed");
    let commands: Vec<_> = commands.lines().take_while(|line| !line.is_empty()).collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands.iter().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        let output = run(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(help.contains(&format!("Usage: cargo xtask {command}")), "{help}");
        assert!(command == "ci" || help.contains("Example"), "{help}");
    }
    for conversion in ["hybrid", "inference", "reparameterize", "fold", "export", "import", "to-pytorch"] {
        let output = run(&["convert", conversion, "--help"]);
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && help.contains("Example"), "{conversion}: {help}");
    }
}

#[test]
fn a_model_goes_to_pytorch_and_comes_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let toml = CONFIG.replace("epochs = 3", "epochs = 1").replace("max_per_class = 32", "max_per_class = 8");
    let toml = config(folder.path(), "one.toml", &toml);
    assert!(run(&["train", &toml, "--quiet", "--run", &path("run")]).status.success());
    let (model, file, imported) = (path("run/model"), path("out.safetensors"), path("imported"));

    // A model folder, the run and its checkpoint are the same network.
    let checkpoint = path("run/checkpoints/epoch-0001");
    let mut written = Vec::new();
    for from in [&checkpoint, &path("run"), &model] {
        let output = run(&["convert", "to-pytorch", from, "--out", &file]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        written.push(std::fs::read(&file).unwrap());
    }
    assert!(written[0] == written[2] && written[1] == written[2]);
    let config_json = path("run/model/config.json");
    for network in [["--config", &config_json], ["--preset", &toml]] {
        let output = run(&["convert", "import", &file, network[0], network[1], "--out", &imported]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("dropped 20 counters") && text.contains("--preprocessor FILE"), "{text}");
        for name in ["config.json", "model.safetensors"] {
            let [before, after] =
                [&model, &imported].map(|folder| std::fs::read(Path::new(folder).join(name)).unwrap());
            assert!(before == after, "{name}");
        }
    }
    let card = std::fs::read_to_string(Path::new(&imported).join("README.md")).unwrap();
    assert!(card.contains("cargo xtask convert import") && card.contains("those of out.safetensors"), "{card}");
    // A checkpoint brings no preprocessing along, which is said; it can be given.
    let image = path("black.bmp");
    image::GrayImage::new(28, 28).save(&image).unwrap();
    assert_refused(&run(&["predict", &imported, &image]), &["preprocessor_config.json"]);
    let with = ["convert", "import", &file, "--config", &config_json, "--out", &imported, "--preprocessor"];
    for from in [&model, &path("run/model/preprocessor_config.json")] {
        let output = run(&[with.as_slice(), &[from.as_str()]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains("no preprocessing"), "{text}");
        let output = run(&["predict", &imported, &image]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let rgb = config(folder.path(), "rgb.json", r#"{ "size": { "height": 28, "width": 28 }, "do_convert_rgb": true }"#);
    assert_refused(&run(&[with.as_slice(), &[rgb.as_str()]].concat()), &["rgb.json", "3 channel(s)", "1 as"]);

    let output = run(&["eval", &imported, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Another network: one message, and nothing is written.
    let other = ["convert", "import", &file, "--preset", "fashion-vgg13-L2T2", "--out", &path("other")];
    assert_refused(
        &run(&other),
        &["out.safetensors", "missing: classifier.0.bias", "not part of this network", "more"],
    );
    // Other classes: refused, or a new last layer.
    let three = std::fs::read_to_string(&config_json).unwrap().replace("\"n_classes\": 10", "\"n_classes\": 3");
    let three = config(folder.path(), "three.json", &three);
    let start = ["convert", "import", &file, "--config", &three, "--out", &path("start")];
    assert_refused(&run(&start), &["out.safetensors", "for 10 classes", "--new-head"]);
    let map = config(folder.path(), "map.toml", "\"nothing.{n}\" = \"x\"");
    assert_refused(&run(&[&start[..], &["--rename-map", &map]].concat()), &["out.safetensors", "\"nothing.{n}\""]);
    let output = run(&[&start[..], &["--new-head", "--seed", "7"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("start anew, drawn from seed 7"), "{output:?}");
    let page = config(folder.path(), "page.pth", "<html>");
    let refused = ["convert", "import", &page, "--config", &config_json, "--out", &path("other")];
    assert_refused(&run(&refused), &["page.pth", "web page"]);
    assert!(!folder.path().join("other").exists());
    // Which network it is has to be said.
    let output = run(&["convert", "import", &file, "--out", &imported]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--config"));
}

/// From an ANN to a folded single-threshold network, each step a command.
#[test]
fn a_network_goes_through_every_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let convert = |arguments: &[&str]| {
        let output = run(&[&["convert"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let ann = |kind: &str| {
        CONFIG
            .replace("neuron = { kind = \"lmht\", levels = 2 }", kind)
            .replace("timesteps = 2", "timesteps = 1")
            .replace("epochs = 3", "epochs = 1")
    };
    for (name, neuron) in
        [("qcfs", "neuron = { kind = \"qcfs\", quant_levels = 4 }"), ("relu", "neuron = { kind = \"relu\" }")]
    {
        let config = config(folder.path(), &format!("{name}.toml"), &ann(neuron));
        let output = run(&["train", &config, "--run", &path(name), "--quiet"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (qcfs, hybrid, single, folded) = (path("qcfs"), path("hybrid"), path("single"), path("folded"));
    let said = convert(&["hybrid", &qcfs, "--levels", "2", "--timesteps", "2", "--limit", "50", "--out", &hybrid]);
    for part in ["maximum before its neuron", "the same function as the ANN", "50 images: logits differ by"] {
        assert!(said.contains(part), "{said}");
    }
    for (rule, out) in [(&[][..], "least"), (&["--percentile", "99.9"], "percentile")] {
        let arguments = ["hybrid", &path("relu"), "--levels", "7", "--calibration-images", "32", "--limit", "20"];
        let said = convert(&[&arguments[..], rule, &["--out", &path(out)]].concat());
        assert!(said.contains("all 17 neuron layers: a ReLU becomes a staircase of L·T = 14 steps"), "{said}");
    }
    let theta = |name: &str| std::fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert_ne!(theta("least"), theta("percentile"));
    let said = convert(&["reparameterize", &hybrid, "--limit", "50", "--out", &single]);
    assert!(said.contains("layer4.1.sn2") && said.contains("50 images: top-1"), "{said}");
    let (uniform, nothing) = (path("uniform"), ["--schedule", "uniform", "--limit", "0"]);
    convert(&[&["reparameterize", &hybrid, "--out", &uniform], &nothing[..]].concat());
    convert(&["fold", &single, "--out", &folded]);
    for (method, from) in [("if", "qcfs"), ("srp", "qcfs"), ("cos", "qcfs"), ("rmp", "relu"), ("snm", "relu")] {
        let arguments = ["inference", &path(from), "--method", method, "--timesteps", "2", "--out", &path(method)];
        convert(&[&arguments[..], &["--calibration-images", "32"]].concat());
    }
    // Thresholds of layers by the ANN's activations are others, and SNM has none of units then.
    let by_unit = theta("snm");
    let by_layer = ["--thresholds", "activations", "--percentile", "99.9", "--out", &path("snm-by-layer")];
    let shown = ["--method", "snm", "--timesteps", "2", "--calibration-images", "32"];
    convert(&[&["inference", &path("relu")], &shown[..], &by_layer[..]].concat());
    assert!(theta("snm-by-layer").len() < by_unit.len());
    let wrong = ["convert", "inference", &path("relu"), "--percentile", "99", "--out", &path("wrong")];
    assert_refused(&run(&[&wrong[..], &shown[..]].concat()), &["--percentile", "--thresholds activations"]);
    for model in ["hybrid", "folded", "srp", "snm"] {
        let output = run(&["eval", &path(model), "--json"]);
        assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&output.stderr));
    }

    // The ImageNet stem pools spikes, which NIR has no node for; a network with the other stem goes out.
    let spiking = CONFIG
        .replace("stem = \"imagenet\"\n", "")
        .replace("neuron = { kind = \"lmht\", levels = 2 }", "neuron = { kind = \"lif\", leak = 0.5 }")
        .replace("epochs = 3", "epochs = 1")
        .replace("max_per_class = 32", "max_per_class = 4");
    let lif = config(folder.path(), "lif.toml", &spiking);
    let output = run(&["train", &lif, "--run", &path("lif"), "--quiet"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for profile in ["spec", "norse"] {
        let file = path(&format!("{profile}.nir"));
        let said = convert(&["export", &path("lif"), "--profile", profile, "--verify", "2", "--out", &file]);
        assert!(said.contains("replayed 2 images: 0 of ") && std::fs::metadata(&file).unwrap().len() > 0, "{said}");
    }

    // Refused: the wrong network, what was done already, a target that cannot be written. Nothing is left behind.
    let refused = |arguments: &[&str], parts: &[&str]| assert_refused(&run(&[&["convert"], arguments].concat()), parts);
    let nowhere = path("nowhere");
    refused(&["hybrid", &hybrid, "--out", &nowhere], &["hybrid", "expected a QCFS network"]);
    refused(&["hybrid", &qcfs, "--levels", "0", "--out", &nowhere], &["levels"]);
    refused(&["hybrid", &qcfs, "--percentile", "99", "--out", &nowhere], &["--percentile", "ReLU"]);
    refused(&["hybrid", &path("relu"), "--start", "published", "--out", &nowhere], &["--start published", "QCFS"]);
    refused(&["reparameterize", &single, "--out", &nowhere], &["single", "already"]);
    refused(&["fold", &folded, "--out", &nowhere], &["folded", "no batch norm"]);
    refused(&["export", &single, "--out", &nowhere], &["NIR", "max-pooling after bn1"]);
    assert!(!Path::new(&nowhere).exists());
    let file = config(folder.path(), "a-file", "in the way");
    refused(&["fold", &single, "--out", &file], &["a-file"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "in the way");
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
