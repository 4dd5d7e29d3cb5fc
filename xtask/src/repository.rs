//! The clone of the repository that a command works in. The program may have been moved since it was compiled, so it is
//! looked for and not remembered.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The root of the repository: above the current directory, else where cargo runs, else above the program.
///
/// # Errors
/// If there is none.
pub(crate) fn root() -> Result<PathBuf> {
    let starts = [
        std::env::current_dir().ok(),
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        std::env::current_exe().ok(),
    ];
    let mut folders = starts.iter().flatten().flat_map(|start| start.ancestors());
    let found = folders.find(|folder| folder.join("xtask/Cargo.toml").is_file() && folder.join("crates").is_dir());
    found.map(PathBuf::from).context("expected to be in a clone of the repository, and is not; change into one")
}

/// Makes the folders that are to hold `path`.
///
/// # Errors
/// If the system refuses.
pub(crate) fn make_parent(path: &std::path::Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).with_context(|| format!("{}: cannot make the folder", parent.display()))
}
