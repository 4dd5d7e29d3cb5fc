//! PyTorch's zip files: one pickle that describes the tensors, one stored entry for each storage.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use candle_core::{DType, Device, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, SAVE_AGAIN, StateDict, View, shortened};
use super::{Contents, is_counter};

/// Tensors may share a storage, so together they may be larger than the file, but not by any amount.
const SHARED: usize = 4;

type Zip<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Reads the tensors of a file that begins like a zip archive.
///
/// # Errors
/// What is wrong with it, to follow the file's name.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        format!("it begins like a zip archive, but its directory cannot be read ({error}); is the file cut off? fetch it again")
    })?;
    if zip.has_duplicate_names() {
        return Err("two entries of the archive have the same name; torch.save does not write that".into());
    }
    // Else a small file could have the same bytes read any number of times.
    if zip.has_overlapping_entries().map_err(|error| format!("its entries cannot be found: {error}"))? {
        return Err("entries of the archive lie over each other; torch.save does not write that".into());
    }
    let pickle_name = pickle_name(&zip)?;
    let folder = pickle_name.strip_suffix("data.pkl").unwrap_or_default().to_string();
    let byte_order = format!("{folder}byteorder");
    if zip.index_for_name(&byte_order).is_some() && entry(&mut zip, &byte_order, bytes.len())? != b"little" {
        return Err(format!("its numbers are not little-endian; load it on a little-endian machine and {SAVE_AGAIN}"));
    }
    let StateDict { tensors, key, passed_over } = pickle::read(&entry(&mut zip, &pickle_name, bytes.len())?)?;
    let mut contents = Contents { key, passed_over, ..Contents::default() };
    let mut by_storage: BTreeMap<String, Vec<(String, View, DType)>> = BTreeMap::new();
    let mut total = 0usize;
    for (name, view) in tensors {
        let inform = |what: String| format!("{}: {what}", shortened(&name));
        if is_counter(&name) && view.storage_type == "LongStorage" {
            contents.counters += 1;
            contents.names_before.push(name);
            continue;
        }
        let dtype = view.dtype().ok_or_else(|| {
            inform(format!("of type torch.{}, expected float32, float64, float16 or bfloat16", view.storage_type))
        })?;
        let len = view.checked_len().map_err(inform)?;
        total = total.saturating_add(len.saturating_mul(dtype.size_in_bytes()));
        if total > bytes.len().saturating_mul(SHARED) {
            return Err(inform(format!(
                "with shape {:?} the tensors are more than {SHARED} times as large as the file; an expanded tensor is to be \
                 saved as tensor.clone()",
                view.shape
            )));
        }
        contents.names_before.push(name.clone());
        by_storage.entry(view.storage.clone()).or_default().push((name, view, dtype));
    }
    for (storage, views) in by_storage {
        let data = entry(&mut zip, &format!("{folder}data/{storage}"), bytes.len())?;
        for (name, view, dtype) in views {
            let tensor = tensor(&data, &view, dtype).map_err(|what| format!("{}: {what}", shortened(&name)))?;
            contents.tensors.insert(name, tensor);
        }
    }
    Ok(contents)
}

/// The one entry `data.pkl`, after a look at what else this archive may be.
fn pickle_name(zip: &Zip<'_>) -> Result<String, String> {
    let mut pickles = Vec::new();
    for name in zip.file_names_raw() {
        let Ok(name) = std::str::from_utf8(name) else {
            return Err("an entry of the archive has a name that is not UTF-8; torch.save does not write that".into());
        };
        if name.ends_with("/constants.pkl") || name == "constants.pkl" {
            return Err(format!(
                "it is a TorchScript archive, a program; load it with torch.jit.load and {SAVE_AGAIN}"
            ));
        }
        if name.ends_with(".npy") {
            return Err("it is a NumPy archive (.npz); write the arrays with safetensors.numpy.save_file".into());
        }
        if name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..") {
            return Err(format!(
                "the entry {:?} points outside the archive; torch.save does not write that",
                shortened(name)
            ));
        }
        if name == "data.pkl" || name.ends_with("/data.pkl") {
            pickles.push(name.to_string());
        }
    }
    match pickles.len() {
        1 => Ok(pickles.swap_remove(0)),
        n => Err(format!(
            "it is a zip archive with {n} entries data.pkl, expected one as torch.save writes it; {SAVE_AGAIN}"
        )),
    }
}

/// An entry's bytes, checked against its checksum. `torch.save` stores without compression, so an entry is never larger
/// than the file.
fn entry(zip: &mut Zip<'_>, name: &str, length: usize) -> Result<Vec<u8>, String> {
    let short = shortened(name);
    let mut file = zip.by_name(name).map_err(|error| format!("the entry {short:?} cannot be read: {error}"))?;
    if file.compression() != CompressionMethod::Stored || file.encrypted() {
        return Err(format!(
            "the entry {short:?} is compressed or encrypted, which torch.save does not do; {SAVE_AGAIN}"
        ));
    }
    let size = file.size();
    if size != file.compressed_size() || size > length as u64 {
        return Err(format!("the entry {short:?} claims {size} bytes, more than the file has"));
    }
    let mut data = Vec::new();
    let read = file.by_ref().take(size + 1).read_to_end(&mut data);
    read.map_err(|error| {
        format!("the entry {short:?} is damaged ({error}); fetch the file again, or save it again with PyTorch's checksums on")
    })?;
    if data.len() as u64 != size {
        return Err(format!("the entry {short:?} has {} bytes, expected {size}; fetch the file again", data.len()));
    }
    Ok(data)
}

/// The tensor that `view` shows of a storage; the window is within `storage_len` elements already.
fn tensor(storage: &[u8], view: &View, dtype: DType) -> Result<Tensor, String> {
    let width = dtype.size_in_bytes();
    if Some(storage.len()) != view.storage_len.checked_mul(width) {
        return Err(format!(
            "its storage {:?} has {} bytes, expected {} numbers of {width} bytes; fetch the file again",
            shortened(&view.storage),
            storage.len(),
            view.storage_len
        ));
    }
    let len = view.checked_len()?;
    let gathered;
    let data = if len == 0 {
        &[]
    } else if view.is_contiguous() {
        &storage[view.offset * width..(view.offset + len) * width]
    } else {
        gathered = gather(storage, view, width, len);
        &gathered[..]
    };
    Tensor::from_raw_buffer(data, dtype, &view.shape, &Device::Cpu).map_err(|error| error.to_string())
}

/// The elements of a transposed or sliced tensor in order, the last index fastest.
fn gather(storage: &[u8], view: &View, width: usize, len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len * width);
    let mut index = vec![0; view.shape.len()];
    let mut at = view.offset;
    for _ in 0..len {
        data.extend_from_slice(&storage[at * width..(at + 1) * width]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            // Wrapping: the stride of an axis with one element may be anything, and is taken back at once.
            at = at.wrapping_add(view.strides[axis]);
            if index[axis] < view.shape[axis] {
                break;
            }
            at = at.wrapping_sub(view.shape[axis].wrapping_mul(view.strides[axis]));
            index[axis] = 0;
        }
    }
    data
}
