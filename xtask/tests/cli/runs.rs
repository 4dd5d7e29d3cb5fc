//! Runs that are stopped, and what a trained network takes along.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{CONFIG, assert_refused, assert_same_files, config, newest, run, text, xtask};

/// The signal of Ctrl-C or of `kill`, to a process that has written a checkpoint.
fn signal_after_checkpoint(arguments: &[&str], folder: &Path, run_folder: &Path, signal: &str) -> std::process::Output {
    let mut command = xtask(arguments);
    let child = command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while newest(run_folder).is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    child.wait_with_output().unwrap()
}

#[test]
#[cfg(unix)]
fn a_run_stopped_by_a_signal_says_so_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "experiment.toml", CONFIG);
    let arguments = ["train", &config, "--quiet", "--run", "run"];
    let whole = folder.path().join("whole");
    std::fs::create_dir(&whole).unwrap();
    assert!(xtask(&arguments).current_dir(&whole).output().unwrap().status.success());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let parent = folder.path().join(signal);
        std::fs::create_dir(&parent).unwrap();
        let run_folder = parent.join("run");
        let output = signal_after_checkpoint(&arguments, &parent, &run_folder, signal);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains("stopped in epoch") && message.contains("same command goes on"), "{message}");
        assert!(!run_folder.join("metrics.json").exists(), "it finished before it was stopped");
        // What is there is a network already.
        let output = run(&["eval", text(&run_folder), "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(xtask(&arguments).current_dir(&parent).output().unwrap().status.success());
        assert_same_files(&whole.join("run"), &run_folder);
    }
}

/// PNG files `split/class/n.png`: two classes of noise of different brightness, in colour.
fn pictures(folder: &Path, splits: &[(&str, usize)]) {
    let mut state = 1_u32;
    for (split, n) in splits {
        for (class, base) in [("dark", 40), ("light", 90)] {
            let to = folder.join(split).join(class);
            std::fs::create_dir_all(&to).unwrap();
            for i in 0..*n {
                let image = image::RgbImage::from_fn(16, 16, |_, _| {
                    image::Rgb([0; 3].map(|_: u8| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        base + (state >> 24) as u8 / 3
                    }))
                });
                image.save(to.join(format!("{i:03}.png"))).unwrap();
            }
        }
    }
}

/// Top-1 of `eval --json`.
fn top1(arguments: &[&str], cwd: &Path) -> f64 {
    let output = xtask(&[&["eval"], arguments, &["--json"]].concat()).current_dir(cwd).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    json["evaluation"]["top1"].as_f64().unwrap()
}

#[test]
fn the_preprocessing_travels_with_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    pictures(&here.join("pictures"), &[("train", 32), ("test", 24)]);
    // The test split alone, somewhere else: nothing there says how the training images were normalized.
    pictures(&here.join("new"), &[("test", 24)]);
    let toml = CONFIG
        .replace("stem = \"imagenet\"\n", "")
        .replace("in_channels = 1", "in_channels = 3")
        .replace("n_classes = 10", "n_classes = 2")
        .replace(
            "path = \"sample\"",
            "path = \"pictures\"\nnormalize = { mean = [0.1, 0.2, 0.3], std = [0.5, 0.25, 0.125] }",
        )
        .replace("crop_padding = 2, ", "");
    let config = config(here, "experiment.toml", &toml);
    let output = xtask(&["train", &config, "--quiet", "--run", "run"]).current_dir(here).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metrics = std::fs::read_to_string(here.join("run/metrics.json")).unwrap();
    let trained = serde_json::from_str::<serde_json::Value>(&metrics).unwrap()["top1"].as_f64().unwrap();
    assert!(trained > 0.5, "it should have learned something: {trained}");

    assert_eq!(top1(&["run"], here), trained);
    assert_eq!(top1(&["run/model"], here), trained, "the model folder of a run knows its data");
    let arguments = ["convert", "reparameterize", "run", "--limit", "0", "--out", "single"];
    assert!(xtask(&arguments).current_dir(here).output().unwrap().status.success());
    for data in ["pictures", "new"] {
        let expected = top1(&["run", "--data", data], here);
        assert_eq!(top1(&["single", "--data", data], here), expected, "{data}");
    }
    // From another working directory the path in the record is found still.
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(top1(&[text(&here.join("run"))], elsewhere.path()), trained);
}

#[test]
fn a_network_that_fits_no_machine_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "huge.toml", &CONFIG.replace("width = 4", "width = 65536"));
    let output = run(&["train", &config, "--quiet", "--run", text(&folder.path().join("run"))]);
    assert_refused(&output, &["GB", "smaller width"]);
    assert!(!folder.path().join("run").exists());
}
