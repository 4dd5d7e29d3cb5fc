//! `cargo xtask compare`: what it refuses before it measures, and a small run if there is a Python with torch.

use std::path::PathBuf;
use std::process::Command;

use super::{assert_refused, run, text};

/// An interpreter with everything that the other sides need, or none: `LMHT_PYTHON`, else `python3`.
fn python() -> Option<String> {
    let python = std::env::var("LMHT_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let found = Command::new(&python).args(["-c", "import torch, safetensors, numpy"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    println!("skipped: {python} has no torch, safetensors and numpy; set LMHT_PYTHON to an interpreter that has them");
    None
}

/// A document with the markers, in a folder of its own.
fn document() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("performance.md");
    let content = "# Here\n\n<!-- compare:begin -->\nold\n<!-- compare:end -->\n".to_string();
    std::fs::write(&path, &content).unwrap();
    (folder, path, content)
}

#[test]
fn what_cannot_be_measured_is_refused_and_nothing_is_written() {
    let (folder, path, content) = document();
    let docs = text(&path);
    assert_refused(&run(&["compare", "--rounds", "0", "--docs", docs]), &["--rounds is 0", "expected at least 1"]);
    assert_refused(&run(&["compare", "--round-seconds=-1", "--docs", docs]), &["expected a positive number"]);
    let no_python = folder.path().join("no-python");
    assert_refused(
        &run(&["compare", "--docs", docs, "--python", text(&no_python)]),
        &["PyTorch", "no-python", "--python"],
    );
    assert_refused(&run(&["compare", "--docs", docs, "--threads", "100000"]), &["--threads is 100000", "processors"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), content);

    let no_markers = folder.path().join("other.md");
    std::fs::write(&no_markers, "# Other\n").unwrap();
    assert_refused(&run(&["compare", "--docs", text(&no_markers)]), &["other.md", "compare:begin", "--no-docs"]);
}

/// A Python without torch says what to install.
#[cfg(unix)]
#[test]
fn a_python_without_torch_says_what_to_install() {
    let found = Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3");
        return;
    }
    let (folder, path, _) = document();
    // An interpreter that ignores whatever is installed.
    let bare = folder.path().join("bare-python");
    std::fs::write(&bare, "#!/bin/sh\nexec python3 -I -S -B \"$@\"\n").unwrap();
    let mut permissions = std::fs::metadata(&bare).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&bare, permissions).unwrap();
    let output = run(&["compare", "--docs", text(&path), "--python", text(&bare)]);
    assert_refused(&output, &["No module named 'torch'", "-m pip install torch==", "safetensors==", "--python PATH"]);
}

/// Both sides agree, and a part of a small run ends up between the markers and in the JSON file.
#[test]
fn a_small_run_beside_pytorch() {
    let Some(python) = python() else { return };
    let (folder, path, _) = document();
    let json = folder.path().join("compare.json");
    let arguments = [
        "compare",
        "--width",
        "4",
        "--rounds",
        "2",
        "--batch",
        "2",
        "--train-steps",
        "1",
        "--round-seconds",
        "0.001",
        "--threads",
        "1",
        "--only",
        "train,memory",
        "--python",
        &python,
        "--docs",
        text(&path),
        "--json",
        text(&json),
    ];
    let output = run(&arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("both sides agree"), "{message}");
    let document = std::fs::read_to_string(&path).unwrap();
    assert!(document.starts_with("# Here\n\n<!-- compare:begin -->\n\n## Beside PyTorch"), "{document}");
    assert!(document.contains("| batch 2 |") && !document.contains("old"));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let sides = report["train"][0]["sides"].as_array().unwrap();
    assert_eq!((&sides[0]["side"], &sides[1]["side"]), (&"ours".into(), &"PyTorch".into()));
    assert!(sides.iter().all(|side| side["seconds"].as_array().unwrap().len() == 2), "{report}");
    // Training with less memory is in both parts.
    assert_eq!(sides.last().unwrap()["side"], "ours, recomputing");
    assert!(document.matches("ours, recomputing").count() >= 2, "{document}");
    let rows = report["memory"].as_array().unwrap();
    let names = |row: &serde_json::Value| row["sides"].to_string().contains("ours, recomputing");
    assert_eq!(rows.iter().map(names).collect::<Vec<_>>(), [true, false], "training, evaluation: {report}");
}
