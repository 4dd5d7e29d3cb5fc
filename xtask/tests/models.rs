//! The trained networks of `docs/models`: whole, small, of use, and what `docs/models.md` says of them.

#[allow(dead_code, reason = "other tests need more of it")]
mod helpers;

use std::fs;
use std::path::{Path, PathBuf};

use helpers::succeeds;
use lmht_nn::checksums;
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/models.md");

fn models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models");
    let models: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!models.is_empty());
    models
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(folder).unwrap().map(name).collect()
}

/// The records of a model's runs, by their seed.
fn records(folder: &Path) -> Vec<(u64, Value)> {
    let names = names(folder).into_iter().filter(|name| name.starts_with("run-seed"));
    let mut records: Vec<(u64, Value)> = names
        .map(|name| {
            let record: Value = serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
            (record["config"]["train"]["seed"].as_u64().unwrap(), record)
        })
        .collect();
    records.sort_by_key(|(seed, _)| *seed);
    records
}

#[test]
fn every_file_is_what_its_digest_says_and_all_are_small() {
    let mut n_bytes = 0;
    for folder in models() {
        let names = names(&folder);
        n_bytes += names.iter().map(|name| fs::metadata(folder.join(name)).unwrap().len()).sum::<u64>();
        let kept: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| ![checksums::FILE, "README.md"].contains(name)).collect();
        checksums::verify(&folder, &kept).unwrap();
    }
    assert!(n_bytes <= 2_000_000, "{n_bytes} bytes of trained networks in the repository");
}

#[test]
fn the_card_and_the_page_say_what_the_records_say() {
    for folder in models() {
        let records = records(&folder);
        assert!(records.len() >= 3, "{}: seeds", folder.display());
        let card = fs::read_to_string(folder.join("README.md")).unwrap();
        let mut top1 = Vec::new();
        for (seed, record) in &records {
            let metrics = &record["metrics"];
            let epochs = record["epochs"].as_array().unwrap();
            let last = &epochs.last().unwrap()["test"];
            assert_eq!(last["top1"], metrics["top1"], "seed {seed}");
            assert_eq!(metrics["epochs"], epochs.len(), "seed {seed}");
            let places = [&record["run"]["directory"], &record["start"]["run"]["directory"]];
            assert!(places.iter().all(|place| place.is_null()), "where it was made stays there");
            let percent = |key: &str| format!("{:.2} %", 100. * metrics[key].as_f64().unwrap());
            let row = format!("| {seed} | {} | {} |", percent("top1"), percent("best_top1"));
            assert!(card.contains(&row), "{}: expected {row}", folder.display());
            let before = record["start"]["metrics"]["top1"].as_f64();
            let row = row + &before.map_or(String::new(), |top1| format!(" {:.2} % |", 100. * top1));
            assert!(PAGE.contains(&row), "docs/models.md: expected {row}");
            top1.push(metrics["top1"].as_f64().unwrap());
        }
        let n = top1.len() as f64;
        let mean = top1.iter().sum::<f64>() / n;
        let deviation = (top1.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.)).sqrt();
        let spread = format!("{:.2} ± {:.2} %", 100. * mean, 100. * deviation);
        assert!(card.contains(&spread), "{}: expected {spread}", folder.display());
        assert!(PAGE.contains(&spread), "docs/models.md: expected {spread}");
    }
}

#[test]
fn the_commands_of_the_page_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let model = "docs/models/fashion-mnist-resnet20-L2T2";
    let evaluate = ["eval", model, "--data", "sample", "--format", "json"];
    let said: Value = serde_json::from_str(&succeeds(&root, &evaluate)).unwrap();
    let top1 = said["evaluation"]["top1"].as_f64().unwrap();
    // The sample's test images are part of those that the network was measured on.
    let (_, first) = &records(&root.join(model))[0];
    let recorded = first["metrics"]["top1"].as_f64().unwrap();
    assert!((top1 - recorded).abs() < 0.02, "{top1} of the sample, {recorded} of the whole");
    for command in [format!("cargo xtask eval {model}"), format!("cargo xtask predict {model}")] {
        assert!(PAGE.contains(&command), "docs/models.md: expected {command}");
    }
    // A trouser: two legs, drawn.
    let folder = tempfile::tempdir().unwrap();
    let image = image::GrayImage::from_fn(28, 28, |x, y| {
        let is_leg = (9..13).contains(&x) || (15..19).contains(&x);
        let is_waist = (9..19).contains(&x) && y < 8;
        image::Luma([if (2..26).contains(&y) && (is_leg || is_waist) { 200 } else { 0 }])
    });
    let path = folder.path().join("trouser.png");
    image.save(&path).unwrap();
    let said = succeeds(&root, &["predict", model, path.to_str().unwrap()]);
    assert!(said.contains("Trouser"), "{said}");
}
