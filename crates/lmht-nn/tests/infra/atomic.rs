//! Whole or not at all, also when the system says no in the middle.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lmht_nn::atomic::{Error, FolderWriter, clean_stale, write_file};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

/// Names in a folder, hidden ones too, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A folder with an earlier checkpoint, which every failure must leave as it is.
fn run_with_checkpoint() -> io::Result<(tempfile::TempDir, PathBuf)> {
    let run = tempfile::tempdir()?;
    let earlier = run.path().join("epoch-0001");
    fs::create_dir(&earlier)?;
    fs::write(earlier.join("model.safetensors"), b"earlier")?;
    let next = run.path().join("epoch-0002");
    Ok((run, next))
}

#[track_caller]
fn assert_only_the_earlier(run: &Path) {
    assert_eq!(names(run), ["epoch-0001"]);
    assert_eq!(names(&run.join("epoch-0001")), ["model.safetensors"]);
    assert_eq!(fs::read(run.join("epoch-0001/model.safetensors")).expect("the earlier weights"), b"earlier");
}

#[test]
fn a_committed_folder_has_its_content_and_nothing_else() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    let large: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let mut writer = FolderWriter::new(&next)?;
    writer.write("model.safetensors", &large)?;
    writer.write("empty", b"")?;
    writer.write_with("lines", |file| (0..3).try_for_each(|i| writeln!(file, "{i}")))?;
    assert!(!next.exists(), "not before the commit");
    let [temporary, earlier] = &names(run.path())[..] else { panic!("expected two names") };
    assert!(temporary.starts_with(".epoch-0002.lmht-new-") && earlier == "epoch-0001", "{temporary} {earlier}");
    assert_eq!(writer.commit()?, next);
    assert_eq!(names(run.path()), ["epoch-0001", "epoch-0002"]);
    assert_eq!(names(&next), ["empty", "lines", "model.safetensors"]);
    assert_eq!(fs::read(next.join("model.safetensors"))?, large);
    assert_eq!(fs::read(next.join("empty"))?, b"");
    assert_eq!(fs::read(next.join("lines"))?, b"0\n1\n2\n");
    Ok(())
}

#[test]
fn dropping_without_commit_leaves_nothing() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    let mut writer = FolderWriter::new(&next)?;
    writer.write("model.safetensors", b"half")?;
    drop(writer);
    assert_only_the_earlier(run.path());

    // The same when the thread that writes dies.
    let path = next.clone();
    let died = std::thread::spawn(move || {
        let mut writer = FolderWriter::new(path).expect("a writer");
        writer.write("model.safetensors", b"half").expect("a file");
        std::panic::resume_unwind(Box::new("as if training had panicked"));
    });
    assert!(died.join().is_err());
    assert_only_the_earlier(run.path());
    // And the name is free again.
    FolderWriter::new(&next)?.commit()?;
    assert!(next.is_dir());
    Ok(())
}

#[test]
fn an_error_in_the_middle_forbids_the_commit() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    let mut writer = FolderWriter::new(&next)?;
    writer.write("a", b"whole")?;
    let error = writer
        .write_with("b", |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with(&format!("{}: cannot write the file: ", next.join("b").display())), "{message}");
    assert!(message.contains("free some space and resume"), "{message}");
    // Even if the caller goes on as if nothing had been.
    writer.write("c", b"whole")?;
    assert!(matches!(writer.commit(), Err(Error::Incomplete { path }) if path == next));
    assert_only_the_earlier(run.path());
    Ok(())
}

#[test]
fn names_within_the_folder_are_plain_and_unique() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    for name in ["", ".", "..", "../epoch-0001/model.safetensors", "/tmp/x", "a/b", "a/", "./a"] {
        let mut writer = FolderWriter::new(&next)?;
        let error = writer.write(name, b"x").expect_err(name);
        assert!(matches!(&error, Error::InvalidName { .. }), "{name}: {error}");
        assert!(writer.commit().is_err(), "{name}");
    }
    let mut writer = FolderWriter::new(&next)?;
    writer.write("a", b"first")?;
    assert!(matches!(writer.write("a", b"second"), Err(Error::Exists { path }) if path == next.join("a")));
    drop(writer);
    assert_only_the_earlier(run.path());
    for path in ["", "/", ".."] {
        assert!(matches!(FolderWriter::new(path), Err(Error::InvalidName { .. })), "{path:?}");
        assert!(write_file(Path::new(path), b"x").is_err(), "{path:?}");
    }
    Ok(())
}

