//! Damaged files of every kind that commands read, through the commands as they are, under limits of memory and time.
//!
//! Each file is good first; then it is changed by a seeded generator. What may come of it is an error that names the file and
//! exit status 1, or the result of the good file, or, where the format has nothing that shows the damage, another result:
//! never a panic, a signal, or more than the limits.
//!
//! A few of each kind are tried here. In full, or one kind alone:
//!
//! ```text
//! LMHT_DAMAGE_ROUNDS=2000 cargo test --release -p xtask --test damage -- --nocapture
//! LMHT_DAMAGE_ROUNDS=2000 LMHT_DAMAGE_KIND=png cargo test --release -p xtask --test damage -- --nocapture
//! ```
#![cfg(target_os = "linux")]

#[path = "../../datasets/tests/all/tables.rs"]
#[allow(dead_code)]
mod tables;

/// The functions of the fuzz targets, which call parsers without a process for each input.
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub)]
mod parsers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::{DynamicImage, GrayImage, ImageFormat};
use lmht_nn::checksums;
use safetensors::SafeTensors;
use safetensors::tensor::serialize;

use Shows::{Everything, Nothing, Some as Partly};

/// What a kind of file shows of damage.
#[derive(Clone, Copy, PartialEq)]
enum Shows {
    /// All of it, by a digest: what is changed is refused.
    Everything,
    /// A checksum guards what matters: nothing but the same result goes through.
    Some,
    /// Some values may become others.
    Nothing,
}

/// A kind of file, and the command that reads it.
struct Kind {
    name: &'static str,
    /// The file that is damaged.
    file: &'static str,
    /// What the command needs, beside the file's own folder.
    needs: &'static [&'static str],
    command: &'static str,
    shows: Shows,
    /// A folder whose digests are made anew after the damage, so that what is behind them is tried.
    signed: Option<&'static str>,
    /// What an error may name in its place.
    instead: Option<&'static str>,
}

const fn kind(name: &'static str, file: &'static str, command: &'static str, shows: Shows) -> Kind {
    Kind { name, file, needs: &["model"], command, shows, signed: None, instead: None }
}

/// A recording of events, which lies in the seeds of the fuzz target.
const fn recording(name: &'static str, file: &'static str, command: &'static str) -> Kind {
    Kind { needs: &[], ..kind(name, file, command, Nothing) }
}

