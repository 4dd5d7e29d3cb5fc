//! Reading what PyTorch wrote, in its flavours, and naming what is something else.

use std::io::Write;

use candle_core::{DType, Device, Tensor};
use lmht_convert::checkpoint::{self, Checkpoint, Format};

use crate::support::{assert_refused, fixture, fixture_bytes, values};

/// The tensors that every flavour of `make.py` holds, in eighths: printed by PyTorch.
const CONV: [i32; 24] =
    [6, -2, 11, -5, 9, -15, -11, 7, -5, -16, 4, -4, -12, -11, 0, -10, -16, 5, -14, 3, -4, 14, -11, -6];
const FC: [i32; 12] = [-13, 14, -11, 5, -5, 8, 5, 15, 7, -10, -16, 9];
const BIAS: [i32; 3] = [15, -8, -9];

fn eighths(values: &[i32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value) / 8.).collect()
}

#[track_caller]
fn assert_small(checkpoint: &Checkpoint, dtype: DType) {
    let names: Vec<_> = checkpoint.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["conv.weight", "fc.bias", "fc.weight"]);
    let expected: [(&str, &[usize], &[i32]); 3] =
        [("conv.weight", &[2, 3, 2, 2], &CONV), ("fc.weight", &[3, 4], &FC), ("fc.bias", &[3], &BIAS)];
    for (name, shape, expected) in expected {
        let tensor = &checkpoint.tensors[name];
        assert_eq!((tensor.dims(), tensor.dtype()), (shape, dtype), "{name}");
        assert_eq!(values(tensor), eighths(expected), "{name}");
    }
}

#[test]
fn every_flavour_of_torch_save_gives_the_same_tensors() {
    let counters = "dropped 1 counters num_batches_tracked, which change nothing";
    let beside = "passed over: best (a value), epoch (a number), optimizer.lr (a value), optimizer.state (a tensor)";
    let cases: [(&str, DType, &[&str]); 15] = [
        ("bare", DType::F32, &[counters]),
        ("dict", DType::F32, &[counters]),
        ("model", DType::F32, &["read the network under \"model\"", beside, counters]),
        ("state_dict", DType::F32, &["read the network under \"state_dict\"", "passed over: args (a value)", counters]),
        ("net", DType::F32, &["read the network under \"net\"", counters]),
        ("model_state_dict", DType::F32, &["read the network under \"model_state_dict\"", counters]),
        ("module_prefix", DType::F32, &[counters, "took the prefix \"module.\" off every name"]),
        ("f16", DType::F16, &[counters]),
        ("bf16", DType::BF16, &[counters]),
        ("f64", DType::F64, &[counters]),
        ("parameter", DType::F32, &[counters]),
        ("strided", DType::F32, &[counters]),
        ("shared", DType::F32, &[counters]),
        ("protocol4", DType::F32, &[counters]),
        ("legacy", DType::F32, &[counters]),
    ];
    for (name, dtype, notes) in cases {
        let checkpoint = checkpoint::read(fixture(&format!("{name}.pth"))).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(checkpoint.format, if name == "legacy" { Format::Legacy } else { Format::Pytorch });
        assert_eq!(checkpoint.notes, notes, "{name}");
        assert_small(&checkpoint, dtype);
    }
}

/// `torch.save(nn.Linear(2, 2), path)`.
#[test]
fn a_module_gives_its_tensors_without_being_made() {
    let checkpoint = checkpoint::read(fixture("whole_module.pth")).unwrap();
    let shapes: Vec<_> = checkpoint.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.dims())).collect();
    assert_eq!(shapes, [("bias", [2].as_slice()), ("weight", &[2, 2])]);
    assert_eq!(checkpoint.notes, ["passed over: the whole (an object of \"torch.nn.modules.linear.Linear\")"]);
}

#[test]
fn safetensors_are_told_by_their_content() {
    let tensor = |shape: &[usize], eighth: &[i32]| {
        Tensor::from_vec(eighths(eighth), shape, &Device::Cpu).and_then(|x| x.to_dtype(DType::F16)).unwrap()
    };
    let tensors = [
        ("module.conv.weight", tensor(&[2, 3, 2, 2], &CONV)),
        ("module.fc.weight", tensor(&[3, 4], &FC)),
        ("module.fc.bias", tensor(&[3], &BIAS)),
        ("module.bn.num_batches_tracked", Tensor::new(3i64, &Device::Cpu).unwrap()),
    ];
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let mut file = tempfile::Builder::new().suffix(".pth").tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let checkpoint = checkpoint::read(file.path()).unwrap();
    assert_eq!(checkpoint.format, Format::Safetensors);
    assert_eq!(checkpoint.origin, file.path().display().to_string());
    assert_eq!(checkpoint.notes.len(), 2, "{:?}", checkpoint.notes);
    assert_small(&checkpoint, DType::F16);
}

/// The length of a header may be any number: 60 is '<', 0x8b1f begins compressed files, 0x4b50 archives.
#[test]
fn a_header_of_any_length_is_told_from_other_files() {
    for length in [60, 0x4b50, 0x8b1f] {
        let tensor = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let header = format!("{{{tensor:width$}}}", width = length - 2);
        assert_eq!(header.len(), length);
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
        let read = checkpoint::parse("w", &bytes);
        assert!(read.is_ok_and(|read| read.tensors.contains_key("w")), "{length}");
    }
}

#[test]
fn a_prefix_that_one_name_lacks_stays() {
    let one = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    let bytes = safetensors::serialize([("module.a", one.clone()), ("b", one)], None).unwrap();
    let checkpoint = checkpoint::parse("mixed", &bytes).unwrap();
    assert_eq!(checkpoint.tensors.keys().collect::<Vec<_>>(), ["b", "module.a"]);
    assert!(checkpoint.notes.is_empty());
}

#[test]
fn other_files_are_named_and_the_message_says_what_to_do() {
    const SAVE: &str = "torch.save(model.state_dict(), path)";
    assert_refused(checkpoint::read(fixture("torchscript.pt")), &["torchscript.pt", "TorchScript", SAVE]);
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let cases: [(&[u8], &str); 10] = [
        (b"", "empty"),
        (lfs, "git lfs pull"),
        (b"\n <!doctype html>", "web page"),
        (b"\x93NUMPY\x01\x00v\x00", "NumPy"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"\x80\x04\x95", "bare pickle"),
        (b"PK\x03\x04 and then nothing", "cut off"),
        (b"hello", "neither a PyTorch nor a safetensors file"),
        (&[7; 4096], "neither a PyTorch nor a safetensors file"),
    ];
    for (bytes, part) in cases {
        assert_refused(checkpoint::parse("net.bin", bytes), &["net.bin: ", part]);
    }
    let mut tar = [0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert_refused(checkpoint::parse("net.tar", &tar), &["net.tar: ", "tar archive"]);
}

#[test]
fn what_is_no_readable_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(checkpoint::read(folder.path()), &[folder.path().to_str().unwrap(), "expected a file"]);
    assert_refused(checkpoint::read(folder.path().join("no.pth")), &["no.pth", "No such file"]);
}

#[test]
fn the_same_bytes_are_read_from_memory() {
    let checkpoint = checkpoint::parse("memory", &fixture_bytes("bare.pth")).unwrap();
    assert_small(&checkpoint, DType::F32);
    assert_eq!(checkpoint.origin, "memory");
}
