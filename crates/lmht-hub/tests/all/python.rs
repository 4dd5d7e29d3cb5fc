//! Python's client and ours use one cache. Runs where `LMHT_PYTHON` names a Python that has `huggingface_hub`.

use std::fs;
use std::process::Command;

use lmht_hub::{Evaluation, ModelCardHead, Settings};

use crate::server::Reply;
use crate::world::{COMMIT, NAME, World, client, repo, right};

fn python(world: &World, offline: bool, program: &str) -> Option<String> {
    let Ok(python) = std::env::var("LMHT_PYTHON") else {
        println!("skipped: LMHT_PYTHON names no Python");
        return None;
    };
    let output = Command::new(python)
        .args(["-c", program])
        .env("HF_ENDPOINT", &world.hub.address)
        .env("HF_HUB_CACHE", world.settings().cache)
        .env("HF_HOME", world.folder.path().join("home"))
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("No module named 'huggingface_hub'") {
        println!("skipped: LMHT_PYTHON names a Python without huggingface_hub");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn python_reads_what_we_wrote() {
    let world = World::new(|_, _| None);
    world.client().model(&repo(), &|_| ()).unwrap();
    let program = format!(
        "from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache, scan_cache_dir\n\
         print(hf_hub_download('{NAME}', 'model.safetensors'))\n\
         assert snapshot_download('{NAME}').endswith('{COMMIT}')\n\
         assert not isinstance(try_to_load_from_cache('{NAME}', 'README.md'), (str, type(None)))\n\
         scan = scan_cache_dir()\n\
         assert len(scan.repos) == 1 and not scan.warnings, scan"
    );
    let Some(path) = python(&world, true, &program) else { return };
    assert!(fs::read(path).unwrap() == world.files[1].bytes);
}

#[test]
fn we_read_what_python_wrote() {
    // Python asks for the file's head first, and takes its digest from there.
    let files = crate::world::two_files();
    let world = World::new(move |request, _| {
        let path = &request.path;
        if path.starts_with("/api/models/owner/name/revision/main") || path == "/api/models/owner/name" {
            let names: Vec<String> = files.iter().map(|file| format!(r#"{{"rfilename":"{}"}}"#, file.path)).collect();
            let body = format!(r#"{{"id":"{NAME}","sha":"{COMMIT}","siblings":[{}]}}"#, names.join(","));
            return Some(Reply::new(200, body));
        }
        let path = path.replace("/resolve/main/", &format!("/resolve/{COMMIT}/"));
        if !path.contains("/resolve/") {
            return None;
        }
        let request = crate::server::Request { path: path.clone(), ..request.clone() };
        let found = files.iter().find(|file| path.ends_with(&file.path))?;
        let reply = if found.is_large {
            // On this host, so that one test server is enough.
            crate::world::bytes(&found.bytes, &request).with("X-Linked-Etag", format!("\"{}\"", found.hash()))
        } else {
            right(&request, &files, "")
        };
        Some(reply.with("X-Repo-Commit", COMMIT))
    });
    let Some(folder) =
        python(&world, false, &format!("import huggingface_hub as h\nprint(h.snapshot_download('{NAME}'))"))
    else {
        return;
    };
    let offline = client(Settings { offline: true, ..world.settings() });
    let ours = world.fetch_with(&offline).unwrap();
    assert_eq!(ours.canonicalize().unwrap(), fs::canonicalize(folder).unwrap());
    world.check(&ours);
    fs::write(world.blob(1), vec![7; 8000]).unwrap();
    let error = world.fetch_with(&offline).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("damaged"), "{error}");
}

#[test]
fn python_reads_the_head_of_a_card() {
    let evaluation = |metric: &str, value| Evaluation {
        dataset: "uoft-cs/cifar10".into(),
        dataset_name: "CIFAR-10: \"ten\" # classes".into(),
        split: "test".into(),
        metric: metric.into(),
        metric_name: format!("{metric} (estimated)"),
        value,
        source: ("run".into(), "https://example.org".into()),
    };
    let head = ModelCardHead {
        license: "mit".into(),
        library_name: "lmht".into(),
        pipeline_tag: "image-classification".into(),
        tags: vec!["lm-ht".into()],
        datasets: vec!["uoft-cs/cifar10".into()],
        metrics: vec!["accuracy".into()],
        model_name: "yes".into(),
        evaluations: vec![evaluation("accuracy", 0.9375), evaluation("sops", 1e9)],
    };
    let world = World::new(|_, _| None);
    fs::write(world.folder.path().join("README.md"), head.to_yaml().unwrap() + "\n# Text\n").unwrap();
    let program = format!(
        "from huggingface_hub import ModelCard\n\
         data = ModelCard.load({:?}).data\n\
         a, b = data.eval_results\n\
         assert (data.model_name, data.license, data.datasets) == ('yes', 'mit', ['uoft-cs/cifar10']), data\n\
         assert (a.metric_type, a.metric_value, b.metric_value) == ('accuracy', 0.9375, 1e9), (a, b)\n\
         assert a.dataset_name == 'CIFAR-10: \"ten\" # classes' and a.dataset_split == 'test', a",
        world.folder.path().join("README.md")
    );
    python(&world, true, &program);
}
