//! Names, sizes and settings that would lead out of the cache or fill the disk.

use lmht_hub::{Repo, RepoKind, Settings};

use crate::server::Reply;
use crate::world::{COMMIT, Content, World, two_files};

#[test]
fn file_names_that_lead_out_of_the_cache_are_refused() {
    for name in [
        "../evil",
        "a/../../evil",
        "/etc/evil",
        "a//b",
        "./a",
        "a/",
        "",
        "..\\evil",
        "C:\\evil",
        "C:evil",
        "\\\\host\\evil",
        "nul",
        "a/CON.txt",
        "com1",
        "LPT9.json",
        "aux",
        "a\0b",
        "a\nb",
        "\u{1b}[31m",
        "dot.",
        "space ",
        "a:stream",
    ] {
        let world = World::with(vec![Content::new(name, b"evil", false)], |_, _| None);
        let error = world.fetch().map(|_| ()).expect_err(name).to_string();
        assert!(error.contains("path of a file"), "{name:?}: {error}");
        assert!(!error.contains('\u{1b}'), "{name:?}");
        let snapshots = world.cache().join("snapshots");
        assert!(!snapshots.exists() && !world.folder.path().join("evil").exists(), "{name:?}");
    }
    let long = "a/".repeat(600) + "b";
    assert!(World::with(vec![Content::new(&long, b"", false)], |_, _| None).fetch().is_err());
}

#[test]
fn odd_names_that_are_safe_are_taken() {
    let names = ["a b/c#d.txt", "ü/ß.json", "100%.txt", ".gitattributes", "a&b=c", "console", "empty", "x/y/z/ä+.bin"];
    let files = names.map(|name| Content::new(name, if name == "empty" { b"" } else { name.as_bytes() }, false));
    let world = World::with(files.to_vec(), |_, _| None);
    world.check(&world.fetch().unwrap());
}

#[test]
fn digests_and_commits_that_are_paths_are_refused() {
    for hash in ["../../evil", "", "ABCDEF0123456789ABCDEF0123456789ABCDEF01", "0123", "/etc/passwd"] {
        let mut files = two_files();
        files[0].listed_hash = Some(hash.to_owned());
        let world = World::with(files, |_, _| None);
        let error = world.fetch().unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("SHA-1 or SHA-256"), "{error}");
    }
    for commit in ["../../../evil", "main", ""] {
        let reply = format!(r#"{{"sha":"{commit}"}}"#);
        let world = World::new(move |r, _| r.path.contains("/revision/").then(|| Reply::new(200, reply.clone())));
        let error = world.fetch().unwrap_err().to_string();
        assert!(error.contains("commit of 40 hexadecimal digits"), "{error}");
        assert!(!world.folder.path().join("cache").exists());
    }
}

#[test]
fn sizes_are_bounded_and_believed_by_nobody() {
    let mut files = two_files();
    files[1].listed_size = Some(1 << 50);
    let error = World::with(files.clone(), |_, _| None).fetch().unwrap_err().to_string();
    assert!(error.contains("expected at most"), "{error}");
    files[0].listed_size = Some(u64::MAX);
    assert!(World::with(files.clone(), |_, _| None).fetch().is_err());
    files[0].listed_size = Some(7);
    files[1].listed_size = None;
    let error = World::with(files, |_, _| None).fetch().unwrap_err().to_string();
    assert!(error.contains("expected 7 bytes"), "{error}");
}

#[test]
fn a_name_twice_is_refused() {
    let mut files = two_files();
    files.push(Content::new("config.json", b"another", false));
    let error = World::with(files, |_, _| None).fetch().unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("twice"), "{error}");
}

#[test]
fn names_of_repositories() {
    for name in [
        "name", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a b/c", "-a/b", "a--b/c", "", "/", "a\\b/c",
        "C:/b",
    ] {
        assert!(Repo::parse(RepoKind::Model, name).is_err(), "{name:?}");
    }
    for name in ["a/b", "a-b/c.d_e", "a/b@v1.0", "a/b@refs/pr/1", &format!("a/b@{COMMIT}")] {
        assert!(Repo::parse(RepoKind::Model, name).is_ok(), "{name:?}");
    }
}

#[test]
fn variables() {
    let home = tempfile::tempdir().unwrap();
    let of = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let home = home.path().to_str().unwrap().to_owned();
        Settings::from_variables(&move |name| match pairs.iter().find(|(key, _)| key == name) {
            None if name == "HF_HOME" => Some(home.clone()),
            found => found.map(|(_, value)| value.clone()),
        })
    };
    let settings =
        of(&[("HF_HUB_CACHE", "/c"), ("HF_ENDPOINT", "https://hub.example/"), ("HF_HUB_OFFLINE", "yes")]).unwrap();
    assert_eq!(settings.cache, std::path::Path::new("/c"));
    assert_eq!((settings.endpoint.as_str(), settings.offline), ("https://hub.example", true));
    assert!(settings.token.is_none());
    std::fs::write(home.path().join("token"), "hf_of_file\n").unwrap();
    let (by_file, by_name) = (of(&[]).unwrap().token, of(&[("HF_TOKEN", "hf_x")]).unwrap().token);
    assert!(by_file.is_some() && by_name.is_some() && by_file != by_name);
    assert!(!format!("{:?}", of(&[]).unwrap()).contains("hf_of_file"));
    assert!(of(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap().token.is_none());
    for (wrong, part) in [
        (("HF_TOKEN", "two words"), "HF_TOKEN"),
        (("HF_TOKEN", "line\r\nX-Evil: 1"), "HF_TOKEN"),
        (("HF_ENDPOINT", "ftp://hub"), "HF_ENDPOINT"),
        (("HF_ENDPOINT", "http://hub.example"), "readable"),
        (("HF_ENDPOINT", "https://user@hub"), "HF_ENDPOINT"),
    ] {
        let error = of(&[wrong]).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("hf_of_file"), "{error}");
    }
}