#[test]
fn what_exists_is_not_replaced() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    let earlier = run.path().join("epoch-0001");
    let error = FolderWriter::new(&earlier).unwrap_err();
    assert!(error.to_string().contains("choose another name"), "{error}");
    // An empty folder, which a rename would replace silently, that comes while the writer is at work.
    let mut writer = FolderWriter::new(&next)?;
    writer.write("a", b"x")?;
    fs::create_dir(&next)?;
    assert!(matches!(writer.commit(), Err(Error::Exists { path }) if path == next));
    assert_eq!(names(&next), [""; 0]);
    fs::remove_dir(&next)?;
    // A link to nowhere takes the name, too.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(run.path().join("nowhere"), &next)?;
        assert!(matches!(FolderWriter::new(&next), Err(Error::Exists { .. })));
        fs::remove_file(&next)?;
    }
    assert_only_the_earlier(run.path());
    Ok(())
}

#[test]
fn of_two_writers_the_first_to_commit_has_the_name() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    let (mut first, mut second) = (FolderWriter::new(&next)?, FolderWriter::new(&next)?);
    first.write("a", b"first")?;
    second.write("a", b"second")?;
    assert_eq!(names(run.path()).len(), 3, "they are at work in different folders");
    second.commit()?;
    assert!(matches!(first.commit(), Err(Error::Exists { .. })));
    assert_eq!(fs::read(next.join("a"))?, b"second");
    assert_eq!(names(run.path()), ["epoch-0001", "epoch-0002"]);
    Ok(())
}

/// A temporary name as a process makes it.
fn leftover(folder: &Path, name: &str, kind: &str) -> PathBuf {
    folder.join(format!(".{name}.lmht-{kind}-0123456789abcdef"))
}

#[test]
fn what_nobody_holds_is_cleaned_and_what_is_not_ours_stays() -> AnyResult {
    let (run, next) = run_with_checkpoint()?;
    let folder = leftover(run.path(), "epoch-0007", "new");
    fs::create_dir(&folder)?;
    fs::write(folder.join("model.safetensors"), b"torn")?;
    let file = leftover(run.path(), "metrics.json", "new");
    fs::write(&file, b"torn")?;
    // A writer at work, in this process or in another; names that only resemble ours; folders with more than files.
    let mut writer = FolderWriter::new(&next)?;
    assert!(!folder.exists() && !file.exists(), "a writer cleans where it writes");
    fs::create_dir(&folder)?;
    fs::write(&file, b"torn")?;
    writer.write("a", b"x")?;
    let held = fs::File::create(leftover(run.path(), "held", "new"))?;
    held.lock()?;
    let alike = [".epoch.tmp-12", ".epoch.lmht-new-", "epoch.lmht-new-0123456789abcdef", ".gitignore"];
    alike.iter().try_for_each(|name| fs::write(run.path().join(name), b"stays"))?;
    let foreign = leftover(run.path(), "foreign", "new");
    fs::create_dir_all(foreign.join("below"))?;
    #[cfg(unix)]
    let link = leftover(run.path(), "link", "new");
    #[cfg(unix)]
    std::os::unix::fs::symlink(run.path().join("epoch-0001"), &link)?;

    assert_eq!(clean_stale(run.path())?, [folder, file]);
    writer.commit()?;
    assert!(clean_stale(run.path())?.is_empty());
    assert_eq!(names(&next), ["a"]);
    assert!(alike.iter().all(|name| run.path().join(name).exists()));
    assert!(foreign.join("below").exists());
    #[cfg(unix)]
    assert!(link.symlink_metadata().is_ok());
    assert_eq!(fs::read(run.path().join("epoch-0001/model.safetensors"))?, b"earlier");
    drop(held);
    assert_eq!(clean_stale(run.path())?, [leftover(run.path(), "held", "new")]);

    let missing = run.path().join("missing");
    let error = clean_stale(&missing).unwrap_err().to_string();
    assert!(error.contains(&missing.display().to_string()), "{error}");
    Ok(())
}

