//! What PyTorch wrote before 1.6: pickles one after the other, then the storages one after the other.
//!
//! The pickles are a magic number, the version of the format, what kind of machine wrote it, the object, and the list of the
//! storages' keys. Each storage is the number of its elements, 8 bytes, and the elements.

use std::collections::BTreeMap;

use super::outline::Outline;
use super::pickle::{Node, Pickle, SAVE_AGAIN, shortened};

/// The long number 0x1950a86a20f9469cfc6c in a pickle of its own.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The outline and the storages of a file that begins with [`MAGIC`].
///
/// # Errors
/// What is wrong with it, to follow the file's name.
pub(super) fn read(bytes: &[u8]) -> Result<(Outline<'_>, BTreeMap<&str, &[u8]>), String> {
    let mut rest = &bytes[MAGIC.len()..];
    let mut next = || {
        let pickle = Pickle::parse(rest)?;
        rest = &rest[pickle.length..];
        Ok::<_, String>(pickle)
    };
    let version = next()?;
    if version.int(version.root) != Some(1001) {
        return Err(format!("its format has another version than 1001; {SAVE_AGAIN}"));
    }
    let machine = next()?;
    if let Node::Dict(entries) = machine.node(machine.root)
        && entries.chunks_exact(2).any(|pair| {
            machine.text(pair[0]) == Some("little_endian") && matches!(machine.node(pair[1]), Node::Bool(false))
        })
    {
        return Err(format!("its numbers are not little-endian; load it on a little-endian machine and {SAVE_AGAIN}"));
    }
    let object = next()?;
    let keys = next()?;
    let outline = Outline::of(&object)?;
    let widths = widths(&object);
    let Node::List(keys_list) = keys.node(keys.root) else {
        return Err(format!("its list of storages is no list; {SAVE_AGAIN}"));
    };
    let mut storages = BTreeMap::new();
    for key in keys_list {
        let key = keys.text(*key).ok_or("a storage has no name")?;
        let short = shortened(key);
        let (count, data) = rest.split_first_chunk().ok_or_else(|| format!("it ends before the storage {short:?}"))?;
        let width =
            widths.get(key).ok_or_else(|| format!("the storage {short:?} belongs to no tensor; {SAVE_AGAIN}"))?;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(*width));
        let Some((data, after)) = length.and_then(|length| data.split_at_checked(length)) else {
            return Err(format!("it ends in the middle of the storage {short:?}; is the file cut off? fetch it again"));
        };
        if storages.insert(key, data).is_some() {
            return Err(format!("the storage {short:?} is there twice"));
        }
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!("it has {} bytes behind its last storage; fetch it again", rest.len()));
    }
    Ok((outline, storages))
}

/// Bytes of an element of each storage.
fn widths<'a>(object: &Pickle<'a>) -> BTreeMap<&'a str, usize> {
    let storage = |id| match object.tuple(id)? {
        // ("storage", torch.FloatStorage, key, device, elements, …)
        [_, class, key, ..] => match object.node(*class) {
            Node::Global(_, class) => Some((object.text(*key)?, width(class.strip_suffix("Storage")?)?)),
            _ => None,
        },
        _ => None,
    };
    object.persistent().filter_map(storage).collect()
}

fn width(storage: &str) -> Option<usize> {
    Some(match storage {
        "ComplexDouble" => 16,
        "Double" | "Long" | "ComplexFloat" => 8,
        "Float" | "Int" | "QInt32" => 4,
        "Half" | "BFloat16" | "Short" => 2,
        "Char" | "Byte" | "Bool" | "QInt8" | "QUInt8" => 1,
        _ => return None,
    })
}
