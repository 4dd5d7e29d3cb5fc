//! Training and evaluation on images that stay on the disk.

use std::path::Path;

use super::{CONFIG, assert_refused, assert_survives_kills, config, run, text, xtask};

#[allow(dead_code, reason = "the tests of lmht-datasets need more of it")]
#[path = "../../../datasets/tests/all/tables.rs"]
mod tables;

use tables::{Layout, Row, encode, row};

/// Four shards to learn from and one to measure on: gray images of two classes.
fn shards(folder: &Path) {
    let mut state = 1_u32;
    let mut rows = |n: usize| -> Vec<Row> {
        let image = |label: i64| {
            let image = image::GrayImage::from_fn(16, 16, |_, _| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                [40 + 50 * label as u8 + (state >> 24) as u8 / 3].into()
            });
            row(encode(image.into(), image::ImageFormat::Png), label)
        };
        (0..n as i64).map(|i| i % 2).map(image).collect()
    };
    std::fs::create_dir(folder).unwrap();
    let layout = Layout { rows_per_group: 6, ..Layout::default() };
    for (i, n) in [25, 17, 30, 24].into_iter().enumerate() {
        layout.write(folder.join(format!("train-{i:05}-of-00004.parquet")), &rows(n));
    }
    layout.write(folder.join("test.parquet"), &rows(40));
}

/// A configuration for them, with these lines of `[data]`.
fn toml(data: &Path, lines: &str) -> String {
    let (head, _) = CONFIG.split_once("[data]").unwrap();
    let head = head.replace("n_classes = 10", "n_classes = 2").replace("stem = \"imagenet\"\n", "");
    let head = head.replace("batch_size = 32", "batch_size = 8").replace("epochs = 3", "epochs = 2");
    format!(
        "{head}[data]\npath = {data:?}\nparquet = {{ channels = 1 }}\naugment = {{ crop_padding = 2, flip = true }}\n{lines}\n"
    )
}

const NORMALIZE: &str = "normalize = { mean = [0.5], std = [0.25] }";

fn evaluation(arguments: &[&str]) -> serde_json::Value {
    let output = run(&[&["eval"], arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    json["evaluation"].clone()
}

#[test]
fn a_streamed_run_that_is_killed_goes_on_with_the_same_batches_and_is_measured_as_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    shards(&data);
    let lines = format!(
        "streaming = true\nshuffle_buffer = 20\naug_repeats = 2\nmix = {{ mixup = 0.2, cutmix = 1.0, switch = 0.5, mode = \"pair\" }}\n{NORMALIZE}"
    );
    let config = config(folder.path(), "experiment.toml", &toml(&data, &lines));
    assert_survives_kills(folder.path(), &config, 4);

    // The run streams, its model alone does not unless it is told to.
    let run = folder.path().join("whole/run");
    let alone = folder.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    for file in std::fs::read_dir(run.join("model")).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, alone.join(file.file_name().unwrap())).unwrap();
    }
    let streamed = evaluation(&[text(&run)]);
    assert_eq!(streamed["n_images"], 40);
    assert_eq!(streamed, evaluation(&[text(&alone), "--data", text(&data)]));
    assert_eq!(streamed, evaluation(&[text(&alone), "--data", text(&data), "--streaming"]));

    std::fs::write(data.join("test.parquet"), b"PAR1").unwrap();
    assert_refused(&super::run(&["eval", text(&run)]), &["test.parquet", "expected a complete parquet file"]);
}

#[test]
fn what_streaming_needs_is_said_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    shards(&data);
    let refused = |lines: &str, more: &[&str], parts: &[&str]| {
        let config = config(folder.path(), "experiment.toml", &toml(&data, lines));
        let to = folder.path().join("run");
        assert_refused(&run(&[&["train", &config, "--quiet", "--run", text(&to)], more].concat()), parts);
        assert!(!to.exists());
    };
    refused("", &["--streaming"], &["data.normalize: expected mean and standard deviation", "streamed"]);
    refused(NORMALIZE, &["--shuffle-buffer", "9"], &["data.shuffle_buffer", "--streaming"]);
    refused(NORMALIZE, &["--streaming", "--shuffle-buffer", "0"], &["data.shuffle_buffer: expected at least 1"]);
    refused(&format!("{NORMALIZE}\naug_repeats = 0"), &[], &["data.aug_repeats: expected at least 1"]);
    let limit = toml(&data, NORMALIZE).replace("{ channels = 1", "{ channels = 1, max_decoded_bytes = 999");
    let config = config(folder.path(), "limit.toml", &limit);
    let output = xtask(&["train", &config, "--quiet", "--run", "run"]).current_dir(folder.path()).output().unwrap();
    assert_refused(&output, &["expected at most 999 bytes", "data.parquet.max_decoded_bytes", "--streaming"]);
}