/// A name that somebody could have put there to be followed, or to be in the way.
#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() -> AnyResult {
    let (run, _) = run_with_checkpoint()?;
    let (victim, path) = (run.path().join("victim"), run.path().join("metrics.json"));
    fs::write(&victim, b"not ours")?;
    std::os::unix::fs::symlink(&victim, &path)?;
    write_file(&path, b"ours")?;
    assert_eq!(fs::read(&victim)?, b"not ours");
    assert!(path.symlink_metadata()?.is_file());
    Ok(())
}

#[cfg(unix)]
#[test]
fn names_need_not_be_text() -> AnyResult {
    use std::os::unix::ffi::OsStrExt;
    let (run, _) = run_with_checkpoint()?;
    let path = run.path().join(std::ffi::OsStr::from_bytes(b"model-\xff"));
    write_version(&path, 1)?;
    let mut old = std::ffi::OsString::from(".");
    old.push(path.file_name().unwrap_or_default());
    old.push(".lmht-old-0123456789abcdef");
    fs::rename(&path, run.path().join(old))?;
    clean_stale(run.path())?;
    assert_eq!(version(&path), 1);
    write_version(&path, 2)?;
    assert_eq!(version(&path), 2);
    write_file(&run.path().join(std::ffi::OsStr::from_bytes(b"\xfe")), b"x")?;
    Ok(())
}

#[test]
fn a_file_is_made_and_replaced() -> AnyResult {
    let (run, _) = run_with_checkpoint()?;
    let path = run.path().join("metrics.json");
    write_file(&path, b"first, and longer")?;
    assert_eq!(fs::read(&path)?, b"first, and longer");
    write_file(&path, b"second")?;
    assert_eq!(fs::read(&path)?, b"second");
    assert_eq!(names(run.path()), ["epoch-0001", "metrics.json"]);
    Ok(())
}

#[test]
fn a_reader_never_sees_half_a_file() -> AnyResult {
    let (run, _) = run_with_checkpoint()?;
    let path = run.path().join("state");
    write_file(&path, &[0; 50_000])?;
    std::thread::scope(|scope| {
        for writer in 1..4u8 {
            let path = &path;
            scope.spawn(move || (0..10).for_each(|_| write_file(path, &[writer; 50_000]).expect("a file")));
        }
        for _ in 0..200 {
            let seen = fs::read(&path).expect("the file is always there");
            assert_eq!(seen.len(), 50_000);
            assert!(seen.iter().all(|byte| *byte == seen[0]));
        }
    });
    assert_eq!(names(run.path()), ["epoch-0001", "state"]);
    Ok(())
}

