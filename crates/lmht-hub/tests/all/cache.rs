//! What is in the cache, who left it there, and in what state.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lmht_hub::{Doing, Error, Repo, RepoKind, Settings};

use crate::server::{End, Reply};
use crate::world::{COMMIT, NAME, World, bytes, client, repo, two_files};

#[test]
fn it_is_laid_out_as_pythons() {
    let world = World::new(|_, _| None);
    let folder = world.client().model(&repo(), &|_| ()).unwrap();
    assert_eq!(folder, world.cache().join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(world.cache().join("refs/main")).unwrap(), COMMIT);
    assert!(world.cache().join(".no_exist").join(COMMIT).join("README.md").exists());
    assert!(world.folder.path().join("cache/.locks/models--owner--name").is_dir());
    #[cfg(unix)]
    for (index, file) in world.files.iter().enumerate() {
        let target = fs::read_link(folder.join(&file.path)).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(file.hash()));
        assert!(fs::read(world.blob(index)).unwrap() == file.bytes);
    }
    // A second call asks for the commit and the list, and for no file; a commit, for nothing at all.
    let before = world.hub.seen().len();
    world.client().model(&repo(), &|_| ()).unwrap();
    assert!(world.hub.seen()[before..].iter().all(|request| request.path.starts_with("/api/")));
    let before = world.hub.seen().len();
    let pinned = Repo::parse(RepoKind::Model, &format!("{NAME}@{COMMIT}")).unwrap();
    world.client().model(&pinned, &|_| ()).unwrap();
    assert_eq!(world.hub.seen().len(), before);
}

#[test]
fn another_revision_is_a_reference_of_its_own() {
    let world = World::new(|_, _| None);
    let pr = Repo::parse(RepoKind::Model, "owner/name@refs/pr/1").unwrap();
    world.check(&world.client().model(&pr, &|_| ()).unwrap());
    assert_eq!(fs::read_to_string(world.cache().join("refs/refs/pr/1")).unwrap(), COMMIT);
}

#[test]
fn without_links_the_files_are_in_the_snapshot() {
    let world = World::new(|_, _| None);
    let hub = client(Settings { links: false, ..world.settings() });
    let folder = world.fetch_with(&hub).unwrap();
    world.check(&folder);
    assert!(fs::symlink_metadata(folder.join("config.json")).unwrap().is_file());
    assert_eq!(fs::read_dir(world.cache().join("blobs")).unwrap().count(), 0);
    // Damage is seen without a name that says what it should be: the list of the commit does.
    fs::write(folder.join("config.json"), "{\"a\": 3}").unwrap();
    let offline = client(Settings { links: false, offline: true, ..world.settings() });
    let error = world.fetch_with(&offline).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("damaged"), "{error}");
    world.check(&world.fetch_with(&hub).unwrap());
}

#[test]
fn damage_in_the_cache_is_never_used() {
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 6] = [
        ("other bytes", |blob, _| fs::write(blob, vec![7; 8000]).unwrap()),
        ("cut off", |blob, _| fs::write(blob, [1, 2, 3]).unwrap()),
        ("empty", |blob, _| fs::write(blob, []).unwrap()),
        ("a link to nothing", |blob, _| fs::remove_file(blob).unwrap()),
        ("a file in place of the link", |_, pointer| {
            fs::remove_file(pointer).unwrap();
            fs::write(pointer, "another").unwrap();
        }),
        ("the blob alone is left", |_, pointer| fs::remove_file(pointer).unwrap()),
    ];
    for (name, harm) in harms {
        let world = World::new(|_, _| None);
        let folder = world.fetch().unwrap();
        harm(&world.blob(1), &folder.join("model.safetensors"));
        let offline = client(Settings { offline: true, ..world.settings() });
        match world.fetch_with(&offline) {
            Ok(folder) => world.check(&folder),
            Err(error) => assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{name}: {error}"),
        }
        world.check(&world.fetch().unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}

#[test]
fn parts_that_a_crash_left_are_used_or_thrown_away() {
    let weights = two_files()[1].bytes.clone();
    for (name, part, first_range) in [
        ("the beginning", weights[..3000].to_vec(), Some(3000)),
        ("all", weights.clone(), None),
        ("something else", vec![7; 3000], Some(3000)),
        ("something else of the right size", vec![7; 8000], None),
        ("too much", vec![7; 9000], None),
    ] {
        let world = World::new(|_, _| None);
        fs::create_dir_all(world.cache().join("blobs")).unwrap();
        fs::write(world.blob(1).with_extension("incomplete"), part).unwrap();
        world.check(&world.fetch().unwrap_or_else(|error| panic!("{name}: {error}")));
        assert_eq!(world.cdn.seen().first().and_then(|request| request.from()), first_range, "{name}");
    }
}

#[test]
fn offline_there_is_the_cache_alone() {
    let world = World::new(|_, _| None);
    let offline = client(Settings { offline: true, ..world.settings() });
    let error = world.fetch_with(&offline).unwrap_err();
    assert!(matches!(error, Error::Offline { .. }) && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    world.fetch().unwrap();
    let before = world.hub.seen().len();
    world.check(&world.fetch_with(&offline).unwrap());
    // Of another client, who leaves no list, the links say what the files should be.
    fs::remove_dir_all(world.cache().join(".lmht")).unwrap();
    world.check(&world.fetch_with(&offline).unwrap());
    fs::write(world.blob(0), "{\"a\": 4}").unwrap();
    let error = world.fetch_with(&offline).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("damaged"), "{error}");
    assert_eq!(world.hub.seen().len(), before);
}

#[test]
fn a_file_that_is_not_in_the_repository() {
    let world = World::new(|_, _| None);
    let hub = world.client();
    let listing = hub.listing(&repo()).unwrap();
    let error = hub.fetch(&listing, &["pytorch_model.bin"], &|_| ()).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn progress_grows_and_ends_with_done() {
    let world = World::new(|_, _| None);
    let told = std::sync::Mutex::new(Vec::new());
    let hub = world.client();
    let listing = hub.listing(&repo()).unwrap();
    hub.fetch(&listing, &["model.safetensors"], &|it| told.lock().unwrap().push((it.doing, it.done, it.size))).unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.iter().any(|(doing, ..)| *doing == Doing::Downloading));
    assert!(told.iter().all(|(_, done, size)| done <= size && *size == 8000));
    assert_eq!(told.last(), Some(&(Doing::Done, 8000, 8000)));
}

#[test]
fn several_at_once_fetch_once() {
    let world = World::new(|request, _| {
        if request.path.starts_with("/cdn/") {
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| world.check(&world.fetch().unwrap()));
        }
    });
    assert_eq!(world.cdn.seen().len(), 1);
}

