//! PyTorch's zip files: one pickle that describes the tensors, one stored entry for each storage.

use std::borrow::Cow;
use std::io::{Cursor, Read, Write, sink};

use zip::{CompressionMethod, ZipArchive};

use super::outline::Storages;
use super::pickle::{MAX_LENGTH, SAVE_AGAIN, shortened};

type Zip<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// An archive whose structure is that of `torch.save`.
pub(super) struct Archive<'a> {
    zip: Zip<'a>,
    folder: String,
    length: usize,
}

impl<'a> Archive<'a> {
    /// Opens a file that begins like a zip archive.
    ///
    /// # Errors
    /// What is wrong with it, to follow the file's name.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
            format!(
                "it begins like a zip archive, but its directory cannot be read ({error}); is the file cut off? fetch it \
                 again"
            )
        })?;
        if zip.has_duplicate_names() {
            return Err("two entries of the archive have the same name; torch.save does not write that".into());
        }
        // Else a small file could have the same bytes read any number of times.
        if zip.has_overlapping_entries().map_err(|error| format!("its entries cannot be found: {error}"))? {
            return Err("entries of the archive lie over each other; torch.save does not write that".into());
        }
        // Also what nobody needs: damage there is damage.
        let name = pickle_name(&zip)?;
        for index in 0..zip.len() {
            copy(&mut zip, index, bytes.len(), &mut sink())?;
        }
        let folder = name.strip_suffix("data.pkl").unwrap_or_default().to_string();
        let mut archive = Self { zip, folder, length: bytes.len() };
        let byte_order = format!("{}byteorder", archive.folder);
        if archive.zip.index_for_name(&byte_order).is_some() && archive.entry("byteorder")? != b"little" {
            return Err(format!(
                "its numbers are not little-endian; load it on a little-endian machine and {SAVE_AGAIN}"
            ));
        }
        Ok(archive)
    }

    /// The pickle.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, String> {
        let size = self.zip.by_name(&format!("{}data.pkl", self.folder)).map(|file| file.size());
        if size.is_ok_and(|size| size > MAX_LENGTH as u64 && size <= self.length as u64) {
            return Err(format!(
                "its pickle has more than {MAX_LENGTH} bytes, expected at most that beside the tensors; {SAVE_AGAIN}"
            ));
        }
        self.entry("data.pkl")
    }

    fn entry(&mut self, name: &str) -> Result<Vec<u8>, String> {
        entry(&mut self.zip, &format!("{}{name}", self.folder), self.length)
    }
}

impl<'a> Storages<'a> for Archive<'_> {
    fn bytes(&mut self, storage: &str) -> Result<Cow<'a, [u8]>, String> {
        self.entry(&format!("data/{storage}")).map(Cow::Owned)
    }
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

/// An entry's bytes, checked against its checksum.
fn entry(zip: &mut Zip<'_>, name: &str, length: usize) -> Result<Vec<u8>, String> {
    let index = zip.index_for_name(name).ok_or_else(|| format!("the entry {:?} is not in it", shortened(name)))?;
    let mut data = Vec::new();
    copy(zip, index, length, &mut data)?;
    Ok(data)
}

/// Copies an entry, checked against its checksum. `torch.save` stores without compression, so an entry is never larger than
/// the file.
fn copy(zip: &mut Zip<'_>, index: usize, length: usize, to: &mut dyn Write) -> Result<(), String> {
    let short = zip.name_for_index(index).and_then(Result::ok).map_or(String::new(), |name| shortened(&name));
    let mut file = zip.by_index(index).map_err(|error| format!("the entry {short:?} cannot be read: {error}"))?;
    if file.compression() != CompressionMethod::Stored || file.encrypted() {
        return Err(format!(
            "the entry {short:?} is compressed or encrypted, which torch.save does not do; {SAVE_AGAIN}"
        ));
    }
    let size = file.size();
    if size != file.compressed_size() || size > length as u64 {
        return Err(format!("the entry {short:?} claims {size} bytes, more than the file has"));
    }
    let copied = std::io::copy(&mut file.by_ref().take(size + 1), to).map_err(|error| {
        format!("the entry {short:?} is damaged ({error}); fetch the file again, or save it again with PyTorch's checksums on")
    })?;
    if copied != size {
        return Err(format!("the entry {short:?} has {copied} bytes, expected {size}; fetch the file again"));
    }
    Ok(())
}