#[test]
fn paths_that_cannot_be_written_say_why() -> AnyResult {
    let (run, _) = run_with_checkpoint()?;
    let file = run.path().join("epoch-0001/model.safetensors");
    for (parent, kind, advice) in [
        (file.clone(), io::ErrorKind::NotADirectory, "a part of the path is a file"),
        (run.path().join("missing"), io::ErrorKind::NotFound, "does the folder that should hold it exist?"),
    ] {
        let path = parent.join("new");
        for error in [FolderWriter::new(&path).unwrap_err(), write_file(&path, b"x").unwrap_err()] {
            let Error::Io { source, path: named, .. } = &error else { panic!("{error}") };
            assert_eq!((source.kind(), named), (kind, &path));
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
    // A file in place of the folder, a folder in place of the file.
    assert!(matches!(FolderWriter::new(&file), Err(Error::Exists { .. })));
    let error = write_file(&run.path().join("epoch-0001"), b"x").unwrap_err();
    assert!(error.to_string().contains("a folder is in its place"), "{error}");
    assert_only_the_earlier(run.path());
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_read_only_parent_says_so() -> AnyResult {
    use std::os::unix::fs::PermissionsExt;
    let (run, next) = run_with_checkpoint()?;
    fs::set_permissions(run.path(), fs::Permissions::from_mode(0o555))?;
    // The administrator may write everywhere; then only the second part of this test says something.
    let enforced = fs::create_dir(run.path().join("probe")).is_err();
    let attempts = [FolderWriter::new(&next).err(), write_file(&run.path().join("file"), b"x").err()];
    fs::set_permissions(run.path(), fs::Permissions::from_mode(0o755))?;
    if enforced {
        for error in attempts {
            let error = error.expect("the folder is read-only").to_string();
            assert!(error.contains("make the folder writable, or choose another"), "{error}");
        }
        assert_only_the_earlier(run.path());
    }
    // In sysfs nobody can make a file or a folder.
    #[cfg(target_os = "linux")]
    for error in [
        FolderWriter::new("/sys/lmht-epoch-0001").expect_err("sysfs has no new folders"),
        write_file(Path::new("/sys/lmht-file"), b"x").expect_err("sysfs has no new files"),
    ] {
        let Error::Io { source, .. } = &error else { panic!("{error}") };
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        assert!(matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | NotFound), "{error}");
        assert!(error.to_string().starts_with("/sys/lmht-"), "{error}");
    }
    Ok(())
}

/// In the child of the test below: the folder to write to.
const CHILD: &str = "LMHT_TEST_FILE_LIMIT_FOLDER";

/// Writes beyond a limit fail in the middle of a file, as on a full disk. The limit is a property of the process, so the
/// test runs itself once more under `ulimit -f`, with the signal ignored that would kill the process instead.
#[cfg(unix)]
#[test]
fn a_write_that_fails_in_the_middle_leaves_the_earlier_checkpoint() -> AnyResult {
    if let Some(folder) = std::env::var_os(CHILD) {
        return write_beyond_the_limit(Path::new(&folder));
    }
    let (run, _) = run_with_checkpoint()?;
    write_file(&run.path().join("metrics.json"), b"earlier")?;
    // 64 blocks are 32 KiB or 64 KiB, depending on the shell; the child writes 16 KiB, then 1 MiB.
    let child = std::process::Command::new("sh")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 64 || exit 99; exec \"$0\" \"$1\" --exact --nocapture --test-threads=1")
        .arg(std::env::current_exe()?)
        .arg("atomic::a_write_that_fails_in_the_middle_leaves_the_earlier_checkpoint")
        .env(CHILD, run.path())
        .output()?;
    let output = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success(), "{:?}: {output}", child.status);
    // It has run, and its errors were those of the limit.
    assert!(output.contains("1 passed"), "{output}");
    assert_eq!(output.matches("FileTooLarge").count(), 2, "{output}");

    assert_eq!(names(run.path()), ["epoch-0001", "epoch-0002", "metrics.json"]);
    assert_eq!(fs::read(run.path().join("epoch-0001/model.safetensors"))?, b"earlier");
    assert_eq!(names(&run.path().join("epoch-0002")), ["small"]);
    assert_eq!(fs::read(run.path().join("metrics.json"))?, b"earlier");
    Ok(())
}

#[cfg(unix)]
fn write_beyond_the_limit(run: &Path) -> AnyResult {
    let large = vec![7u8; 1 << 20];
    let next = run.join("epoch-0002");
    let mut writer = FolderWriter::new(&next)?;
    writer.write("small", &[7; 16 << 10])?;
    let model = writer.write("model.safetensors", &large).expect_err("beyond the limit");
    drop(writer);
    assert_eq!(names(run), ["epoch-0001", "metrics.json"]);
    let metrics = write_file(&run.join("metrics.json"), &large).expect_err("beyond the limit");
    for (error, path) in [(model, next.join("model.safetensors")), (metrics, run.join("metrics.json"))] {
        let Error::Io { source, path: named, .. } = &error else { panic!("{error}") };
        println!("{:?}: {error}", source.kind());
        assert_eq!(*named, path);
        let message = error.to_string();
        assert!(message.contains("raise the limit on file sizes"), "{message}");
        assert!(message.contains("what was saved earlier is intact"), "{message}");
    }
    // The process goes on: a smaller checkpoint fits.
    let mut writer = FolderWriter::new(&next)?;
    writer.write("small", &[7; 16 << 10])?;
    writer.commit()?;
    Ok(())
}