/// The kinds of files; what a format with `Nothing` cannot show is in docs/reliability.md.
#[rustfmt::skip]
const KINDS: &[Kind] = &[
    kind("png", "x.png", "predict model x.png --format csv", Partly),
    kind("jpeg", "x.jpg", "predict model x.jpg --format csv", Nothing),
    kind("webp", "x.webp", "predict model x.webp --format csv", Nothing),
    kind("bmp", "x.bmp", "predict model x.bmp --format csv", Nothing),
    kind("gif", "x.gif", "predict model x.gif --format csv", Nothing),
    kind("tiff", "x.tiff", "predict model x.tiff --format csv", Nothing),
    kind("parquet", "data/test.parquet", "eval model --data data --json", Nothing),
    kind("labels csv", "labels/test.csv", "eval model --data labels --json", Nothing),
    kind("data card", "card/README.md", "eval model --data card --json", Nothing),
    kind("cifar", "cifar/test.bin", "eval model --data cifar --json", Nothing),
    kind("idx, images", "idx/t10k-images-idx3-ubyte", "eval model --data idx --json", Nothing),
    kind("idx, labels", "idx/t10k-labels-idx1-ubyte", "eval model --data idx --json", Nothing),
    recording("recording, bin", "a.bin", "events a.bin --frames 2 --out out"),
    recording("recording, aedat 2", "a.aedat", "events a.aedat --frames 2 --out out"),
    recording("recording, aedat 2, davis", "davis.aedat", "events davis.aedat --frames 2 --out out"),
    recording("recording, aedat 3.1", "b.aedat", "events b.aedat --frames 2 --out out"),
    recording("recording, aedat 4", "a.aedat4", "events a.aedat4 --frames 2 --out out"),
    recording("recording, aedat 4, lz4", "lz4.aedat4", "events lz4.aedat4 --frames 2 --out out"),
    recording("recording, aedat 4, zstd", "zstd.aedat4", "events zstd.aedat4 --frames 2 --out out"),
    recording("recording, dat", "a.dat", "events a.dat --frames 2 --out out"),
    recording("recording, mat", "b.mat", "events b.mat --frames 2 --out out"),
    recording("recording, mat, compressed", "a.mat", "events a.mat --frames 2 --out out"),
    recording("recording, npz", "b.npz", "events b.npz --frames 2 --out out"),
    recording("recording, hdf5", "shd_test.h5", "events shd_test.h5 --sort"),
    Kind { needs: &["data"], ..kind("experiment", "x.toml", "train x.toml --print-config", Nothing) },
    // The network is built, and memory for it taken, before it is said that there is nothing to start from.
    Kind { needs: &[], instead: Some("start missing"), ..kind("experiment, built", "never.toml", "train never.toml --start missing", Nothing) },
    kind("config.json", "model/config.json", "predict model x.png --format csv", Everything),
    kind("preprocessor", "model/preprocessor_config.json", "predict model x.png --format csv", Everything),
    kind("weights", "model/model.safetensors", "predict model x.png --format csv", Everything),
    kind("weights for PyTorch", "model/model.safetensors", "convert to-pytorch model --out out.safetensors", Everything),
    Kind { needs: &["old"], ..kind("weights, imported", "model/model.safetensors", "convert import model --config old/config.json --out out", Everything) },
    Kind { needs: &["x.toml", "data"], ..kind("weights to start from", "model/model.safetensors", "train x.toml --quiet --start model --run out", Everything) },
    kind("digests", "model/SHA256SUMS", "predict model x.png --format csv", Partly),
    Kind { needs: &["old"], ..kind("config.json without digest", "old/config.json", "predict old x.png --format csv", Nothing) },
    Kind { needs: &["old"], ..kind("preprocessor without digest", "old/preprocessor_config.json", "predict old x.png --format csv", Nothing) },
    Kind { needs: &["old"], ..kind("weights without digest", "old/model.safetensors", "predict old x.png --format csv", Nothing) },
    Kind { needs: &["old"], ..kind("config.json, folded", "old/config.json", "convert fold old --out out", Nothing) },
    // A path of data that is another is named itself.
    Kind { needs: &["run", "data"], instead: Some("cannot find the file or folder of the data set"), ..kind("run's configuration", "run/config.json", "eval run --json", Nothing) },
    // A directory that is another is shown by data that are not there.
    Kind { needs: &["moved", "model"], instead: Some("photos: "), ..kind("run.json", "moved/run.json", "eval moved --json", Nothing) },
    Kind { needs: RESUMED, ..kind("checkpoint's state", CHECKPOINT_STATE, RESUME, Everything) },
    Kind { needs: RESUMED, ..kind("checkpoint's weights", "stopped/checkpoints/epoch-0001/model.safetensors", RESUME, Everything) },
    Kind { needs: RESUMED, ..kind("optimizer", CHECKPOINT_OPTIMIZER, RESUME, Everything) },
    Kind { needs: RESUMED, ..kind("best weights", "stopped/checkpoints/best-0001/model.safetensors", RESUME, Everything) },
    Kind { needs: RESUMED, signed: Some(CHECKPOINT), instead: None, ..kind("checkpoint's state, signed", CHECKPOINT_STATE, RESUME, Nothing) },
    Kind { needs: RESUMED, signed: Some(CHECKPOINT), ..kind("optimizer, signed", CHECKPOINT_OPTIMIZER, RESUME, Nothing) },
    kind("pth, zip", "x.pth", "convert import x.pth --config model/config.json --out out", Partly),
    kind("pth, legacy", "legacy.pth", "convert import legacy.pth --config model/config.json --out out", Nothing),
    kind("safetensors", "w.safetensors", "convert import w.safetensors --config model/config.json --out out", Nothing),
    kind("index of shards", "shards/model.safetensors.index.json", IMPORT_SHARDS, Nothing),
    kind("shard", "shards/2.safetensors", IMPORT_SHARDS, Nothing),
    Kind { instead: Some("renamed.safetensors"), ..kind("rename map, toml", "map.toml", "convert import renamed.safetensors --config model/config.json --rename-map map.toml --out out", Nothing) },
    Kind { instead: Some("renamed.safetensors"), ..kind("rename map, json", "map.json", "convert import renamed.safetensors --config model/config.json --rename-map map.json --out out", Nothing) },
    Kind { needs: &["model", "data"], ..kind("energy model", "chip.toml", "energy model data --quiet --format json --energy-model ./chip.toml", Nothing) },
    Kind { needs: &[], ..kind("golden case", "golden.safetensors", "golden golden.safetensors", Nothing) },
];

