//! Commands that take names of the Hub, with a Hub on the loopback.

#[allow(dead_code, reason = "other tests need more of it")]
mod helpers;
#[path = "../../crates/lmht-hub/tests/all/server.rs"]
#[allow(dead_code, reason = "the tests of lmht-hub need more of it")]
mod server;
#[path = "../../crates/lmht-hub/tests/all/world.rs"]
#[allow(dead_code, reason = "the tests of lmht-hub need more of it")]
mod world;

use std::path::Path;
use std::process::Output;

use helpers::{assert_refused, assert_succeeded, xtask};
use serde_json::Value;
use server::Reply;
use world::{COMMIT, Content, World};

const CONFIG: &str = r#"
[model]
backbone = "resnet20"
width = 4
in_channels = 1
n_classes = 10
timesteps = 2
neuron = { kind = "lmht", levels = 2 }

[train]
epochs = 1
batch_size = 32
seed = 7
optimizer = { kind = "sgd", lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 5e-4 }

[data]
parquet = { max_per_class = 8, test_split = "test[:5%]" }
"#;

fn run(world: &World, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = xtask(arguments);
    command.current_dir(folder).env("HF_ENDPOINT", &world.hub.address).env("HF_HUB_CACHE", world.settings().cache);
    command.env("HF_HOME", folder.join("home")).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE").output().unwrap()
}

#[track_caller]
fn succeeds(world: &World, folder: &Path, arguments: &[&str]) -> String {
    assert_succeeded(run(world, folder, arguments))
}

#[track_caller]
fn is_refused(world: &World, folder: &Path, arguments: &[&str], parts: &[&str]) {
    assert_refused(&run(world, folder, arguments), parts);
}

/// The sample as a data set of the Hub, which has no model.
fn data_world() -> World {
    let sample = lmht_datasets::sample_path();
    let file = |name: &str| Content::new(&format!("data/{name}"), &std::fs::read(sample.join(name)).unwrap(), true);
    let files = ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"].map(file);
    World::with(files.to_vec(), |request, _| request.path.starts_with("/api/models/").then(|| Reply::new(401, "")))
}