/// A model folder of two files that tell its version.
fn write_version(path: &Path, version: u32) -> Result<(), Error> {
    let mut writer = FolderWriter::replacing(path)?;
    writer.write("config.json", version.to_string().as_bytes())?;
    writer.write("model.safetensors", &version.to_le_bytes().repeat(5000))?;
    writer.commit().map(|_| ())
}

/// The version of a whole folder; a torn one fails.
#[track_caller]
fn version(path: &Path) -> u32 {
    assert_eq!(names(path), ["config.json", "model.safetensors"]);
    let version: u32 = fs::read_to_string(path.join("config.json")).expect("text").parse().expect("a number");
    assert_eq!(fs::read(path.join("model.safetensors")).expect("weights"), version.to_le_bytes().repeat(5000));
    version
}

#[test]
fn a_folder_is_replaced_when_the_new_one_is_complete() -> AnyResult {
    let run = tempfile::tempdir()?;
    let path = run.path().join("model");
    write_version(&path, 1)?;
    write_version(&path, 2)?;
    assert_eq!(version(&path), 2);
    assert_eq!(names(run.path()), ["model"]);

    // Not before the commit, and not without one.
    let mut writer = FolderWriter::replacing(&path)?;
    writer.write("config.json", b"3")?;
    assert_eq!(version(&path), 2);
    drop(writer);
    assert_eq!(version(&path), 2);
    // Not after a failure, either.
    let mut writer = FolderWriter::replacing(&path)?;
    writer.write("config.json", b"3")?;
    writer.write("config.json", b"3").expect_err("a name twice");
    assert!(matches!(writer.commit(), Err(Error::Incomplete { .. })));
    assert_eq!(version(&path), 2);
    assert_eq!(names(run.path()), ["model"]);
    Ok(())
}

#[test]
fn only_a_folder_of_the_same_files_is_replaced() -> AnyResult {
    let run = tempfile::tempdir()?;
    let path = run.path().join("model");
    write_version(&path, 1)?;
    for foreign in ["notes.txt", ".hidden"] {
        fs::write(path.join(foreign), b"not ours")?;
        let error = write_version(&path, 2).expect_err("a foreign file");
        assert!(matches!(&error, Error::Foreign { path: named, name } if *named == path && name == foreign), "{error}");
        assert!(error.to_string().contains("move that elsewhere, or choose another name"), "{error}");
        assert_eq!(fs::read(path.join(foreign))?, b"not ours");
        fs::remove_file(path.join(foreign))?;
        assert_eq!(version(&path), 1);
        assert_eq!(names(run.path()), ["model"]);
    }
    // A folder of fewer files, and an empty one, hold nothing to lose.
    fs::remove_file(path.join("config.json"))?;
    write_version(&path, 3)?;
    assert_eq!(version(&path), 3);
    fs::remove_dir_all(&path)?;
    fs::create_dir(&path)?;
    write_version(&path, 4)?;
    assert_eq!(version(&path), 4);
    // A file is not replaced, nor a link to a folder.
    let file = run.path().join("file");
    fs::write(&file, b"a file")?;
    assert!(matches!(FolderWriter::replacing(&file), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&file)?, b"a file");
    #[cfg(unix)]
    {
        let link = run.path().join("link");
        std::os::unix::fs::symlink(&path, &link)?;
        assert!(matches!(FolderWriter::replacing(&link), Err(Error::Exists { .. })));
        assert_eq!(version(&path), 4);
    }
    Ok(())
}