const CHECKPOINT: &str = "stopped/checkpoints/epoch-0001";
const CHECKPOINT_STATE: &str = "stopped/checkpoints/epoch-0001/state.json";
const CHECKPOINT_OPTIMIZER: &str = "stopped/checkpoints/epoch-0001/optimizer.safetensors";
const RESUMED: &[&str] = &["stopped", "data", "x.toml"];
const RESUME: &str = "train x.toml --quiet --run stopped";
const IMPORT_SHARDS: &str = "convert import shards --config model/config.json --out out";

const EXPERIMENT: &str = r#"
[model]
backbone = "resnet20"
width = 1
in_channels = 1
n_classes = 2
timesteps = 2
neuron = { kind = "lmht", levels = 2 }

[train]
epochs = 1
batch_size = 4
seed = 42
optimizer = { kind = "sgd", lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 5e-4 }
schedule = { decay = { kind = "cosine" }, update_every = "step" }

[data]
path = "data"
parquet = { cover = [8, 8] }
augment = { crop_padding = 1, flip = true }
"#;

const CHIP: &str = r#"
name = "a chip"
source = "data sheet, table 3"
mac_pj = 1.2
ac_pj = 0.1
value_bits = 16
[memory]
source = "data sheet, table 4"
access_bits = 64
access_pj = [[8192, 10.0], [32768, 20.0]]
"#;

const CARD: &str = r#"---
license: mit
configs:
- config_name: default
  data_files:
  - split: test
    path: "d*/test*"
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': dark
          '1': light
---
Eight images.
"#;

/// Virtual memory, seconds of a processor, seconds in all, and blocks of 512 bytes in a file.
const LIMITS: &str =
    "ulimit -v 3000000; ulimit -t 60; ulimit -f 200000; ulimit -c 0; exec timeout -s KILL 300 \"$0\" \"$@\"";