/// Not a test of its own: what [`a_process_that_is_killed_loses_nothing`] starts and kills.
#[test]
fn child() {
    let (Ok(endpoint), Ok(cache)) = (std::env::var("LMHT_HUB_TEST_ENDPOINT"), std::env::var("LMHT_HUB_TEST_CACHE"))
    else {
        return;
    };
    let variables = |name: &str| match name {
        "HF_ENDPOINT" => Some(endpoint.clone()),
        "HF_HUB_CACHE" => Some(cache.clone()),
        _ => None,
    };
    let hub = client(Settings { token: None, ..Settings::from_variables(&variables).unwrap() });
    _ = hub.with_times(Duration::from_secs(1), Duration::from_secs(20)).unwrap().model(&repo(), &|_| ());
}

#[test]
fn a_process_that_is_killed_loses_nothing() {
    let world = World::new(|request, n| {
        let weights = two_files()[1].bytes.clone();
        (request.path.starts_with("/cdn/") && n == 0).then(|| bytes(&weights, request).ending(End::Silent(4000)))
    });
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cache::child"])
        .env("LMHT_HUB_TEST_ENDPOINT", &world.hub.address)
        .env("LMHT_HUB_TEST_CACHE", world.settings().cache)
        .spawn()
        .unwrap();
    let part = world.blob(1).with_extension("incomplete");
    for _ in 0..1000 {
        if fs::metadata(&part).is_ok_and(|found| found.len() == 4000) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    world.check(&world.fetch().unwrap());
    assert_eq!(world.cdn.seen().last().and_then(|request| request.from()), Some(4000));
}

#[cfg(unix)]
#[test]
fn a_cache_for_reading_alone_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(|_, _| None);
    let folder = world.fetch().unwrap();
    for place in [world.settings().cache, world.cache(), world.cache().join("blobs"), folder] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o555)).unwrap();
    }
    world.check(&world.fetch().unwrap());
    for place in [world.settings().cache, world.cache(), world.cache().join("blobs")] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn references_and_lists_that_are_damaged() {
    let world = World::new(|_, _| None);
    world.fetch().unwrap();
    let offline = client(Settings { offline: true, ..world.settings() });
    fs::write(world.cache().join(".lmht").join(format!("{COMMIT}.json")), "[{").unwrap();
    assert!(world.fetch_with(&offline).unwrap_err().to_string().contains("damaged"));
    fs::write(world.cache().join("refs/main"), "../../evil").unwrap();
    assert!(world.fetch_with(&offline).unwrap_err().to_string().contains("40 hexadecimal digits"));
    // Online both are written anew.
    world.check(&world.fetch().unwrap());
    world.check(&world.fetch_with(&offline).unwrap());
}

#[test]
fn the_repository_moves_on() {
    let second = "f".repeat(40);
    let (moved, name) = (second.clone(), second.clone());
    let world = World::new(move |request, n| {
        let path = &request.path;
        if path.contains("/revision/") && n > 0 {
            return Some(Reply::new(200, format!(r#"{{"sha":"{moved}"}}"#)));
        }
        path.contains(&name).then(|| {
            let old = crate::server::Request { path: path.replace(&name, COMMIT), ..request.clone() };
            crate::world::right(&old, &two_files(), "http://127.0.0.1:9")
        })
    });
    let first = world.fetch().unwrap();
    let folder = world.fetch().unwrap();
    assert!(folder.ends_with(&second) && first.ends_with(COMMIT));
    // Equal bytes are one blob, and were not fetched again.
    world.check(&folder);
    assert_eq!(world.cdn.seen().len(), 1);
}
