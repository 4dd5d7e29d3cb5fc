//! The commands of docs/guides/events.md as they stand there, on recordings that the test makes.

#[allow(dead_code, reason = "other tests need more of it")]
mod helpers;

use std::path::Path;

use helpers::{is_refused, succeeds};

const GUIDE: &str = include_str!("../../docs/guides/events.md");

/// A bar of five rows that moves to the left or to the right: each frame alone says little, both say where it goes.
fn make_recordings(folder: &Path) {
    for (split, n) in [("train", 16), ("test", 4)] {
        for class in ["left", "right"] {
            let place = folder.join("moving").join(split).join(class);
            std::fs::create_dir_all(&place).unwrap();
            for i in 0..n {
                let event = |k: u32| {
                    let (step, row) = (k / 5, k % 5);
                    let column = if class == "left" { 30 - step } else { 3 + step };
                    let word = (((k % 2) << 23) | (k * 1000)).to_be_bytes();
                    [column as u8, (row + 3 + i) as u8, word[1], word[2], word[3]]
                };
                let bytes: Vec<u8> = (0..100).flat_map(event).collect();
                std::fs::write(place.join(format!("{i:03}.bin")), bytes).unwrap();
            }
        }
    }
}

#[test]
fn every_command_of_the_guide_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_recordings(folder);
    let toml = GUIDE.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let small = toml.replace("width = 8", "width = 4").replace("epochs = 8", "epochs = 4");
    assert!(small != toml);
    std::fs::write(folder.join("moving.toml"), &small).unwrap();
    let mut told = Vec::new();
    for line in GUIDE.lines().filter_map(|line| line.strip_prefix("$ cargo xtask ")) {
        told.push(succeeds(folder, &line.split(' ').collect::<Vec<_>>()));
    }
    let [shown, frames, trained, eval, predicted, energy] = &told[..] else { panic!("{told:?}") };
    assert!(shown.contains("sensor 34x34 (height x width), 100 events in 0.099000 s, 50 on, 50 off"), "{shown}");
    assert!(frames.contains("frames [2, 2, 34, 34], float32, events in each: 50, 50"), "{frames}");
    assert_eq!(std::fs::metadata(folder.join("frames.npy")).unwrap().len(), 128 + 4 * 2 * 2 * 34 * 34);
    assert!(trained.contains("top-1") && eval.contains("8 test images of moving"), "{trained}{eval}");
    assert!(predicted.contains("moving/test/left/000.bin") && predicted.contains(" %  "), "{predicted}");
    assert!(energy.contains("SOPs"), "{energy}");
    let card = std::fs::read_to_string(folder.join("runs/moving/model/README.md")).unwrap_or_default();
    let record = std::fs::read_to_string(folder.join("runs/moving/run.json")).unwrap();
    let what = "32 training recordings (2 frames by number), accuracy on all 8 test recordings";
    assert!(record.contains(what), "{record}{card}");
    let json = std::fs::read_to_string(folder.join("runs/moving/model/preprocessor_config.json")).unwrap();
    assert!(json.contains("\"frames\": 2") && json.contains("\"left\""), "{json}");

    // Frames are the timesteps; the mean is said.
    let other = small.replace("frames = 2", "frames = 3");
    std::fs::write(folder.join("other.toml"), &other).unwrap();
    is_refused(folder, &["train", "other.toml"], &["data.events.frames is 3", "2 timesteps", "input = \"mean\""]);
    let mean = other.replace("input = \"frames\"", "input = \"mean\"").replace("epochs = 4", "epochs = 1");
    std::fs::write(folder.join("mean.toml"), &mean).unwrap();
    succeeds(folder, &["train", "mean.toml", "--quiet"]);
    let record = std::fs::read_to_string(folder.join("runs/mean-seed42/run.json")).unwrap();
    assert!(record.contains("3 frames by number, averaged into one static image"), "{record}");
    // What goes wrong.
    std::fs::write(folder.join("moving/test/left/000.bin"), [1, 2, 3]).unwrap();
    is_refused(folder, &["eval", "runs/moving"], &["000.bin", "3 bytes end within an event"]);
    is_refused(folder, &["events", "moving/test/left/000.bin"], &["000.bin", "3 bytes end within an event"]);
    is_refused(folder, &["predict", "runs/moving", "moving/test/left/000.bin"], &["000.bin", "1 of 1 files"]);
    is_refused(folder, &["events", "moving/test/left/001.bin", "--recording", "1"], &["--recording 1", "holds 1"]);
    is_refused(folder, &["eval", "runs/moving", "--data", "sample"], &["expected a folder of recordings"]);
    let images = small.replace("events = ", "# events = ");
    std::fs::write(folder.join("images.toml"), images).unwrap();
    is_refused(folder, &["train", "images.toml"], &["data.event_augment: expected data.events"]);
}