fn xtask(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", LIMITS, env!("CARGO_BIN_EXE_xtask")]).args(arguments.split(' ')).current_dir(folder);
    command.stdin(Stdio::null()).env("RAYON_NUM_THREADS", "1").output().expect("sh starts")
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &str) {
    let output = xtask(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn photo(i: u8) -> DynamicImage {
    // Smooth, so that other pixels would be another answer and not another noise.
    GrayImage::from_fn(9, 8, |x, y| [(i * 25).wrapping_add((x * 3 + y * 5) as u8)].into()).into()
}

/// One good file of each kind, below `here`.
fn make_good_files(here: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(here.join(name).parent().unwrap()).unwrap();
        fs::write(here.join(name), bytes).unwrap();
    };
    let rows: Vec<_> =
        (0..8).map(|i| tables::row(tables::encode(photo(i), ImageFormat::Png), i64::from(i % 2))).collect();
    for (name, rows) in
        [("data/train.parquet", &rows[..]), ("data/test.parquet", &rows[..4]), ("card/data/test.parquet", &rows[..4])]
    {
        fs::create_dir_all(here.join(name).parent().unwrap()).unwrap();
        tables::Layout::zstd().write(here.join(name), rows);
    }
    write("card/README.md", CARD.as_bytes());
    write("labels/test.csv", b"file_name,label\na.png,light\nb.png,dark\nb.png,light\n");
    for (name, format) in [
        ("x.png", ImageFormat::Png),
        ("x.jpg", ImageFormat::Jpeg),
        ("x.webp", ImageFormat::WebP),
        ("x.bmp", ImageFormat::Bmp),
        ("x.gif", ImageFormat::Gif),
        ("x.tiff", ImageFormat::Tiff),
        ("labels/a.png", ImageFormat::Png),
        ("labels/b.png", ImageFormat::Png),
    ] {
        let image = photo(name.as_bytes()[name.len() - 5] % 10);
        let image = if format == ImageFormat::Png { image } else { image.into_rgb8().into() };
        write(name, &tables::encode(image, format));
    }
    write("x.toml", EXPERIMENT.as_bytes());
    write("never.toml", EXPERIMENT.as_bytes());
    write("chip.toml", CHIP.as_bytes());
    write("golden.safetensors", include_bytes!("../testdata/golden/neuron_lmht_L1_T1.safetensors"));
    write("cifar/test.bin", include_bytes!("../../fuzz/seeds/cifar/two.bin"));
    write("idx/t10k-images-idx3-ubyte", include_bytes!("../../fuzz/seeds/idx/gray"));
    write("idx/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x03\0\x01\0");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/events"), here);

    succeeds(here, "train x.toml --quiet --run run");
    copy(&here.join("run/model"), &here.join("model"));
    copy(&here.join("model"), &here.join("old"));
    fs::remove_file(here.join("old/SHA256SUMS")).unwrap();
    // Its data are where its record says, not below the working directory.
    copy(&here.join("run"), &here.join("moved"));
    let edit = |name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(here.join(name)).unwrap();
        assert!(text.contains(from), "{name}: {text}");
        fs::write(here.join(name), text.replace(from, to)).unwrap();
    };
    fs::create_dir(here.join("elsewhere")).unwrap();
    copy(&here.join("data"), &here.join("elsewhere/photos"));
    edit("moved/config.json", "\"path\": \"data\"", "\"path\": \"photos\"");
    let directory = here.canonicalize().unwrap();
    let directory = directory.to_str().unwrap();
    edit("moved/run.json", directory, &format!("{directory}/elsewhere"));
    // All of its only epoch is done, and nothing of its result written.
    copy(&here.join("run"), &here.join("stopped"));
    for made in ["stopped/model", "stopped/best"] {
        fs::remove_dir_all(here.join(made)).unwrap();
    }
    fs::remove_file(here.join("stopped/metrics.json")).unwrap();

    succeeds(here, "convert to-pytorch model --out x.pth");
    succeeds(here, "convert to-pytorch model --out w.safetensors");
    write("legacy.pth", &legacy(&fs::read(here.join("w.safetensors")).unwrap()));
    let bytes = fs::read(here.join("w.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = all.tensors();
    let renamed = tensors
        .iter()
        .map(|(name, tensor)| (name.replace("conv2_x", "stage").replace("shortcut", "skip"), tensor.clone()));
    write("renamed.safetensors", &serialize(renamed, None).unwrap());
    write("map.toml", b"# theirs = ours\nstage = \"conv2_x\"\n\"conv3_x.{n}.skip\" = \"conv3_x.{n}.shortcut\"\n\"conv4_x.{n}.skip\" = \"conv4_x.{n}.shortcut\"\n");
    write("map.json", br#"{"stage": "conv2_x", "conv3_x.{n}.skip": "conv3_x.{n}.shortcut", "conv4_x.{n}.skip": "conv4_x.{n}.shortcut"}"#);
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut places = BTreeMap::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let shard = format!("{}.safetensors", i + 1);
        places.extend(part.iter().map(|(name, _)| (name.clone(), shard.clone())));
        write(&format!("shards/{shard}"), &serialize(part.to_vec(), None).unwrap());
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": places });
    write("shards/model.safetensors.index.json", index.to_string().as_bytes());
}

/// The tensors of a safetensors file as `torch.save` wrote them before PyTorch 1.6.
fn legacy(safetensors: &[u8]) -> Vec<u8> {
    let file = SafeTensors::deserialize(safetensors).unwrap();
    let number = |n: usize| [b"J".as_slice(), &(n as u32).to_le_bytes()].concat();
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let tuple = |numbers: &[usize]| {
        [b"(".as_slice(), &numbers.iter().flat_map(|&n| number(n)).collect::<Vec<u8>>(), b"t"].concat()
    };
    let mut all = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    let mut storages = Vec::new();
    let mut keys = b"\x80\x02]".to_vec();
    all.extend(b"\x80\x02}(");
    for (i, (name, tensor)) in file.tensors().iter().enumerate() {
        let (shape, data) = (tensor.shape(), tensor.data());
        let (class, size) =
            if tensor.dtype() == safetensors::Dtype::I64 { ("LongStorage", 8) } else { ("FloatStorage", 4) };
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        all.extend([text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(), text("storage")].concat());
        all.extend(format!("ctorch\n{class}\n").into_bytes());
        all.extend([text(&i.to_string()), text("cpu"), number(data.len() / size), b"NtQK\0".to_vec()].concat());
        all.extend([tuple(shape), tuple(&strides), b"\x89ccollections\nOrderedDict\n)RtR".to_vec()].concat());
        keys.extend([text(&i.to_string()), b"a".to_vec()].concat());
        storages.extend([&((data.len() / size) as u64).to_le_bytes(), data].concat());
    }
    [all, b"u.".to_vec(), keys, b".".to_vec(), storages].concat()
}

/// A folder, or a file, with everything in it.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if from.is_file() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// Numbers that programs forget.
const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e308",
    "1e999",
    "-0.0",
    "1e-320",
    "NaN",
    "0.5",
];

/// `good` with one to three changes; always another file.
fn damage(good: &[u8], random: &mut Random) -> Vec<u8> {
    loop {
        let mut bytes = good.to_vec();
        for _ in 0..=random.below(3) {
            change(&mut bytes, random);
        }
        if bytes != good {
            return bytes;
        }
    }
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let some = |random: &mut Random, bytes: &[u8]| {
        let most = 1 << random.below(10);
        let length = 1 + random.below(most);
        at..bytes.len().min(at + length)
    };
    match random.below(9) {
        0 | 1 => (0..=random.below(8)).for_each(|_| {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }),
        2 => bytes.truncate(at),
        3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'-', b'\n'][random.below(8)],
        // A block more, less, or where another was.
        4 => {
            let block = bytes[some(random, bytes)].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, block);
        }
        5 => drop(bytes.drain(some(random, bytes))),
        6 => {
            let block = bytes[some(random, bytes)].to_vec();
            let to = random.below(bytes.len() - block.len() + 1);
            bytes[to..to + block.len()].copy_from_slice(&block);
        }
        // A number, as text and as bytes.
        7 => {
            let digits = |b: &u8| b.is_ascii_digit();
            let Some(start) = (at..bytes.len()).chain(0..at).find(|&i| digits(&bytes[i])) else { return };
            let start = start - bytes[..start].iter().rev().take_while(|b| digits(b)).count();
            let end = start + bytes[start..].iter().take_while(|b| digits(b)).count();
            bytes.splice(start..end, NUMBERS[random.below(NUMBERS.len())].bytes());
        }
        _ => {
            let size = [1, 2, 4, 8][random.below(4)];
            let number = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 31, 1 << 16, 0x7fff_ffff, 0x1000][random.below(8)];
            let number = if random.below(2) == 0 {
                number.to_le_bytes()[..size].to_vec()
            } else {
                number.to_be_bytes()[8 - size..].to_vec()
            };
            let end = bytes.len().min(at + size);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
    }
}

