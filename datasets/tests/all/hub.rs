//! Data sets of the Hub by a server on the loopback.

use lmht_datasets::{Error, ImageDataset, ReadOptions, Source, Split, hub, sample_path};
use lmht_hub::{Repo, RepoKind};

use crate::world::{Content, World};

/// The sample's files as a repository would have them.
fn sample(paths: [&str; 2], card: Option<&str>) -> Vec<Content> {
    let read = |name: &str| std::fs::read(sample_path().join(name)).unwrap();
    let mut files = vec![
        Content::new(paths[0], &read("train-00000-of-00001.parquet"), true),
        Content::new(paths[1], &read("test-00000-of-00001.parquet"), true),
        Content::new(".gitattributes", b"*.parquet filter=lfs", false),
    ];
    files.extend(card.map(|card| Content::new("README.md", card.as_bytes(), false)));
    files
}

fn open(world: &World, options: &ReadOptions) -> Result<Source, Error> {
    let repo = Repo::parse(RepoKind::Dataset, "owner/name").unwrap();
    let (folder, options) = hub::fetch(&world.client(), &repo, options, &|_| ())?;
    Source::open(folder, &options)
}

fn fetched(world: &World) -> usize {
    world.cdn.seen().len()
}

#[test]
fn it_is_found_where_repositories_have_it() {
    let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: shards/**/train*\n  - split: test\n    \
                path: shards/b/*\n---\n";
    for (paths, card) in [
        (["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"], None),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], Some("# No YAML")),
        (["train.parquet", "test.parquet"], None),
        (["default/train/0000.parquet", "default/test/0000.parquet"], None),
        (["train/0000.parquet", "test/0000.parquet"], None),
        (["shards/a/train-x.parquet", "shards/b/y.parquet"], Some(card)),
    ] {
        let world = World::with(sample(paths, card), |_, _| None);
        let source = open(&world, &ReadOptions::default()).unwrap_or_else(|error| panic!("{paths:?}: {error}"));
        assert_eq!(source.splits().collect::<Vec<_>>(), ["test", "train"], "{paths:?}");
        assert_eq!(fetched(&world), 2, "{paths:?}");
        assert!(world.hub.seen().iter().all(|request| !request.path.contains("gitattributes")));
    }
}

#[test]
fn the_images_are_those_of_the_folder() {
    let paths = ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"];
    let options = ReadOptions { max_per_class: Some(3), ..ReadOptions::default() };
    let world = World::with(sample(paths, None), |_, _| None);
    let source = open(&world, &options).unwrap();
    let found = ImageDataset::from_source(&source, Split::Test, &|_, _| ()).unwrap();
    assert_eq!(found, ImageDataset::read(sample_path(), Split::Test, &options).unwrap());
    assert_eq!(found.class_names().unwrap()[9], "Ankle boot");
}

#[test]
fn one_of_several_configurations_is_fetched() {
    let mut files = sample(["a/train-00000-of-00001.parquet", "a/test-00000-of-00001.parquet"], None);
    files.push(Content::new("b/train-00000-of-00001.parquet", b"of another configuration", true));
    let world = World::with(files, |_, _| None);
    let error = open(&world, &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::ConfigurationNeeded { found, .. } if found == &["a", "b"]), "{error}");
    assert_eq!(fetched(&world), 0);
    open(&world, &ReadOptions { configuration: Some("a".into()), ..ReadOptions::default() }).unwrap();
    assert_eq!(fetched(&world), 2);
    let error = open(&world, &ReadOptions { configuration: Some("c".into()), ..ReadOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("`a`, `b`"), "{error}");
}

#[test]
fn what_is_no_data_set_is_told_before_anything_long_is_fetched() {
    let world = World::with(vec![Content::new("model.bin", b"weights", true)], |_, _| None);
    let error = open(&world, &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("expected a data set") && error.to_string().contains("model.bin"), "{error}");
    // A shard that is not there is missed, as in a folder.
    let files = sample(["data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"], None);
    let error = open(&World::with(files, |_, _| None), &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::MissingShard { missing: 1, .. }), "{error}");
    let error =
        open(&World::with(Vec::new(), |_, _| Some(crate::server::Reply::new(401, ""))), &ReadOptions::default());
    assert!(error.unwrap_err().to_string().contains("HF_TOKEN"));
}
