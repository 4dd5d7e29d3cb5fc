//! Commands that are killed anywhere, and what they make of names, folders and checkpoints that nobody expects.

use std::path::Path;
use std::process::Output;

use super::{CONFIG, assert_refused, config, run, xtask};

/// A sample of what `cargo xtask reliability` does in full.
#[test]
fn a_sample_of_kills_and_refused_calls_ends_with_the_same_bytes() {
    let mut arguments = vec!["reliability", "--every", "70"];
    // Without the tables, each run of which takes a minute.
    ["train", "extend", "convert", "to-pytorch", "energy", "eval"]
        .iter()
        .for_each(|it| arguments.extend(["--only", it]));
    let output = run(&arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// The same with the smallest network and few images.
fn small() -> String {
    let fewer = CONFIG.replace("max_per_class = 32", "max_per_class = 4").replace("batch_size = 32", "batch_size = 8");
    fewer
        .replace("width = 4", "width = 1")
        .replace("backbone = \"resnet18\"\nstem = \"imagenet\"", "backbone = \"resnet20\"")
}

/// A run of one epoch, in the folder.
fn train(folder: &Path, config: &str, more: &[&str]) -> Output {
    let arguments = [&["train", config, "--quiet", "--epochs", "1", "--run", "run"], more].concat();
    xtask(&arguments).current_dir(folder).output().unwrap()
}

#[test]
fn a_run_leaves_alone_what_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let toml = config(here, "experiment.toml", &small());
    let files = || {
        let entries = std::fs::read_dir(here.join("run")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect();
        files.sort();
        files
    };
    for (name, content) in [
        ("notes.txt", "not ours"),
        ("run.json", "{\"scripts\": {}}"),
        (".lock", "the lock of another program"),
        (".model.tmp-1", "another program's"),
        ("config.json", "{\"name\": \"another program's\"}"),
        ("config.json", "no JSON"),
    ] {
        std::fs::create_dir(here.join("run")).unwrap();
        std::fs::write(here.join("run").join(name), content).unwrap();
        let before = files();
        let output = train(here, &toml, &[]);
        assert_refused(&output, &["run", "choose a"]);
        assert!(files() == before, "{name}: {:?}", files());
        std::fs::remove_dir_all(here.join("run")).unwrap();
    }
    // A link in the place of the lock, in a run of ours.
    assert!(train(here, &toml, &[]).status.success());
    std::fs::write(here.join("victim"), "17").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(here.join("victim"), here.join("run/.lock")).unwrap();
        assert_refused(&train(here, &toml, &[]), &[".lock", "expected the lock of a run"]);
        assert_eq!(std::fs::read_to_string(here.join("victim")).unwrap(), "17");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_not_set_aside_and_a_damaged_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let toml = config(here, "experiment.toml", &small());
    assert!(train(here, &toml, &[]).status.success());
    let newest = super::newest(&here.join("run")).unwrap();
    let state = newest.join("state.json");
    let bytes = std::fs::read(&state).unwrap();
    // A folder in its place cannot be read, whoever asks.
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    let output =
        xtask(&["train", &toml, "--quiet", "--epochs", "1", "--run", "run"]).current_dir(here).output().unwrap();
    assert_refused(&output, &["state.json", "cannot read it", "move this checkpoint away"]);
    assert!(newest.exists());
    std::fs::remove_dir(&state).unwrap();
    std::fs::write(&state, bytes).unwrap();
    assert!(train(here, &toml, &[]).status.success());
}

/// What is no text is a name like another where it is only used, and refused where a record has to hold it.
#[test]
#[cfg(unix)]
fn names_need_not_be_text() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join(OsStr::from_bytes(b"folder-\xff"));
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("experiment.toml"), small()).unwrap();
    let odd = |name: &[u8]| OsStr::from_bytes(name).to_os_string();
    let run = |arguments: &[OsString]| xtask(&[]).args(arguments).current_dir(&here).output().unwrap();
    let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    let succeeds = |arguments: Vec<OsString>| {
        let output = run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let the_run = odd(b"run-\xfe");
    let train = |more: &[OsString]| {
        [words("train experiment.toml --quiet --epochs 1 --run"), vec![the_run.clone()], more.to_vec()].concat()
    };
    succeeds(train(&[]));
    succeeds(train(&[]));
    for more in [words("--data"), words("--start")] {
        let output = run(&train(&[more, vec![odd(b"data-\xfd")]].concat()));
        assert_refused(&output, &["expected a name in UTF-8", "give a link to it"]);
    }
    for format in ["text", "json", "markdown"] {
        succeeds([words("eval"), vec![the_run.clone()], words(&format!("--format {format}"))].concat());
    }
    for out in [b"single-\xfc", b"single-\xfc"] {
        succeeds([words("convert reparameterize --limit 0"), vec![the_run.clone(), "--out".into(), odd(out)]].concat());
    }
    succeeds(
        [words("convert to-pytorch --out"), vec![odd(b"x\xfb.pth"), Path::new(&the_run).join("model").into()]].concat(),
    );
    succeeds(
        [words("energy --quiet --limit 4 --out"), vec![odd(b"cost-\xfa"), the_run.clone(), "sample".into()]].concat(),
    );
    let output = run(&[words("predict --format json"), vec![the_run.clone(), odd(b"picture-\xf9.png")]].concat());
    assert_refused(&output, &["picture-", "1 of 1 files were not read"]);
    // Not one that this process left open to a panic.
    for arguments in [
        vec![odd(b"\xff")],
        vec!["train".into(), odd(b"\xff")],
        [words("eval run --confusion"), vec![odd(b"\xff")]].concat(),
    ] {
        let output = run(&arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && !message.contains("panicked"), "{arguments:?}: {message}");
    }
}
