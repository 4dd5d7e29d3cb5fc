//! `cargo xtask` and the tests are built one after the other on a fresh machine. A dependency that has other features in the
//! tests is compiled twice, and with it all that depends on it: once that was Candle and this workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The features of every package that `selection` needs.
fn features(selection: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let tree = ["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{f}"];
    let output = Command::new(env!("CARGO")).args(tree).args(selection).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        if let Some((package, features)) = line.split_once('|') {
            packages.entry(package.to_string()).or_default().insert(features.trim_end_matches(" (*)").to_string());
        }
    }
    packages
}

#[test]
fn commands_and_tests_share_their_dependencies() {
    let commands = features(&["--package", "xtask", "--edges", "normal,build"]);
    let tests = features(&["--workspace", "--edges", "normal,build,dev"]);
    assert!(commands.len() > 50, "{} packages", commands.len());
    let twice: Vec<_> = commands.iter().filter(|(package, features)| tests[*package] != **features).collect();
    assert!(twice.is_empty(), "turn on in xtask/Cargo.toml what the tests turn on of these: {twice:#?}");
}
