//! The pickle inside a PyTorch file: checked first, then read by Candle's reader.
//!
//! A pickle is a program for a small stack machine that may name any Python function and call it. Candle's reader calls
//! nothing, but it takes memory on the word of the file, copies whatever is remembered, and follows any depth. So
//! [`check`] walks the program beforehand with sizes instead of values: what it lets through costs little, names nothing
//! but what a `state_dict` needs, and keeps the stack in order.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::pickle::{Object, Stack};

/// How deep dictionaries and tuples may lie in each other. A training state of PyTorch stays below 10.
const MAX_DEPTH: u32 = 32;

/// The largest pickle: the tensors are not in it, so a network of ten thousand tensors takes 2 MB.
const MAX_LENGTH: usize = 16 << 20;

/// What Candle's reader may copy for each byte of the pickle; that of a `state_dict` copies less than half of it.
const COPIED_PER_BYTE: u64 = 64;

/// Bytes of a value in Candle's reader, without its text.
const NODE: u64 = size_of::<Object>() as u64;

/// Where the advice of every refusal leads.
pub(super) const SAVE_AGAIN: &str = "save it again in PyTorch >= 1.6 with torch.save(model.state_dict(), path)";

/// What a pickle may name. Nothing of it is ever called; Candle's reader keeps the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    Rebuild,
    Storage,
    Size,
}

impl Global {
    fn of(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_parameter") => Some(Self::Rebuild),
            ("torch", "Size") => Some(Self::Size),
            ("torch", name) if is_storage(name) => Some(Self::Storage),
            _ => None,
        }
    }
}

fn is_storage(name: &str) -> bool {
    matches!(
        name.strip_suffix("Storage"),
        Some("Float" | "Double" | "Half" | "BFloat16" | "Long" | "Int" | "Short" | "Char" | "Byte" | "Bool")
    )
}

/// What stands on the stack, as far as it matters for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mark,
    Dict,
    List,
    Tuple,
    Global(Global),
    Other,
}

/// The shadow of a value: its kind, the bytes that a copy takes, how deep it is.
#[derive(Debug, Clone, Copy)]
struct Shadow {
    kind: Kind,
    size: u64,
    depth: u32,
}

impl Shadow {
    fn leaf(kind: Kind, text: usize) -> Self {
        Self { kind, size: NODE + text as u64, depth: 1 }
    }
}

/// The bytes that are left; the position is for messages.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = rest
            .get(..n)
            .ok_or_else(|| format!("its pickle ends at byte {} in the middle of a value", self.bytes.len()))?;
        self.at += n;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("its pickle ends in the middle of a name")?;
        let line = self.take(end)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "its pickle has a name that is not UTF-8".into())
    }
}

/// The stack machine with sizes for values. Its moves are those of Candle's reader.
struct Machine {
    stack: Vec<Shadow>,
    memo: HashMap<u32, Shadow>,
    copied: u64,
    may_copy: u64,
}

impl Machine {
    fn push(&mut self, kind: Kind, text: usize) {
        self.stack.push(Shadow::leaf(kind, text));
    }

    fn pop(&mut self) -> Result<Shadow, String> {
        match self.stack.pop() {
            Some(value) if value.kind != Kind::Mark => Ok(value),
            _ => Err("its pickle takes a value where there is none".into()),
        }
    }

