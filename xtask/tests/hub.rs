//! Commands that take names of the Hub, with a Hub on the loopback.

#[path = "../../crates/lmht-hub/tests/all/server.rs"]
#[allow(dead_code, reason = "the tests of lmht-hub need more of it")]
mod server;
#[path = "../../crates/lmht-hub/tests/all/world.rs"]
#[allow(dead_code, reason = "the tests of lmht-hub need more of it")]
mod world;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use server::Reply;
use world::World;

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("HF_ENDPOINT", &world.hub.address).env("HF_HUB_CACHE", world.settings().cache);
    command.env("HF_HOME", folder.join("home")).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE").output().unwrap()
}

#[track_caller]
fn is_refused(world: &World, folder: &Path, arguments: &[&str], parts: &[&str]) {
    let output = run(world, folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments:?}: expected {part:?} in: {message}");
    }
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