/// The state that a process leaves that dies between the two renames: the old folder aside, the new one complete, and
/// nothing under the name.
#[test]
fn a_death_between_the_renames_loses_nothing() -> AnyResult {
    let interrupted = || -> Result<(tempfile::TempDir, PathBuf), Box<dyn std::error::Error>> {
        let run = tempfile::tempdir()?;
        let path = run.path().join("model");
        // Written under plain names: a writer would clean them.
        for (version, kind) in [(1, "old"), (2, "new")] {
            write_version(&run.path().join(kind), version)?;
        }
        ["old", "new"]
            .iter()
            .try_for_each(|kind| fs::rename(run.path().join(kind), leftover(run.path(), "model", kind)))?;
        Ok((run, path))
    };
    // Cleaning gives the old one its name back.
    let (run, path) = interrupted()?;
    assert_eq!(clean_stale(run.path())?, [leftover(run.path(), "model", "new")]);
    assert_eq!(version(&path), 1);
    assert_eq!(names(run.path()), ["model"]);
    // So does the next replacement, even if it comes to nothing.
    let (run, path) = interrupted()?;
    drop(FolderWriter::replacing(&path)?);
    assert_eq!(version(&path), 1);
    write_version(&path, 3)?;
    assert_eq!(version(&path), 3);
    assert_eq!(names(run.path()), ["model"]);

    // A death after the second rename: the new one has its name, the old one goes.
    let (run, path) = interrupted()?;
    fs::rename(leftover(run.path(), "model", "new"), &path)?;
    assert_eq!(clean_stale(run.path())?, [leftover(run.path(), "model", "old")]);
    assert_eq!(version(&path), 2);
    let (run, path) = interrupted()?;
    fs::rename(leftover(run.path(), "model", "new"), &path)?;
    write_version(&path, 3)?;
    assert_eq!(version(&path), 3);
    assert_eq!(names(run.path()), ["model"]);
    Ok(())
}

#[cfg(unix)]
#[test]
fn the_folder_that_a_living_process_replaces_is_left_to_it() -> AnyResult {
    let run = tempfile::tempdir()?;
    let (old, new) = (leftover(run.path(), "model", "old"), leftover(run.path(), "model", "new"));
    for path in [&old, &new] {
        fs::create_dir(path)?;
        fs::write(path.join("config.json"), b"1")?;
    }
    let held = fs::File::open(&new)?;
    held.lock()?;
    assert!(clean_stale(run.path())?.is_empty());
    // It is not for another writer to restore, either.
    drop(FolderWriter::replacing(run.path().join("model"))?);
    assert!(old.exists() && new.exists() && !run.path().join("model").exists());
    drop(held);
    assert_eq!(clean_stale(run.path())?, [new]);
    assert_eq!(names(run.path()), ["model"]);
    Ok(())
}

/// In the child of the test below: the folder to replace for ever.
const REPLACER: &str = "LMHT_TEST_REPLACER_FOLDER";

/// Kills a process that does nothing but replace a folder, again and again: what is found after cleaning is always one
/// whole version, and never an older one than was found before.
#[cfg(unix)]
#[test]
fn a_kill_at_any_moment_leaves_a_whole_folder() -> AnyResult {
    if let Some(folder) = std::env::var_os(REPLACER) {
        let path = Path::new(&folder).join("model");
        for next in version(&path) + 1.. {
            write_version(&path, next)?;
        }
    }
    let run = tempfile::tempdir()?;
    let path = run.path().join("model");
    write_version(&path, 1)?;
    let mut newest = 1;
    for attempt in 0..25u64 {
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .args(["atomic::a_kill_at_any_moment_leaves_a_whole_folder", "--exact", "--test-threads=1"])
            .env(REPLACER, run.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        // Some replacements, then a little more, different each time.
        let before = newest;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let seen = || fs::read_to_string(path.join("config.json")).ok().and_then(|text| text.parse::<u32>().ok());
        while seen().is_none_or(|seen| seen < before + 2) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        std::thread::sleep(std::time::Duration::from_micros(137 * attempt));
        child.kill()?;
        child.wait()?;
        clean_stale(run.path())?;
        assert_eq!(names(run.path()), ["model"], "attempt {attempt}");
        newest = version(&path);
        assert!(newest > before, "attempt {attempt}: found version {newest} after {before}");
    }
    Ok(())
}