    /// The container on top, which takes values in.
    fn container(&mut self, kind: Kind) -> Result<&mut Shadow, String> {
        match self.stack.last_mut() {
            Some(value) if value.kind == kind => Ok(value),
            _ => Err("its pickle puts a value into something that takes none".into()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Shadow>, String> {
        let mark = self.stack.iter().rposition(|value| value.kind == Kind::Mark);
        let mark = mark.ok_or("its pickle takes values up to a mark that it never set")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    /// Puts `values` into `container`.
    fn fill(container: &mut Shadow, values: &[Shadow]) -> Result<(), String> {
        for value in values {
            container.size = container.size.saturating_add(value.size);
            container.depth = container.depth.max(value.depth + 1);
        }
        if container.depth > MAX_DEPTH {
            return Err(format!("its pickle nests values more than {MAX_DEPTH} deep; {SAVE_AGAIN}"));
        }
        Ok(())
    }

    fn push_filled(&mut self, kind: Kind, values: &[Shadow]) -> Result<(), String> {
        let mut container = Shadow::leaf(kind, 0);
        Self::fill(&mut container, values)?;
        self.stack.push(container);
        Ok(())
    }

    fn copy(&mut self, value: Shadow) -> Result<Shadow, String> {
        self.copied = self.copied.saturating_add(value.size);
        if self.copied > self.may_copy {
            return Err(format!("its pickle repeats itself into more than {} bytes; {SAVE_AGAIN}", self.may_copy));
        }
        Ok(value)
    }

    fn put(&mut self, id: u32) -> Result<(), String> {
        let value = self.pop()?;
        self.stack.push(value);
        let copy = self.copy(value)?;
        self.memo.insert(id, copy);
        Ok(())
    }

    fn get(&mut self, id: u32) -> Result<(), String> {
        let value = *self.memo.get(&id).ok_or("its pickle recalls a value that it never kept")?;
        let copy = self.copy(value)?;
        self.stack.push(copy);
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        match (callable.kind, arguments.kind) {
            // Candle's reader drops the arguments, so there must be none.
            (Kind::Global(Global::OrderedDict), Kind::Tuple) if arguments.depth == 1 => {
                self.push(Kind::Dict, 0);
                Ok(())
            }
            (Kind::Global(Global::Rebuild | Global::Size), Kind::Tuple) => {
                self.push_filled(Kind::Other, &[callable, arguments])
            }
            _ => Err(format!("its pickle calls something that makes no tensor; {SAVE_AGAIN}")),
        }
    }
}

/// Walks a pickle without making any of its values, and returns how many bytes Candle's reader will copy.
///
/// # Errors
/// What is wrong with it, to follow the file's name: a function outside the list, an instruction that `torch.save` does not
/// write, a stack out of order, a depth or an amount of copies beyond any checkpoint.
fn check(bytes: &[u8]) -> Result<u64, String> {
    if bytes.len() > MAX_LENGTH {
        return Err(format!(
            "its pickle has {} bytes, expected at most {MAX_LENGTH} beside the tensors; {SAVE_AGAIN}",
            bytes.len()
        ));
    }
    let mut input = Input { bytes, at: 0 };
    let may_copy = COPIED_PER_BYTE * bytes.len() as u64;
    let mut machine = Machine { stack: Vec::new(), memo: HashMap::new(), copied: 0, may_copy };
    loop {
        let at = input.at;
        match input.byte()? {
            0x80 => {
                let protocol = input.byte()?;
                if protocol > 3 {
                    return Err(format!(
                        "it was saved with pickle protocol {protocol}, expected 2; leave pickle_protocol out: {SAVE_AGAIN}"
                    ));
                }
            }
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                let global = Global::of(module, name).ok_or_else(|| {
                    format!(
                        "its pickle names {:?}, which a file of tensors does not need; nothing was executed; {SAVE_AGAIN}",
                        shortened(&format!("{module}.{name}"))
                    )
                })?;
                machine.push(Kind::Global(global), module.len() + name.len());
            }
            b'K' => input.take(1).map(|_| machine.push(Kind::Other, 0))?,
            b'M' => input.take(2).map(|_| machine.push(Kind::Other, 0))?,
            b'J' => input.take(4).map(|_| machine.push(Kind::Other, 0))?,
            b'G' => input.take(8).map(|_| machine.push(Kind::Other, 0))?,
            0x8a => {
                let n = input.byte()?;
                if n > 8 {
                    return Err(format!(
                        "its pickle has a whole number of {n} bytes, expected at most 8; {SAVE_AGAIN}"
                    ));
                }
                input.take(usize::from(n))?;
                machine.push(Kind::Other, 0);
            }
            b'X' => {
                let n = input.u32()? as usize;
                input.take(n)?;
                machine.push(Kind::Other, n);
            }
            b'N' | 0x88 | 0x89 => machine.push(Kind::Other, 0),
            b'(' => machine.push(Kind::Mark, 0),
            b')' => machine.push(Kind::Tuple, 0),
            b'}' => machine.push(Kind::Dict, 0),
            b']' => machine.push(Kind::List, 0),
            0x85..=0x87 => {
                let n = usize::from(input.bytes[at] - 0x84);
                let values = (0..n).map(|_| machine.pop()).collect::<Result<Vec<_>, _>>()?;
                machine.push_filled(Kind::Tuple, &values)?;
            }
            b't' => {
                let values = machine.pop_to_mark()?;
                machine.push_filled(Kind::Tuple, &values)?;
            }
            b'a' => {
                let value = machine.pop()?;
                Machine::fill(machine.container(Kind::List)?, &[value])?;
            }
            b'e' => {
                let values = machine.pop_to_mark()?;
                Machine::fill(machine.container(Kind::List)?, &values)?;
            }
            b's' => {
                let values = [machine.pop()?, machine.pop()?];
                Machine::fill(machine.container(Kind::Dict)?, &values)?;
            }
            b'u' => {
                let values = machine.pop_to_mark()?;
                if values.len() % 2 == 1 {
                    return Err("its pickle has a key without a value".into());
                }
                Machine::fill(machine.container(Kind::Dict)?, &values)?;
            }
            b'b' => {
                // The attributes of a dictionary: Candle's reader puts them among its entries.
                let attributes = machine.pop()?;
                if attributes.kind != Kind::Dict {
                    return Err(format!("its pickle sets up an object that is no dictionary; {SAVE_AGAIN}"));
                }
                Machine::fill(machine.container(Kind::Dict)?, &[attributes])?;
            }
            b'R' => machine.reduce()?,
            b'Q' => {
                let id = machine.pop()?;
                machine.push_filled(Kind::Other, &[id])?;
            }
            b'q' => {
                let id = input.byte()?;
                machine.put(id.into())?;
            }
            b'r' => {
                let id = input.u32()?;
                machine.put(id)?;
            }
            b'h' => {
                let id = input.byte()?;
                machine.get(id.into())?;
            }
            b'j' => {
                let id = input.u32()?;
                machine.get(id)?;
            }
            b'.' => {
                return match (machine.stack.as_slice(), input.bytes.len() - input.at) {
                    ([value], 0) if value.kind != Kind::Mark => Ok(machine.copied),
                    _ => Err("its pickle has something left over at its end".into()),
                };
            }
            other => {
                return Err(format!(
                    "its pickle has the instruction {other:#04x} at byte {at}, which torch.save does not write for \
                     tensors; {SAVE_AGAIN}"
                ));
            }
        }
    }
}

/// A tensor as the pickle describes it: a window on a storage that lies elsewhere in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    /// The entry of the storage.
    pub(super) storage: String,
    /// Elements in the storage.
    pub(super) storage_len: usize,
    /// `FloatStorage` and so on.
    pub(super) storage_type: String,
    /// The first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl View {
    /// The number type, where it is one of real numbers.
    pub(super) fn dtype(&self) -> Option<DType> {
        match self.storage_type.as_str() {
            "FloatStorage" => Some(DType::F32),
            "DoubleStorage" => Some(DType::F64),
            "HalfStorage" => Some(DType::F16),
            "BFloat16Storage" => Some(DType::BF16),
            _ => None,
        }
    }

    /// Elements of the tensor, if its window lies within the storage.
    pub(super) fn checked_len(&self) -> Result<usize, String> {
        let (shape, strides) = (&self.shape, &self.strides);
        if shape.len() != strides.len() || shape.len() > 16 {
            return Err(format!("has shape {shape:?} and strides {strides:?}, expected as many of each, at most 16"));
        }
        let outside = || {
            format!(
                "reaches outside its storage of {} elements: shape {shape:?}, strides {strides:?}, offset {}",
                self.storage_len, self.offset
            )
        };
        let len = shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).ok_or_else(outside)?;
        if len == 0 {
            return Ok(0);
        }
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(self.offset, |at, (side, stride)| at.checked_add((side - 1).checked_mul(*stride)?));
        match last {
            Some(last) if last < self.storage_len => Ok(len),
            _ => Err(outside()),
        }
    }

    /// Whether the elements lie one after the other.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (side, stride) in self.shape.iter().zip(&self.strides).rev() {
            if *side != 1 && *stride != expected {
                return false;
            }
            expected *= side;
        }
        true
    }
}

