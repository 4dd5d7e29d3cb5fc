//! What others wrote and we build on: from crates.io alone, under licences that `deny.toml` allows. `cargo deny check` looks at
//! more, advisories among them, and has to be installed.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Whether an SPDX expression can be met with what is allowed; `/` is the OR of old manifests.
fn is_met(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let expression = expression.replace('/', " OR ");
    // AND binds stronger than OR, and a parenthesis stronger than both: the innermost one becomes its answer.
    if let Some((before, inner, after)) = expression.rfind('(').and_then(|open| {
        let close = open + expression[open..].find(')')?;
        Some((&expression[..open], &expression[open + 1..close], &expression[close + 1..]))
    }) {
        let answer = if is_met(inner, allowed) { "yes" } else { "no" };
        return is_met(&format!("{before}{answer}{after}"), allowed);
    }
    let is_allowed = |name: &str| name == "yes" || allowed(name);
    expression.split(" OR ").any(|all| all.split(" AND ").all(|name| is_allowed(name.trim())))
}

#[test]
fn expressions_are_read() {
    let allowed = |name: &str| ["MIT", "Apache-2.0 WITH LLVM-exception"].contains(&name);
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR X) AND MIT",
        "Apache-2.0 WITH LLVM-exception",
        "X AND Y OR MIT",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND GPL-3.0", "Apache-2.0", "no", ""] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}

#[test]
fn every_dependency_has_a_licence_and_a_source_that_we_allow() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let deny: toml::Table = std::fs::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
    let allow = deny["licenses"]["allow"].as_array().unwrap();
    let allowed = |name: &str| allow.iter().any(|licence| licence.as_str() == Some(name));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--all-features", "--locked", "--offline"];
    let output = Command::new(cargo).args(arguments).current_dir(root).output().unwrap();
    if !output.status.success() {
        // Offline, crates of other platforms may be missing.
        eprintln!("skipped: cargo metadata says {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    for package in packages {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or("none"));
        assert!(is_met(licence, &allowed), "{name}: {licence} is not in deny.toml");
        let source = package["source"].as_str();
        let is_known = source.is_none_or(|source| source == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(is_known, "{name}: comes from {source:?}");
    }
}
