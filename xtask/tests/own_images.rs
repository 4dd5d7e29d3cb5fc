//! A model put to use: the commands of docs/guides/own-images.md as they stand there, on images that the test makes, and what
//! `predict` and `eval` do with what goes wrong.

#[allow(dead_code, reason = "other tests need more of it")]
mod helpers;

use std::path::Path;
use std::process::{Command, Stdio};

use helpers::{is_refused, run, succeeds};
use serde_json::Value;

const GUIDE: &str = include_str!("../../docs/guides/own-images.md");

/// The text of the guide's first block of a kind.
fn block(kind: &str) -> &'static str {
    let (_, rest) = GUIDE.split_once(&format!("```{kind}\n")).expect("the guide has such a block");
    rest.split_once("```").expect("the block ends").0
}

/// Red images of one class, blue ones of the other; of several sizes and formats.
fn make_photos(folder: &Path) {
    for (split, n) in [("train", 16), ("test", 5)] {
        for (class, color) in [("cat", [200u8, 30, 30]), ("dog", [30, 30, 200])] {
            let below = folder.join("photos").join(split).join(class);
            std::fs::create_dir_all(&below).unwrap();
            for i in 0..n {
                let image = image::RgbImage::from_fn(32 + 5 * (i % 3), 40, |x, y| {
                    image::Rgb(color.map(|value| value.wrapping_add(((x * 7 + y * 13 + i * 29) % 40) as u8)))
                });
                let ending = ["png", "jpg", "webp", "bmp"][i as usize % 4];
                image.save(below.join(format!("{i:04}.{ending}"))).unwrap();
            }
        }
    }
}

#[test]
fn every_command_of_the_guide_runs_and_the_model_is_of_use() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_photos(folder);
    // Smaller than in the guide: how long it trains is not what is tested.
    let toml = block("toml");
    let small = toml.replace("width = 16", "width = 4").replace("epochs = 30", "epochs = 2");
    assert_eq!(small.len() + 2, toml.len(), "the guide has another configuration");
    std::fs::write(folder.join("photos.toml"), small).unwrap();

    let commands: Vec<&str> = block("console").lines().filter_map(|line| line.strip_prefix("$ cargo xtask ")).collect();
    assert_eq!(commands.len(), 5);
    let said: Vec<String> =
        commands.iter().map(|line| succeeds(folder, &line.split(' ').collect::<Vec<_>>())).collect();
    assert!(said[0].contains("top-1") && said[1].contains("10 test images of photos"), "{said:?}");
    assert!(said[1].contains("class") && said[1].contains("0 cat"), "{}", said[1]);
    assert!(std::fs::read_to_string(folder.join("runs/confusion.svg")).unwrap().starts_with("<svg"));
    assert!(folder.join("runs/cost/index.html").is_file());
    // Ten images, each with its name, the answers of 4 timesteps and both classes.
    assert_eq!(said[4].lines().count(), 10 * (1 + 4 + 2), "{}", said[4]);
    for line in said[1..].iter().flat_map(|text| text.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }

    answers_agree_with_eval(folder);
    what_is_no_image_is_named(folder);
    models_in_every_place(folder);
    any_split_is_measured(folder);
    a_test_split_is_enough(folder);
}

fn answers_agree_with_eval(folder: &Path) {
    let predicted = succeeds(folder, &["predict", "runs/photos", "photos/test", "--format", "json", "--timesteps"]);
    let predicted: Value = serde_json::from_str(&predicted).unwrap();
    let images = predicted["images"].as_array().unwrap();
    assert_eq!(images.len(), 10);
    let evaluated = succeeds(folder, &["eval", "runs/photos", "--format", "json", "--confusion", "matrix.json"]);
    let evaluated: Value = serde_json::from_str(&evaluated).unwrap();
    let mut matrix = [[0u64; 2]; 2];
    for image in images {
        let label = usize::from(image["file"].as_str().unwrap().contains("/dog/"));
        let top = image["top"].as_array().unwrap();
        let sum: f64 = top.iter().map(|answer| answer["probability"].as_f64().unwrap()).sum();
        assert!(top.len() == 2 && (sum - 1.).abs() < 1e-9, "{image}");
        let class = top[0]["class"].as_u64().unwrap() as usize;
        assert_eq!(top[0]["name"], ["cat", "dog"][class]);
        assert_eq!(image["by_timestep"].as_array().unwrap().len(), 2);
        assert_eq!(image["by_timestep"][1], image["top"]);
        matrix[label][class] += 1;
    }
    // The same images through the data set: the same matrix, and its diagonal is the accuracy.
    assert_eq!(evaluated["confusion"]["matrix"], serde_json::json!(matrix));
    assert_eq!(evaluated["evaluation"]["top1"].as_f64().unwrap(), (matrix[0][0] + matrix[1][1]) as f64 / 10.);
    let file: Value = serde_json::from_slice(&std::fs::read(folder.join("matrix.json")).unwrap()).unwrap();
    assert_eq!(file, evaluated["confusion"]);
    succeeds(folder, &["eval", "runs/photos", "--confusion", "deep/down/matrix.csv"]);
    let csv = std::fs::read_to_string(folder.join("deep/down/matrix.csv")).unwrap();
    assert_eq!(csv.lines().next(), Some("class,cat,dog,no answer"));
    let markdown = succeeds(folder, &["eval", "runs/photos", "--format", "markdown", "--confusion"]);
    assert!(markdown.contains("| cat | 5 |"), "{markdown}");
    let output = run(folder, &["eval", "runs/photos", "--confusion", "matrix.txt"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(".csv, .svg or .json"), "{output:?}");
}

fn what_is_no_image_is_named(folder: &Path) {
    std::fs::write(folder.join("notes.png"), "not a picture").unwrap();
    let good = "photos/test/cat/0000.png";
    let arguments = ["predict", "runs/photos", "notes.png", good, "nowhere.jpg", "--format", "csv", "--top-k", "1"];
    let output = is_refused(folder, &arguments, &["notes.png", "nowhere.jpg", "2 of 3 files"]);
    let csv = String::from_utf8(output.stdout).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.lines().nth(1).unwrap().starts_with(&format!("{good},2,1,")), "{csv}");
    std::fs::create_dir(folder.join("empty")).unwrap();
    is_refused(folder, &["predict", "runs/photos", "empty"], &["empty", "found none"]);
    is_refused(folder, &["predict", "runs/photos", good, "--top-k", "0"], &["--top-k"]);
    is_refused(folder, &["predict", "photos", good], &["photos", "expected a model folder"]);
}

