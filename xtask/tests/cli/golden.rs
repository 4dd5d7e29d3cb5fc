//! `golden`: the cases beside the sources, cases that were tampered with, and what float32 moves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{assert_refused, run, text};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden")
}

/// A case read into memory, whose float64 values can be changed.
struct Case {
    bytes: Vec<u8>,
    header: safetensors::tensor::Metadata,
    data: usize,
}

impl Case {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(cases().join(name)).unwrap();
        let (n, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        Self { bytes, header, data: n + 8 }
    }

    /// Replaces the values of a tensor.
    fn change(&mut self, tensor: &str, change: impl FnOnce(&mut [f64])) {
        let (start, end) = self.header.info(tensor).unwrap_or_else(|| panic!("{tensor}: not in the case")).data_offsets;
        let bytes = &mut self.bytes[self.data + start..self.data + end];
        let mut values: Vec<f64> =
            bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
        change(&mut values);
        for (bytes, value) in bytes.chunks_exact_mut(8).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Makes the largest value larger by a factor.
    fn scale_largest(&mut self, tensor: &str, factor: f64) {
        self.change(tensor, |values| {
            let largest = values.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            assert!(*largest != 0., "{tensor}: nothing but zeros");
            *largest *= factor;
        });
    }

    fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, &self.bytes).unwrap();
        path
    }
}

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_case_of_the_repository_is_reproduced() {
    let output = run(&["golden", text(&cases())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let n_files = std::fs::read_dir(cases())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "safetensors"));
    let n_files = n_files.count();
    assert!(stdout(&output).contains(&format!("{n_files} cases within 1e-9")), "{}", stdout(&output));

    // Every backbone has a case.
    let archs: BTreeSet<String> = std::fs::read_dir(cases())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let case = name.starts_with("net_").then(|| Case::read(&name))?;
            let config: serde_json::Value =
                serde_json::from_str(&case.header.metadata().as_ref().unwrap()["config"]).unwrap();
            Some(config["arch"].as_str().unwrap().to_string())
        })
        .collect();
    let all = "cifarnet ms_resnet18 ms_resnet34 resnet18 resnet19 resnet20 resnet34 spikformer vgg11 vgg13 vgg13_standard \
               vgg16 vgg19";
    assert_eq!(archs, all.split_whitespace().map(str::to_string).collect());
}

#[test]
fn a_value_that_is_off_by_a_millionth_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, quantities) in [
        ("neuron_lmht_L4_T5.safetensors", &["y", "grad_x", "grad_tgim_logit", "grad_leak_logit"][..]),
        ("qcfs_Q6.safetensors", &["grad_scale"]),
        (
            "net_cifarnet_L2_T2.safetensors",
            &[
                "eval/logits",
                "eval/spikes/sn3",
                "eval/sops/conv2.0",
                "train/logits",
                "train/loss",
                "train/stats/conv1.1.running_var",
                "train/grad/fc.3.mask_linear",
                "sgd2/conv5.0.weight",
            ],
        ),
    ] {
        for quantity in quantities {
            let mut case = Case::read(name);
            case.scale_largest(quantity, 1. + 1e-6);
            let path = case.write(folder.path(), name);
            let output = run(&["golden", text(&path)]);
            assert_refused(&output, &[name, &format!("{quantity}: relative error"), "tolerance 1e-9", "1 out of"]);
            let lines = stdout(&output);
            assert_eq!(lines.matches("OUT OF TOLERANCE").count(), 1, "{lines}");
        }
    }
}

#[test]
fn one_bad_case_does_not_hide_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = Case::read("neuron_if_T4.safetensors");
    case.scale_largest("y", 1. + 1e-6);
    case.write(folder.path(), "a.safetensors");
    case.scale_largest("grad_x", 1. + 1e-6);
    case.write(folder.path(), "b.safetensors");
    let output = run(&["golden", text(folder.path())]);
    assert_refused(&output, &["a.safetensors: y: relative error", "3 out of tolerance"]);
}

#[test]
fn float32_keeps_the_logits_where_no_spike_moves() {
    let folder = tempfile::tempdir().unwrap();
    let name = "net_spikformer_L3_T3.safetensors";
    let path = cases().join(name);
    let output = run(&["golden", "--float32", text(&path)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = stdout(&output);
    for part in ["block.0.attn.attn_lif", "eval/logits", "0 of 5568", "| net_spikformer_L3_T3 | 0 of 12 |"] {
        assert!(report.contains(part), "expected {part:?} in: {report}");
    }

    let mut case = Case::read(name);
    case.scale_largest("eval/logits", 1. + 1e-3);
    let path = case.write(folder.path(), name);
    let output = run(&["golden", "--float32", text(&path)]);
    assert_refused(&output, &[name, "eval/logits: relative error", "although no spike differs"]);
}

#[test]
fn float32_counts_the_spikes_that_it_moves_and_does_not_judge_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = Case::read("neuron_if_T4.safetensors");
    // Below θ = 1 in float64, but on it once rounded to float32; then far below for the rest of the time.
    let unit = |values: &mut [f64], unit: [f64; 4]| {
        let units = values.len() / 4;
        for (t, value) in unit.into_iter().enumerate() {
            values[t * units] = value;
        }
    };
    case.change("x", |values| unit(values, [1. - 1e-9, -50., 0., 0.]));
    case.change("y", |values| unit(values, [0.; 4]));
    let path = case.write(folder.path(), "tie.safetensors");
    let output = run(&["golden", "--float32", text(&path)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = stdout(&output);
    for part in ["1 of      144 spike counts differ", "spikes differ, not judged", "| tie | 1 of 1 | 1 of 144 |"] {
        assert!(report.contains(part), "expected {part:?} in: {report}");
    }
}

#[test]
fn what_is_no_case_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(&run(&["golden", text(folder.path())]), &["found no *.safetensors file"]);
    let path = folder.path().join("cut.safetensors");
    let bytes = std::fs::read(cases().join("qcfs_Q6.safetensors")).unwrap();
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..4], b"not a case"] {
        std::fs::write(&path, damaged).unwrap();
        for arguments in [&["golden"][..], &["golden", "--float32"]] {
            assert_refused(&run(&[arguments, &[text(&path)]].concat()), &["cut.safetensors"]);
        }
    }
}