/// The tensors of a checkpoint, and what was found beside them.
#[derive(Debug, Default)]
pub(super) struct StateDict {
    pub(super) tensors: Vec<(String, View)>,
    /// The entry of the checkpoint that holds them, unless they are the whole of it.
    pub(super) key: Option<String>,
    /// Entries of the checkpoint that are no tensors of the network.
    pub(super) passed_over: Vec<String>,
}

/// Under these names training scripts keep the network in a larger checkpoint.
const KEYS: [&str; 4] = ["model", "state_dict", "net", "model_state_dict"];

/// Checks a pickle, has Candle read it, and finds the tensors.
///
/// # Errors
/// What is wrong, to follow the file's name.
pub(super) fn read(bytes: &[u8]) -> Result<StateDict, String> {
    check(bytes)?;
    let mut stack = Stack::empty();
    let mut rest = bytes;
    let object = stack.read_loop(&mut rest).and_then(|()| stack.finalize());
    // The check lets nothing through that Candle refuses but text that is not UTF-8.
    let object = object.map_err(|error| format!("its pickle cannot be read: {}", shortened(&error.to_string())))?;
    let Object::Dict(entries) = &object else {
        return Err(format!("it holds one object that is no dictionary of tensors; {SAVE_AGAIN}"));
    };
    let found: Vec<_> =
        entries.iter().filter_map(|(key, value)| Some((named(key, &KEYS)?, tensors_of(value)?))).collect();
    match found.as_slice() {
        [] => {}
        [(key, tensors)] => return collect(tensors, entries, Some(key)),
        several => {
            let keys: Vec<_> = several.iter().map(|(key, _)| *key).collect();
            return Err(format!(
                "it holds several networks: {}; save one of them: torch.save(checkpoint[{:?}], path)",
                keys.join(", "),
                keys[0]
            ));
        }
    }
    if tensors_of(&object).is_none() {
        let mut keys: Vec<_> = entries.iter().filter_map(|(key, _)| text(key)).map(shortened).collect();
        keys.truncate(20);
        return Err(format!(
            "it holds no tensors at its top and no network under {}, only: {}; {SAVE_AGAIN}",
            KEYS.join(", "),
            if keys.is_empty() { "nothing".to_string() } else { keys.join(", ") }
        ));
    }
    collect(entries, entries, None)
}

