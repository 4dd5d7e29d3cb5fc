//! `gpu-run` on a machine without a GPU: parts that pass, fail, crash, hang and go on, and a device that is not there.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{assert_refused, run, text};

fn gpu_run(folder: &Path, arguments: &[&str]) -> (Output, Value) {
    let (out, work) = (folder.join("out"), folder.join("work"));
    let common =
        ["gpu-run", "--size", "small", "--out", text(&out), "--work", text(&work), "--python", "/no/such/python"];
    let output = run(&[&common[..], arguments].concat());
    let results = std::fs::read_to_string(out.join("results.json")).unwrap_or_default();
    (output, serde_json::from_str(&results).unwrap_or_default())
}

fn outcome<'a>(results: &'a Value, part: &str) -> &'a str {
    results["parts"][part]["outcome"].as_str().unwrap_or("none")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has_compiler() -> bool {
    let compiler = lmht_gpu::emulator::Emulator::compiler();
    if compiler.is_none() {
        println!("a part skipped: no C++ compiler to run kernels with; install g++ or clang++, or set CXX");
    }
    compiler.is_some()
}

#[test]
fn a_part_that_fails_crashes_or_hangs_does_not_keep_the_next_from_running() {
    let folder = tempfile::tempdir().unwrap();
    let breaks = ["--break", "suite=fail", "--break", "golden=crash", "--break", "networks=hang"];
    let only = ["--only", "suite,golden,networks,step,pytorch", "--limit", "15", "--minutes", "3"];
    let started = Instant::now();
    let (output, results) = gpu_run(folder.path(), &[&breaks[..], &only[..]].concat());
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    assert_refused(&output, &["suite: error: broken on purpose", "golden: ", "networks: ended after 15 s"]);
    let expected = [
        ("machine", "passed"),
        ("suite", "failed"),
        ("golden", "failed"),
        ("networks", "timed-out"),
        ("step", "passed"),
        ("pytorch", "skipped"),
        ("neuron", "none"),
    ];
    for (part, expected) in expected {
        assert_eq!(outcome(&results, part), expected, "{part}: {results:#}");
    }
    assert!(results["parts"]["step"]["result"]["images_per_second"].as_f64().unwrap() > 0.);
    assert!(results["parts"]["pytorch"]["message"].as_str().unwrap().contains("/no/such/python"));
    let record = std::fs::read_to_string(folder.path().join("out/record.md")).unwrap();
    for expected in ["FAILED", "TIMED OUT", "broken on purpose", "The training step", "a rehearsal"] {
        assert!(record.contains(expected), "{expected:?} in {record}");
    }
    assert!(folder.path().join("out/log.txt").is_file());

    // Again without the faults: what passed is kept, the others run.
    if has_compiler() {
        let (output, results) =
            gpu_run(folder.path(), &["--only", "suite,golden,networks,neuron,step", "--minutes", "8"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("step: passed before") && !said.contains("suite: passed before"), "{said}");
        assert!(["suite", "golden", "networks", "neuron"].iter().all(|part| outcome(&results, part) == "passed"));
    }
}

#[test]
fn a_training_that_was_stopped_goes_on_and_the_others_have_its_plan() {
    let folder = tempfile::tempdir().unwrap();
    let stopped = ["--only", "cifar10-lmht", "--plan", "2x96", "--minutes", "4", "--break", "cifar10-lmht=stop"];
    let (output, results) = gpu_run(folder.path(), &stopped);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(outcome(&results, "cifar10-lmht"), "unfinished", "{results:#}");
    let run = folder.path().join("work/runs/cifar10-lmht");
    assert!(super::newest(&run).is_some() && !run.join("metrics.json").exists());

    let (output, results) = gpu_run(folder.path(), &["--only", "cifar10-lmht,cifar10-qcfs", "--minutes", "4"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let [lmht, qcfs] = ["cifar10-lmht", "cifar10-qcfs"].map(|part| {
        assert_eq!(outcome(&results, part), "passed", "{results:#}");
        results["parts"][part]["result"].clone()
    });
    for result in [&lmht, &qcfs] {
        assert_eq!((result["epochs"].as_u64(), result["images_per_epoch"].as_u64()), (Some(2), Some(96)), "{result}");
        assert_eq!(result["history"].as_array().unwrap().len(), 2);
    }
    assert!(lmht["metrics"]["top1"].is_number());
    let record = std::fs::read_to_string(folder.path().join("out/record.md")).unwrap();
    assert!(record.contains("## Training"), "{record}");

    // Another build or device does not find its result done: it starts again, with its own plan.
    let planned = folder.path().join("work/runs/cifar10-lmht.json");
    let of_other = std::fs::read_to_string(&planned).unwrap().replace("\"small\"", "\"full\"");
    std::fs::write(&planned, of_other).unwrap();
    std::fs::remove_dir_all(folder.path().join("out")).unwrap();
    let (output, results) = gpu_run(folder.path(), &["--only", "cifar10-lmht", "--plan", "1x32", "--minutes", "4"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(results["parts"]["cifar10-lmht"]["result"]["epochs"].as_u64(), Some(1), "{results:#}");
}

/// As many epochs, or as large a part of one, as the time gives.
#[test]
fn a_schedule_is_made_for_the_time_that_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (output, results) = gpu_run(folder.path(), &["--only", "tiny-imagenet-vgg13", "--minutes", "0.8"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let result = &results["parts"]["tiny-imagenet-vgg13"]["result"];
    assert!(
        result["epochs"].as_u64().unwrap() >= 1 && result["images_per_epoch"].as_u64().unwrap() >= 32,
        "{results:#}"
    );
    assert!(results["parts"]["tiny-imagenet-vgg13"]["seconds"].as_f64().unwrap() < 48., "{results:#}");
}

#[test]
fn what_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], parts: &[&str]| assert_refused(&gpu_run(folder.path(), arguments).0, parts);
    refused(&["--only", "suit"], &["--only suit", "correctness", "did you mean suite?"]);
    refused(&["--minutes", "0"], &["--minutes is 0"]);
    refused(&["--cifar10", "/no/such/data"], &["--cifar10 /no/such/data", "nothing"]);
    // Nothing else is tried on a device that does not open.
    let (output, results) = gpu_run(&folder.path().join("cuda"), &["--device", "cuda:63"]);
    assert_refused(&output, &["machine: error: --device cuda"]);
    assert_eq!(results["parts"].as_object().unwrap().len(), 1, "{results:#}");
}