fn models_in_every_place(folder: &Path) {
    let image = "photos/test/dog/0001.jpg";
    let said = succeeds(folder, &["predict", "runs/photos", image]);
    let checkpoint = lmht_nn::checkpoints(&folder.join("runs/photos/checkpoints")).unwrap().pop().unwrap();
    for model in [Path::new("runs/photos/model"), &checkpoint] {
        assert_eq!(succeeds(folder, &["predict", model.to_str().unwrap(), image]), said);
    }
    // By a relative path that shows no run above it, too.
    let (inside, name) = (checkpoint.parent().unwrap(), checkpoint.file_name().unwrap().to_str().unwrap());
    let output = run(inside, &["eval", name]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("preprocessor_config.json"), "{said}");
    // An older folder says what it lacks.
    for name in ["runs/photos/model/preprocessor_config.json", "runs/photos/preprocessor_config.json"] {
        std::fs::rename(folder.join(name), folder.join(format!("{name}.away"))).unwrap();
    }
    is_refused(folder, &["predict", "runs/photos", image], &["preprocessor_config.json", "copy it"]);
    for name in ["runs/photos/model/preprocessor_config.json", "runs/photos/preprocessor_config.json"] {
        std::fs::rename(folder.join(format!("{name}.away")), folder.join(name)).unwrap();
    }
}

/// Every command that takes data takes a split of it.
fn any_split_is_measured(folder: &Path) {
    for (command, part) in [
        ("eval runs/photos", "32 test images"),
        ("energy runs/photos photos --format json", "\"n_images\": 32"),
        ("convert reparameterize runs/photos --out models/split", "32 images: top-1"),
    ] {
        let arguments = format!("{command} --test-split train");
        let said = succeeds(folder, &arguments.split(' ').collect::<Vec<_>>());
        assert!(said.contains(part), "{arguments}: {said}");
    }
}

fn a_test_split_is_enough(folder: &Path) {
    let top1 = |json: String| serde_json::from_str::<Value>(&json).unwrap()["evaluation"]["top1"].clone();
    let whole = top1(succeeds(folder, &["eval", "models/single", "--data", "photos", "--json"]));
    std::fs::rename(folder.join("photos/train"), folder.join("elsewhere")).unwrap();
    assert_eq!(top1(succeeds(folder, &["eval", "models/single", "--data", "photos", "--format", "json"])), whole);
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["train", "--list", "--format", "csv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_mistyped_name_is_answered_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let mistyped = ["train", "fashion-resnet18-L2T3"];
    is_refused(folder.path(), &mistyped, &["did you mean fashion-resnet18-L2T2?"]);
    let output = run(folder.path(), &["energy", "x", "sample", "--energy-model", "int8-45"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean int8-45nm?"), "{output:?}");
}

/// A program that was moved out of the repository says what it misses.
#[test]
fn a_moved_program_says_what_it_misses() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("moved");
    std::fs::copy(env!("CARGO_BIN_EXE_xtask"), &program).unwrap();
    let moved = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(folder.path()).env_remove("CARGO_MANIFEST_DIR").stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = moved(&["train", "fashion-resnet18-L2T2", "--quiet"]);
    assert!(code == Some(1) && message.contains("--data FOLDER") && message.contains("datasets/sample"), "{message}");
    let (code, message) = moved(&["ci"]);
    assert!(code == Some(1) && message.contains("clone of the repository"), "{message}");
}

#[test]
fn tables_fit_80_columns_where_there_is_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let list = succeeds(folder.path(), &["train", "--list"]);
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    let csv = succeeds(folder.path(), &["train", "--list", "--format", "csv"]);
    assert!(csv.contains("resnet19-cifar100-L2T2,ResNet-19,2,2,uoft-cs/cifar100,300,81.76 (Table 3)\n"), "{csv}");
}