/// The entries of a dictionary that has at least one tensor.
fn tensors_of(value: &Object) -> Option<&[(Object, Object)]> {
    let Object::Dict(entries) = value else { return None };
    entries.iter().any(|(_, value)| is_tensor(value)).then_some(entries)
}

fn collect(tensors: &[(Object, Object)], all: &[(Object, Object)], key: Option<&str>) -> Result<StateDict, String> {
    let mut state = StateDict { key: key.map(Into::into), ..StateDict::default() };
    let mut names = std::collections::HashSet::new();
    for (name, value) in tensors {
        let name = text(name).ok_or("it has a tensor whose name is no text")?;
        if is_tensor(value) {
            if !names.insert(name) {
                return Err(format!("{}: there twice", shortened(name)));
            }
            state.tensors.push((name.into(), view(value).map_err(|what| format!("{}: {what}", shortened(name)))?));
        } else if name != "_metadata" {
            // `_metadata` is an attribute of every state_dict, with the versions of its layers.
            state.passed_over.push(shortened(name));
        }
    }
    if let Some(key) = key {
        let others = all.iter().filter_map(|(name, _)| text(name)).filter(|name| *name != key);
        state.passed_over.extend(others.map(shortened));
    }
    state.passed_over.sort();
    Ok(state)
}

