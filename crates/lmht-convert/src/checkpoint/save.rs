//! The files of `torch.save`: one pickle that describes the tensors, one stored entry for each of them, in a zip archive.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use candle_core::{DType, Tensor};
use safetensors::View;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::{Error, Result};

/// What `torch.load` reads as a dictionary of these tensors, also with `weights_only=True`. The same tensors give the same
/// bytes.
pub(super) fn archive(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // PyTorch maps storages into memory, at multiples of 64 bytes. No time of writing: equal models are equal files.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .with_alignment(64);
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let options = options.large_file(bytes.len() >= u32::MAX as usize);
        zip.start_file(format!("archive/{name}"), options).map_err(wrap)?;
        zip.write_all(bytes).map_err(wrap)
    };
    add("data.pkl", &pickle(tensors)?)?;
    add("byteorder", b"little")?;
    for (index, tensor) in tensors.values().enumerate() {
        add(&format!("data/{index}"), &tensor.data())?;
    }
    add("version", b"3\n")?;
    Ok(zip.finish().map_err(wrap)?.into_inner())
}

fn wrap(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Candle(candle_core::Error::wrap(error))
}

/// `{name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), …}`, protocol 2.
fn pickle(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let mut out = b"\x80\x02}(".to_vec();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        let storage = match tensor.dtype() {
            DType::F64 => "DoubleStorage",
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            DType::I64 => "LongStorage",
            other => {
                let message = format!("{name}: expected a float tensor or one of int64, got {other:?}");
                return Err(Error::Refused(message));
            }
        };
        out.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        number(&mut out, tensor.elem_count());
        out.extend(b"tQ");
        number(&mut out, 0);
        tuple(&mut out, tensor.dims());
        // `data` gives the values in the order of the shape, whatever they lie in.
        tuple(&mut out, tensor.contiguous()?.stride());
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    Ok(out)
}

/// BINUNICODE.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

/// BININT, or LONG1 of what that cannot hold.
fn number(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J');
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend(b"\x8a\x08");
            out.extend((value as i64).to_le_bytes());
        }
    }
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|value| number(out, *value));
    out.push(b't');
}
