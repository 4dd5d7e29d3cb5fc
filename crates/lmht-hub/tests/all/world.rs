//! A Hub with a repository, a host for large files, and a client with an empty cache.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lmht_hub::{Hub, Repo, RepoKind, Result, Settings, Token};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::server::{Reply, Request, Server};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const NAME: &str = "owner/name";

/// A file of the repository.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    /// Large files are elsewhere.
    pub(crate) is_large: bool,
    hash: String,
    /// What the list says instead of the truth.
    pub(crate) listed_hash: Option<String>,
    pub(crate) listed_size: Option<u64>,
}

impl Content {
    pub(crate) fn new(path: &str, bytes: &[u8], is_large: bool) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Once, as it takes longer than a client waits.
        let hash = if is_large {
            hex(&Sha256::digest(bytes))
        } else {
            hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
        };
        Self { path: path.to_owned(), bytes: bytes.to_vec(), is_large, hash, listed_hash: None, listed_size: None }
    }

    pub(crate) fn hash(&self) -> String {
        self.hash.clone()
    }

    fn entry(&self) -> String {
        let path = serde_json::to_string(&self.path).unwrap();
        let hash = self.listed_hash.clone().unwrap_or(self.hash());
        let size = self.listed_size.unwrap_or(self.bytes.len() as u64);
        let lfs = if self.is_large {
            format!(r#","lfs":{{"oid":"{hash}","size":{size},"pointerSize":133}}"#)
        } else {
            String::new()
        };
        let oid = if self.is_large { "f".repeat(40) } else { hash };
        format!(r#"{{"type":"file","oid":"{oid}","size":{size},"path":{path}{lfs}}}"#)
    }
}

/// The two files that most tests fetch: a plain one and a large one.
pub(crate) fn two_files() -> Vec<Content> {
    let weights: Vec<u8> = (0..2000_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
    vec![Content::new("config.json", br#"{"a": 1}"#, false), Content::new("model.safetensors", &weights, true)]
}

/// What goes wrong: asked first, with how often this path has been asked for before.
pub(crate) type Fault = Box<dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync>;

pub(crate) struct World {
    pub(crate) hub: Server,
    pub(crate) cdn: Server,
    pub(crate) files: Vec<Content>,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(fault: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::with(two_files(), fault)
    }

    pub(crate) fn with(
        files: Vec<Content>,
        fault: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let fault: Arc<Fault> = Arc::new(Box::new(fault));
        let counts: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let faulty = {
            let (fault, counts) = (fault, counts);
            move |request: &Request| {
                let mut counts = counts.lock().unwrap();
                let n = counts.entry(request.path.clone()).or_default();
                *n += 1;
                fault(request, *n - 1)
            }
        };
        let (of_cdn, faulty_cdn) = (files.clone(), faulty.clone());
        let cdn = Server::start(move |request| {
            faulty_cdn(request).unwrap_or_else(|| {
                let found = of_cdn.iter().find(|file| request.path == format!("/cdn/{}", file.hash()));
                found.map_or(Reply::new(404, ""), |file| bytes(&file.bytes, request))
            })
        });
        let (of_hub, elsewhere) = (files.clone(), cdn.address.clone());
        let hub = Server::start(move |request| faulty(request).unwrap_or_else(|| right(request, &of_hub, &elsewhere)));
        Self { hub, cdn, files, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            cache: self.folder.path().join("cache"),
            endpoint: self.hub.address.clone(),
            token: Some(Token::new("hf_secret").unwrap()),
            offline: false,
            links: true,
            max_bytes: 1 << 30,
            certificates: None,
        }
    }

    pub(crate) fn client(&self) -> Hub {
        client(self.settings())
    }

    /// All files of the repository through a client.
    pub(crate) fn fetch_with(&self, hub: &Hub) -> Result<PathBuf> {
        let listing = hub.listing(&repo())?;
        let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        hub.fetch(&listing, &paths, &|_| ())
    }

    pub(crate) fn fetch(&self) -> Result<PathBuf> {
        self.fetch_with(&self.client())
    }

    /// Whether a snapshot has all files as they are.
    pub(crate) fn check(&self, folder: &std::path::Path) {
        for file in &self.files {
            assert!(std::fs::read(folder.join(&file.path)).unwrap() == file.bytes, "{} differs", file.path);
        }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache/models--owner--name")
    }

    pub(crate) fn blob(&self, index: usize) -> PathBuf {
        self.cache().join("blobs").join(self.files[index].hash())
    }
}

pub(crate) fn client(settings: Settings) -> Hub {
    Hub::new(settings).unwrap().with_times(Duration::from_millis(2), Duration::from_secs(1)).unwrap()
}

pub(crate) fn repo() -> Repo {
    Repo::parse(RepoKind::Model, NAME).unwrap()
}

/// What a Hub that works answers.
pub(crate) fn right(request: &Request, files: &[Content], elsewhere: &str) -> Reply {
    // Models and data sets have the same files.
    let path =
        request.path.replace("/datasets/", "/models/").replacen("/models/owner/name/resolve", "/owner/name/resolve", 1);
    let (path, api) = (path.as_str(), "/api/models/owner/name");
    if path == format!("{api}/revision/main") || path == format!("{api}/revision/refs%2Fpr%2F1") {
        return Reply::new(200, format!(r#"{{"sha":"{COMMIT}","siblings":[]}}"#));
    }
    if path.starts_with(&format!("{api}/tree/{COMMIT}?recursive=true")) {
        return Reply::new(200, tree(files));
    }
    let Some(file) = path.strip_prefix(&format!("/owner/name/resolve/{COMMIT}/")) else { return Reply::new(404, "") };
    let Some(file) = files.iter().find(|it| escaped(&it.path) == file) else {
        return Reply::new(404, "").with("X-Error-Code", "EntryNotFound");
    };
    let hash = file.hash();
    if file.is_large {
        Reply::new(302, "Found. Redirecting to another host")
            .with("Location", format!("{elsewhere}/cdn/{hash}"))
            .with("X-Linked-Etag", format!("\"{hash}\""))
            .with("X-Linked-Size", file.bytes.len().to_string())
    } else {
        bytes(&file.bytes, request).with("ETag", format!("\"{hash}\""))
    }
}

pub(crate) fn tree(files: &[Content]) -> String {
    let mut entries: Vec<String> = files.iter().map(Content::entry).collect();
    entries.push(format!(r#"{{"type":"directory","oid":"{}","size":0,"path":"a folder"}}"#, "a".repeat(40)));
    format!("[{}]", entries.join(","))
}

fn escaped(path: &str) -> String {
    path.bytes()
        .map(
            |b| {
                if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
                    (b as char).into()
                } else {
                    format!("%{b:02X}")
                }
            },
        )
        .collect()
}

/// Bytes, from where they are asked for.
pub(crate) fn bytes(bytes: &[u8], request: &Request) -> Reply {
    match request.from() {
        None => Reply::new(200, bytes),
        Some(from) if from < bytes.len() => Reply::new(206, &bytes[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        Some(_) => Reply::new(416, "").with("Content-Range", format!("bytes */{}", bytes.len())),
    }
}