fn text(object: &Object) -> Option<&str> {
    match object {
        Object::Unicode(text) => Some(text),
        _ => None,
    }
}

fn named<'a>(object: &Object, names: &[&'a str]) -> Option<&'a str> {
    let text = text(object)?;
    names.iter().find(|name| **name == text).copied()
}

fn is_call<'a>(object: &'a Object, function: &str) -> Option<&'a [Object]> {
    let Object::Reduce { callable, args } = object else { return None };
    match (&**callable, &**args) {
        (Object::Class { module_name, class_name }, Object::Tuple(args))
            if module_name == "torch._utils" && class_name == function =>
        {
            Some(args)
        }
        _ => None,
    }
}

fn is_tensor(object: &Object) -> bool {
    is_call(object, "_rebuild_tensor_v2").is_some() || is_call(object, "_rebuild_parameter").is_some()
}

/// Takes apart `_rebuild_tensor_v2(storage, offset, shape, strides, …)`, alone or within `_rebuild_parameter(tensor, …)`.
fn view(object: &Object) -> Result<View, String> {
    let tensor = match is_call(object, "_rebuild_parameter") {
        Some(arguments) => arguments.first().ok_or("a parameter without a tensor")?,
        None => object,
    };
    let malformed = || format!("expected a tensor as torch.save describes it; {SAVE_AGAIN}");
    let Some([storage, offset, shape, strides, ..]) = is_call(tensor, "_rebuild_tensor_v2") else {
        return Err(malformed());
    };
    let Object::PersistentLoad(storage) = storage else { return Err(malformed()) };
    // ("storage", torch.FloatStorage, entry, device, number of elements)
    let Object::Tuple(storage) = &**storage else { return Err(malformed()) };
    let [_, Object::Class { class_name, .. }, Object::Unicode(entry), _, storage_len] = storage.as_slice() else {
        return Err(malformed());
    };
    let sizes = |object: &Object| match object {
        Object::Tuple(sizes) => sizes.iter().map(size).collect::<Result<Vec<_>, _>>(),
        _ => Err(malformed()),
    };
    Ok(View {
        storage: entry.clone(),
        storage_len: size(storage_len)?,
        storage_type: class_name.clone(),
        offset: size(offset)?,
        shape: sizes(shape)?,
        strides: sizes(strides)?,
    })
}

fn size(object: &Object) -> Result<usize, String> {
    let number = match object {
        Object::Int(number) => i64::from(*number),
        Object::Long(number) => *number,
        _ => return Err(format!("a size that is no whole number; {SAVE_AGAIN}")),
    };
    usize::try_from(number).map_err(|_| format!("a size of {number}, expected at least 0"))
}

/// A text of the file for a message: no longer than a line.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 186 tensors of a published network, without their values.
    #[test]
    fn a_state_dict_stays_far_below_the_limit_of_copies() {
        let file = include_bytes!("../../tests/all/fixtures/resnet20_qcfs.pth");
        let start = file.windows(3).position(|bytes| bytes == b"\x80\x02}").expect("the pickle's first bytes");
        let end = file.windows(4).position(|bytes| bytes == b"PK\x07\x08").map_or(file.len(), |end| end);
        let end = start + file[start..end].iter().rposition(|byte| *byte == b'.').expect("the pickle's last byte") + 1;
        let pickle = &file[start..end];
        let copied = check(pickle).expect("a pickle that PyTorch wrote");
        assert!(copied * 2 < COPIED_PER_BYTE * pickle.len() as u64, "{copied} bytes for {}", pickle.len());
    }
}