#[test]
fn from_a_name_to_a_run_to_a_package_to_a_name() {
    let data = data_world();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("tiny.toml"), CONFIG).unwrap();

    let told = succeeds(&data, folder, &["fetch", "owner/name"]);
    assert!(told.contains("downloaded  data/train-00000-of-00001.parquet") && told.contains(COMMIT), "{told}");
    assert!(succeeds(&data, folder, &["fetch", "datasets/owner/name"]).contains("was there  data/test-"));

    for (run, seed) in [("run", "7"), ("again", "8")] {
        let train = ["train", "tiny.toml", "--data", "owner/name", "--quiet", "--run", run, "--seed", seed];
        succeeds(&data, folder, &train);
    }
    let info = std::fs::read_to_string(folder.join("run/run.json")).unwrap();
    assert!(info.contains(&format!("owner/name at commit {COMMIT}")), "{info}");

    let package =
        ["package", "run", "again", "--out", "for-the-hub/package", "--license", "mit", "--repo", "owner/model"];
    assert!(succeeds(&data, folder, &package).contains("hf upload owner/model for-the-hub/package ."));
    let card = std::fs::read_to_string(folder.join("for-the-hub/package/README.md")).unwrap();
    for part in [
        "license: \"mit\"",
        "library_name: \"lmht\"",
        "pipeline_tag: \"image-classification\"",
        "- \"owner/name\"",
        "model-index:",
        "split: \"test[:5%]\"",
        "A network of LM-HT neurons",
        "type: \"accuracy\"",
        "(estimated",
        "± ",
        "| 7 |",
        "| 8 |",
        "train tiny.toml --data owner/name",
        "chosen on the test set",
        "from_pretrained(\"owner/model\"",
    ] {
        assert!(card.contains(part), "expected {part:?} in: {card}");
    }
    let record = std::fs::read_to_string(folder.join("for-the-hub/package/run-seed8.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["config"]["train"]["seed"], 8);
    assert_eq!(record["epochs"][0]["test"]["top1"], record["metrics"]["top1"]);
    assert!(record["run"]["command"].as_str().unwrap().contains("train tiny.toml"), "{record}");
    assert!(record["run"]["directory"].is_null(), "{record}");
    // Without a name on the Hub: the folder where it lies. What a run started from is part of how it was made.
    for (start, run, seed) in [("run", "on", "7"), ("again", "on-again", "8")] {
        let train =
            ["train", "tiny.toml", "--data", "owner/name", "--quiet", "--run", run, "--seed", seed, "--start", start];
        succeeds(&data, folder, &train);
    }
    let local = ["package", "on", "on-again", "--out", "local", "--license", "mit"];
    assert!(succeeds(&data, folder, &local).contains("hf upload OWNER/NAME local ."));
    let card = std::fs::read_to_string(folder.join("local/README.md")).unwrap();
    for part in ["from_pretrained(\"local\"", "cargo xtask eval local", "--seed 8`, then `cargo xtask train"] {
        assert!(card.contains(part), "expected {part:?} in: {card}");
    }
    let elsewhere = ["package", "on", "--out", "elsewhere", "--license", "mit", "--dataset", "my-set"];
    succeeds(&data, folder, &elsewhere);
    let card = std::fs::read_to_string(folder.join("elsewhere/README.md")).unwrap();
    assert!(card.contains("type: \"my-set\"") && !card.contains("\ndatasets:"), "{card}");
    let record = std::fs::read_to_string(folder.join("local/run-seed8.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["config"]["start"], &record["start"]["config"]["train"]["seed"]), (&"again".into(), &8.into()));
    assert!(record["start"]["run"]["directory"].is_null(), "{record}");
    for (arguments, parts) in [
        (vec!["package", "run", "--out", "p", "--license", "MIT License", "--repo", "a/b"], ["MIT License", "licence"]),
        (vec!["package", "run", "run", "--out", "p", "--license", "mit", "--repo", "a/b"], ["another seed", "twice"]),
        (vec!["package", "on", "again", "--out", "p", "--license", "mit"], ["again", "configuration of on"]),
        (vec!["package", "run", "--out", "p", "--license", "mit", "--repo", "b"], ["--repo", "owner/name"]),
        (vec!["package", "run", "--out", "p", "--license", "mit", "--dataset", "my set"], ["my set", "owner/name"]),
        (vec!["package", "home", "--out", "p", "--license", "mit", "--repo", "a/b"], ["home", "finished run"]),
        (vec!["package", "run", "--out", "run", "--license", "mit", "--repo", "a/b"], ["run", "not replaced"]),
    ] {
        is_refused(&data, folder, &arguments, &parts);
        assert!(!folder.join("p").exists());
    }

    let config = std::fs::read_to_string(folder.join("on-again/config.json")).unwrap();
    std::fs::write(folder.join("on-again/config.json"), config.replace("\"again\"", "\"on-again\"")).unwrap();
    is_refused(&data, folder, &["package", "on-again", "--out", "p", "--license", "mit"], &["on-again", "circle"]);

    // It started from what is no run here, such as a name of the Hub: said, since its record will be missing.
    std::fs::write(folder.join("on-again/config.json"), config.replace("\"again\"", "\"owner/other\"")).unwrap();
    let output = run(&data, folder, &["package", "on-again", "--out", "alone", "--license", "mit"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_succeeded(output);
    assert!(told.contains("note: on-again: it started from owner/other, which is no finished run here"), "{told}");
    let record = std::fs::read_to_string(folder.join("alone/run-seed8.json")).unwrap();
    assert!(serde_json::from_str::<Value>(&record).unwrap().get("start").is_none(), "{record}");

    // The package as a repository gives the very network.
    let names = ["config.json", "model.safetensors", "preprocessor_config.json", "SHA256SUMS", "README.md"];
    let content = |name: &str| {
        Content::new(
            name,
            &std::fs::read(folder.join("for-the-hub/package").join(name)).unwrap(),
            name.ends_with("tensors"),
        )
    };
    let model = World::with(names.map(content).to_vec(), |request, _| {
        request.path.starts_with("/api/datasets/").then(|| Reply::new(401, ""))
    });
    assert!(succeeds(&model, folder, &["fetch", "owner/name"]).contains("downloaded  model.safetensors"));
    let evaluation = |model_world: &World, name: &str| -> Value {
        let told =
            succeeds(model_world, folder, &["eval", name, "--json", "--data", "sample", "--test-split", "test[:5%]"]);
        serde_json::from_str::<Value>(&told).unwrap()["evaluation"].clone()
    };
    assert_eq!(evaluation(&model, "owner/name@main"), evaluation(&model, "run"));
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * 9 + y) as u8])).save(folder.join("a.png")).unwrap();
    assert_eq!(
        succeeds(&model, folder, &["predict", "owner/name", "a.png", "--format", "csv"]),
        succeeds(&model, folder, &["predict", "run", "a.png", "--format", "csv"])
    );
    // So does what is converted.
    succeeds(&model, folder, &["convert", "reparameterize", "owner/name", "--limit", "0", "--out", "single"]);
    assert!(folder.join("single/preprocessor_config.json").exists());
    for (name, file) in [("owner/name", "a.safetensors"), ("run", "b.safetensors")] {
        succeeds(&model, folder, &["convert", "to-pytorch", name, "--out", file]);
    }
    assert_eq!(
        std::fs::read(folder.join("a.safetensors")).unwrap(),
        std::fs::read(folder.join("b.safetensors")).unwrap()
    );
    let hybrid = ["train", "tiny.toml", "--start", "owner/name", "--data", "sample", "--quiet", "--run", "third"];
    succeeds(&model, folder, &hybrid);
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let world = World::new(|_, _| Some(Reply::new(401, "")));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("runs")).unwrap();
    std::fs::write(folder.join("tiny.toml"), CONFIG).unwrap();
    is_refused(&world, folder, &["eval", "owner/name"], &["owner/name", "no such folder", "401", "HF_TOKEN"]);
    is_refused(&world, folder, &["fetch", "owner/name"], &["owner/name", "no network", "401"]);
    is_refused(&world, folder, &["fetch", "../name"], &["../name", "owner/name"]);
    is_refused(&world, folder, &["train", "tiny.toml", "--data", "owner/name"], &["owner/name", "401"]);
    let seen = world.hub.seen().len();
    // A folder that is there is where something is missing: no name of ours goes to the Hub.
    is_refused(&world, folder, &["eval", "runs/mine"], &["runs/mine", "expected a model folder"]);
    is_refused(&world, folder, &["train", "tiny.toml", "--data", "runs/mine"], &["runs/mine"]);
    assert_eq!(world.hub.seen().len(), seen);
}