/// What a command gave: what it printed, and the files that it made.
fn result(folder: &Path, output: &Output) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), files));
        } else if path.is_file() && name != "README.md" {
            files.insert(path.to_path_buf(), fs::read(path).unwrap());
        }
    }
    let mut files = BTreeMap::from([(PathBuf::new(), output.stdout.clone())]);
    for made in ["out", "out.safetensors", "stopped/model", "stopped/best", "stopped/metrics.json"] {
        walk(&folder.join(made), &mut files);
    }
    files
}

/// How the damaged files of a kind ended.
#[derive(Default)]
struct Count {
    refused: usize,
    same: usize,
    other: usize,
}

struct Bench<'a> {
    good: &'a Path,
    work: &'a Path,
}

impl Bench<'_> {
    /// A fresh copy of what a kind needs, and the command on it with these bytes as its file.
    fn run(&self, kind: &Kind, bytes: &[u8]) -> Output {
        let _ = fs::remove_dir_all(self.work);
        fs::create_dir_all(self.work).unwrap();
        let own = kind.file.split('/').next().unwrap();
        let beside = ["x.png", "renamed.safetensors"];
        for name in kind.needs.iter().copied().chain([own]).chain(beside) {
            copy(&self.good.join(name), &self.work.join(name));
        }
        fs::write(self.work.join(kind.file), bytes).unwrap();
        if let Some(folder) = kind.signed.map(|folder| self.work.join(folder)) {
            let sums = fs::read_to_string(folder.join(checksums::FILE)).unwrap();
            let files: Vec<_> =
                sums.lines().map(|line| (&line[66..], fs::read(folder.join(&line[66..])).unwrap())).collect();
            let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
            fs::write(folder.join(checksums::FILE), checksums::of(&files)).unwrap();
        }
        xtask(self.work, kind.command)
    }

    /// Damages a file `rounds` times; what is wrong with the outcome goes into `faults`.
    fn damage(&self, kind: &Kind, rounds: usize, faults: &mut Vec<String>) -> Count {
        let good = fs::read(self.good.join(kind.file)).unwrap();
        let output = self.run(kind, &good);
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_good = output.status.success() || kind.instead.is_some_and(|error| says.contains(error));
        assert!(is_good, "{}: the good file is refused: {says}", kind.name);
        let expected = result(self.work, &output);
        let mut random = Random(1 + kind.name.bytes().map(u64::from).sum::<u64>());
        let mut count = Count::default();
        for round in 0..rounds {
            let bytes = damage(&good, &mut random);
            let output = self.run(kind, &bytes);
            let says = String::from_utf8_lossy(&output.stderr);
            let file = Path::new(kind.file).file_name().unwrap().to_str().unwrap();
            let fault = match output.status.code() {
                _ if says.contains("panicked") => Some("a panic"),
                Some(0) if result(self.work, &output) == expected => {
                    count.same += 1;
                    (kind.shows == Everything).then_some("damage passed over")
                }
                Some(0) => {
                    count.other += 1;
                    (kind.shows != Nothing).then_some("another result")
                }
                Some(1) => {
                    count.refused += 1;
                    let error = says.find("error: ").map(|at| &says[at..]);
                    match error {
                        None => Some("no error is said"),
                        // Or a file beside it: weights that do not fit their configuration, a data set without the split that
                        // its card should name.
                        Some(error) => {
                            let folder = kind.file.rsplit_once('/').map(|(folder, _)| folder);
                            let is_named = error.contains(file)
                                || folder.is_some_and(|folder| error.contains(folder))
                                || kind.instead.is_some_and(|other| error.contains(other));
                            (!is_named).then_some("the file is not named")
                        }
                    }
                }
                _ => Some("ended by a signal, a limit or an unknown status"),
            };
            if let Some(fault) = fault {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR"))
                    .join(format!("damaged-{}-{round}", kind.name.replace([' ', ','], "-")));
                fs::write(&kept, &bytes).unwrap();
                let last: String = says.lines().last().unwrap_or_default().chars().take(400).collect();
                faults.push(format!(
                    "{}, round {round}, {}: {fault}: {}: {last}",
                    kind.name,
                    kept.display(),
                    output.status
                ));
            }
        }
        count
    }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn damaged_files_of_every_kind_are_refused_or_harmless() {
    let rounds = setting("LMHT_DAMAGE_ROUNDS").unwrap_or(4);
    let only: Option<String> = setting("LMHT_DAMAGE_KIND");
    let folder = tempfile::tempdir().unwrap();
    let (good, work) = (folder.path().join("good"), folder.path().join("work"));
    fs::create_dir(&good).unwrap();
    make_good_files(&good);
    let bench = Bench { good: &good, work: &work };
    let mut faults = Vec::new();
    println!("| kind | refused | same result | another result |\n|---|---:|---:|---:|");
    for kind in KINDS.iter().filter(|kind| only.as_deref().is_none_or(|only| kind.name == only)) {
        let before = faults.len();
        let Count { refused, same, other } = bench.damage(kind, rounds, &mut faults);
        println!("| {} | {refused} | {same} | {other} |", kind.name);
        faults[before..].iter().take(8).for_each(|fault| println!("    {fault}"));
    }
    assert!(faults.is_empty(), "{} faults, the first: {}", faults.len(), faults[0]);
}

#[test]
fn parsers_take_damaged_inputs_without_a_panic() {
    let rounds = setting("LMHT_DAMAGE_ROUNDS").unwrap_or(30);
    let only: Option<String> = setting("LMHT_DAMAGE_TARGET");
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    for (name, target) in parsers::TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let mut files: Vec<_> = fs::read_dir(seeds.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let good: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        good.iter().for_each(|bytes| target(bytes));
        let mut random = Random(7);
        for round in 0..rounds {
            let bytes = damage(&good[round % good.len()], &mut random);
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("damaged-{name}-{round}"));
                fs::write(&kept, &bytes).unwrap();
                panic!("{name}: panics at {}", kept.display());
            }
        }
        println!("{name}: {rounds} inputs");
    }
    parsers::clean();
}
