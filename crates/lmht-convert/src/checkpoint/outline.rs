//! What a file holds, before any tensor is read: the dictionaries with tensors in them, and what stands beside.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use candle_core::{DType, Device, Tensor};

use super::pickle::{Id, Node, Object, Pickle, SAVE_AGAIN, shortened};

/// How deep dictionaries may lie in each other. A training state stays below 10.
const MAX_DEPTH: usize = 32;

/// The most dictionaries with tensors: one for each tensor of an optimizer.
const MAX_DICTIONARIES: usize = 100_000;

/// The most modules and tensors of a network that was saved as an object.
const MAX_PARTS: usize = 1_000_000;

/// The most attributes of a module; each is looked at.
const MAX_ATTRIBUTES: usize = 256;

/// The most places of what stands beside, each by its first two keys.
const MAX_BESIDE: usize = 10_000;

/// The longest name of a tensor in such a network.
const MAX_NAME: usize = 1000;

/// Tensors may share a storage, so together they may be larger than the file, but not by any amount.
const SHARED: usize = 4;

/// A tensor as a window on a storage that lies elsewhere in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View<'a> {
    pub(super) storage: &'a str,
    /// Elements in the storage.
    pub(super) storage_len: usize,
    /// The number type; `Err` with its name where it is not one of real numbers.
    pub(super) dtype: Result<DType, &'a str>,
    /// The first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Names as in the file. A description that makes no sense is an error only where the tensor is needed.
type Tensors<'a> = Vec<(Cow<'a, str>, Result<View<'a>, String>)>;

/// A dictionary that has tensors, or a module.
#[derive(Debug)]
pub(super) struct Dictionary<'a> {
    /// The keys that lead to it, with dots between.
    pub(super) path: String,
    /// The first two of them.
    pub(super) label: String,
    pub(super) tensors: Tensors<'a>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Outline<'a> {
    pub(super) dictionaries: Vec<Dictionary<'a>>,
    /// What is no tensor of a dictionary: the first two keys that lead there, how many values there are, and what one of them
    /// is, an object if there is one.
    pub(super) beside: BTreeMap<String, (usize, String)>,
    /// What the file is as a whole.
    pub(super) root: String,
}

/// Where the bytes of the storages are.
pub(super) trait Storages<'a> {
    /// The bytes of a storage.
    ///
    /// # Errors
    /// If it is not there or damaged.
    fn bytes(&mut self, storage: &str) -> Result<Cow<'a, [u8]>, String>;
}

impl<'a> Storages<'a> for BTreeMap<&'a str, &'a [u8]> {
    fn bytes(&mut self, storage: &str) -> Result<Cow<'a, [u8]>, String> {
        let bytes = self.get(storage).ok_or_else(|| format!("the storage {:?} is not in the file", shortened(storage)));
        bytes.map(|bytes| Cow::Borrowed(*bytes))
    }
}

impl<'a> Outline<'a> {
    /// Looks through a pickle's dictionaries, lists and tuples.
    ///
    /// # Errors
    /// If values lie too deep or a dictionary has a name twice.
    pub(super) fn of(pickle: &Pickle<'a>) -> Result<Self, String> {
        let root = describe(pickle, pickle.root);
        let mut walk = Walk { pickle, seen: HashSet::new(), outline: Self { root, ..Self::default() } };
        walk.enter(pickle.root, "", "", 0)?;
        Ok(walk.outline)
    }
}

struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// Containers that were entered: what lies at two places is looked at once, and a circle ends.
    seen: HashSet<Id>,
    outline: Outline<'a>,
}

impl<'a> Walk<'_, 'a> {
    fn enter(&mut self, id: Id, path: &str, label: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("its pickle nests values more than {MAX_DEPTH} deep; {SAVE_AGAIN}"));
        }
        let pickle = self.pickle;
        let entries = match pickle.node(id) {
            Node::Dict(entries) => entries,
            Node::Object(object) if !object.entries.is_empty() => &object.entries,
            Node::Object(object) if self.is_module(object) => {
                let mut tensors = Vec::new();
                self.module(object, "", 0, &mut { MAX_PARTS }, &mut tensors)?;
                self.note(label, id);
                if self.seen.insert(id) {
                    self.add(path, label, tensors)?;
                }
                return Ok(());
            }
            Node::List(values) | Node::Tuple(values) => {
                if values.is_empty() {
                    self.note(label, id);
                }
                if self.seen.insert(id) {
                    for (index, value) in values.iter().enumerate() {
                        if self.is_leaf(*value) {
                            self.note(label, *value);
                        } else {
                            let path = if path.is_empty() { index.to_string() } else { format!("{path}.{index}") };
                            self.enter(*value, &path, label, depth + 1)?;
                        }
                    }
                }
                return Ok(());
            }
            _ => {
                self.note(label, id);
                return Ok(());
            }
        };
        if entries.is_empty() {
            self.note(label, id);
        }
        if !self.seen.insert(id) {
            return Ok(());
        }
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for pair in entries.chunks_exact(2) {
            let name = pickle.text(pair[0]);
            match name {
                Some(name) if is_tensor(pickle, pair[1]) => {
                    if !names.insert(name) {
                        return Err(format!("{}: there twice", shortened(name)));
                    }
                    tensors.push((Cow::Borrowed(name), view(pickle, pair[1], 0)));
                }
                // An attribute of a state_dict, with the versions of its layers.
                Some("_metadata") => {}
                Some(name) => self.value(pair[1], &shortened(name), path, label, depth)?,
                None => {
                    let key = pickle.int(pair[0]).map_or("?".into(), |key| key.to_string());
                    self.value(pair[1], &key, path, label, depth)?;
                }
            }
        }
        self.add(path, label, tensors)
    }

    fn add(&mut self, path: &str, label: &str, tensors: Tensors<'a>) -> Result<(), String> {
        if tensors.is_empty() {
            return Ok(());
        }
        if self.outline.dictionaries.len() == MAX_DICTIONARIES {
            return Err(format!("it has more than {MAX_DICTIONARIES} dictionaries of tensors; {SAVE_AGAIN}"));
        }
        self.outline.dictionaries.push(Dictionary { path: path.into(), label: label.into(), tensors });
        Ok(())
    }

    /// What an attribute of an object is, if it is a dictionary.
    fn attribute(&self, object: &Object, name: &str) -> Option<&[Id]> {
        let Node::Dict(state) = self.pickle.node(object.state?) else { return None };
        let state = state.get(..2 * MAX_ATTRIBUTES).unwrap_or(state);
        let pair = state.chunks_exact(2).find(|pair| self.pickle.text(pair[0]) == Some(name))?;
        match self.pickle.node(pair[1]) {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// Whether an object is a `torch.nn.Module`, of whatever class.
    fn is_module(&self, object: &Object) -> bool {
        self.attribute(object, "_parameters").is_some() && self.attribute(object, "_modules").is_some()
    }

    /// The tensors of a module and of those in it, named as `state_dict` names them.
    fn module(
        &self,
        object: &Object,
        prefix: &str,
        depth: usize,
        left: &mut usize,
        tensors: &mut Tensors<'a>,
    ) -> Result<(), String> {
        let n = |part| self.attribute(object, part).map_or(0, <[Id]>::len);
        let n_parts = 1 + n("_parameters") + n("_buffers") + n("_modules");
        let too_many = || format!("it has more than {MAX_PARTS} modules and tensors; {SAVE_AGAIN}");
        *left = left.checked_sub(n_parts).ok_or_else(too_many)?;
        if depth > MAX_DEPTH || prefix.len() > MAX_NAME {
            return Err(format!("its modules lie more than {MAX_DEPTH} deep or have endless names; {SAVE_AGAIN}"));
        }
        let named = |entries: Option<&[Id]>| {
            let pairs = entries.unwrap_or_default().chunks_exact(2);
            pairs.filter_map(|pair| Some((self.pickle.text(pair[0])?, pair[1]))).collect::<Vec<_>>()
        };
        for part in ["_parameters", "_buffers"] {
            for (name, id) in named(self.attribute(object, part)) {
                if is_tensor(self.pickle, id) && name.len() <= MAX_NAME {
                    tensors.push((Cow::Owned(format!("{prefix}{name}")), view(self.pickle, id, 0)));
                }
            }
        }
        for (name, id) in named(self.attribute(object, "_modules")) {
            if let Node::Object(inner) = self.pickle.node(id) {
                let name = name.get(..MAX_NAME + 1).unwrap_or(name);
                self.module(inner, &format!("{prefix}{name}."), depth + 1, left, tensors)?;
            }
        }
        Ok(())
    }

    fn is_leaf(&self, id: Id) -> bool {
        !matches!(self.pickle.node(id), Node::Dict(_) | Node::List(_) | Node::Tuple(_) | Node::Object(_))
    }

    fn value(&mut self, id: Id, key: &str, path: &str, label: &str, depth: usize) -> Result<(), String> {
        let join = |path: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        let joined;
        let label = if depth < 2 {
            joined = join(label);
            &joined
        } else {
            label
        };
        if self.is_leaf(id) {
            self.note(label, id);
            return Ok(());
        }
        self.enter(id, &shortened(&join(path)), label, depth + 1)
    }

    fn note(&mut self, label: &str, id: Id) {
        let label = if label.is_empty() { "the whole" } else { label };
        let is_one_more = self.outline.beside.len() >= MAX_BESIDE && !self.outline.beside.contains_key(label);
        let label = if is_one_more { "elsewhere" } else { label };
        match self.outline.beside.get_mut(label) {
            Some((n, what)) => {
                *n += 1;
                if matches!(self.pickle.node(id), Node::Object(_)) && !what.starts_with(OBJECT) {
                    *what = describe(self.pickle, id);
                }
            }
            None => drop(self.outline.beside.insert(label.into(), (1, describe(self.pickle, id)))),
        }
    }
}

/// How the description of an object begins.
pub(super) const OBJECT: &str = "an object of";

/// What a value is, in words.
fn describe(pickle: &Pickle<'_>, id: Id) -> String {
    let global = |id| match pickle.node(id) {
        Node::Global(module, name) => shortened(&format!("{module}.{name}")),
        _ => "unknown".into(),
    };
    match pickle.node(id) {
        Node::Object(_) if is_tensor(pickle, id) => "a tensor".into(),
        Node::Object(object) => format!("{OBJECT} {:?}", global(object.callable)),
        Node::Global(..) => format!("the name {:?}", global(id)),
        Node::Dict(_) => "a dictionary".into(),
        Node::List(_) | Node::Tuple(_) => "a list".into(),
        Node::Text(_) => "a text".into(),
        Node::Int(_) => "a number".into(),
        Node::Persistent(_) => "a storage".into(),
        Node::Bool(_) | Node::Other => "a value".into(),
    }
}

fn is_tensor(pickle: &Pickle<'_>, id: Id) -> bool {
    pickle.call(id).is_some_and(|(module, name, _)| {
        module == "torch._utils"
            && matches!(
                name,
                "_rebuild_tensor"
                    | "_rebuild_tensor_v2"
                    | "_rebuild_tensor_v3"
                    | "_rebuild_parameter"
                    | "_rebuild_parameter_with_state"
            )
            || module == "torch._tensor" && name == "_rebuild_from_type_v2"
    })
}

/// Takes apart a tensor as `torch.save` describes it, with or without a `Parameter` or attributes around it.
fn view<'a>(pickle: &Pickle<'a>, id: Id, depth: usize) -> Result<View<'a>, String> {
    let malformed = || format!("expected a tensor as torch.save describes it; {SAVE_AGAIN}");
    let (_, function, arguments) = pickle.call(id).filter(|_| depth < 4).ok_or_else(malformed)?;
    match (function, arguments) {
        // (tensor, …)
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", [tensor, ..]) => view(pickle, *tensor, depth + 1),
        // (function, class, arguments, attributes)
        ("_rebuild_from_type_v2", [function, _, arguments, ..]) => match pickle.node(*function) {
            Node::Global("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
                rebuilt(pickle, pickle.tuple(*arguments).ok_or_else(malformed)?)
            }
            _ => Err(malformed()),
        },
        ("_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3", arguments) => rebuilt(pickle, arguments),
        _ => Err(malformed()),
    }
}

/// (storage, offset, shape, strides, …), with the storage ("storage", torch.FloatStorage, key, device, elements, …).
fn rebuilt<'a>(pickle: &Pickle<'a>, arguments: &[Id]) -> Result<View<'a>, String> {
    let malformed = || format!("expected a tensor as torch.save describes it; {SAVE_AGAIN}");
    let [storage, offset, shape, strides, more @ ..] = arguments else { return Err(malformed()) };
    let Node::Persistent(storage) = pickle.node(*storage) else { return Err(malformed()) };
    let Some([_, class, key, _, storage_len, part @ ..]) = pickle.tuple(*storage) else { return Err(malformed()) };
    if part.iter().any(|part| !matches!(pickle.node(*part), Node::Other)) {
        return Err(format!("is a part of a storage that PyTorch before 0.4 shared; {SAVE_AGAIN}"));
    }
    let Node::Global(_, class) = pickle.node(*class) else { return Err(malformed()) };
    let dtype = match *class {
        "FloatStorage" => Ok(DType::F32),
        "DoubleStorage" => Ok(DType::F64),
        "HalfStorage" => Ok(DType::F16),
        "BFloat16Storage" => Ok(DType::BF16),
        // The number type of newer tensors is the last argument; its storage is bytes.
        "UntypedStorage" => Err(match more.last().map(|id| pickle.node(*id)) {
            Some(Node::Global("torch", name)) => *name,
            _ => "UntypedStorage",
        }),
        other => Err(other),
    };
    let sizes = |id: Id| {
        let sizes = match pickle.node(id) {
            Node::Tuple(sizes) => sizes.as_slice(),
            _ => match pickle.call(id) {
                Some(("torch", "Size", [sizes])) => pickle.tuple(*sizes).ok_or_else(malformed)?,
                _ => return Err(malformed()),
            },
        };
        if sizes.len() > 16 {
            return Err(format!("has {} axes, expected at most 16", sizes.len()));
        }
        sizes.iter().map(|id| size(pickle, *id)).collect::<Result<Vec<_>, _>>()
    };
    Ok(View {
        storage: pickle.text(*key).ok_or_else(malformed)?,
        storage_len: size(pickle, *storage_len)?,
        dtype,
        offset: size(pickle, *offset)?,
        shape: sizes(*shape)?,
        strides: sizes(*strides)?,
    })
}

fn size(pickle: &Pickle<'_>, id: Id) -> Result<usize, String> {
    let number = pickle.int(id).ok_or_else(|| format!("a size that is no whole number; {SAVE_AGAIN}"))?;
    usize::try_from(number).map_err(|_| format!("a size of {number}, expected at least 0"))
}

impl<'a> View<'a> {
    /// A tensor that is the whole of its storage.
    pub(super) fn whole(storage: &'a str, dtype: Result<DType, &'a str>, shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = shape[axis].saturating_mul(strides[axis]);
        }
        let storage_len = shape.iter().fold(1usize, |n, side| n.saturating_mul(*side));
        Self { storage, storage_len, dtype, offset: 0, shape: shape.to_vec(), strides }
    }

    /// Elements of the tensor, if its window lies within the storage.
    fn checked_len(&self) -> Result<usize, String> {
        let (shape, strides) = (&self.shape, &self.strides);
        if shape.len() != strides.len() {
            return Err(format!("has shape {shape:?} and strides {strides:?}, expected as many of each"));
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
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (side, stride) in self.shape.iter().zip(&self.strides).rev() {
            if *side != 1 && *stride != expected {
                return false;
            }
            expected *= side;
        }
        true
    }

    /// The tensor, of the bytes of its storage.
    fn tensor(&self, storage: &[u8], dtype: DType) -> Result<Tensor, String> {
        let width = dtype.size_in_bytes();
        if Some(storage.len()) != self.storage_len.checked_mul(width) {
            return Err(format!(
                "its storage {:?} has {} bytes, expected {} numbers of {width} bytes; fetch the file again",
                shortened(self.storage),
                storage.len(),
                self.storage_len
            ));
        }
        let len = self.checked_len()?;
        let gathered;
        let data = if len == 0 {
            &[]
        } else if self.is_contiguous() {
            &storage[self.offset * width..(self.offset + len) * width]
        } else {
            gathered = self.gather(storage, width, len);
            &gathered[..]
        };
        Tensor::from_raw_buffer(data, dtype, &self.shape, &Device::Cpu).map_err(|error| error.to_string())
    }

    /// The elements of a transposed or sliced tensor in order, the last index fastest.
    fn gather(&self, storage: &[u8], width: usize, len: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(len * width);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..len {
            data.extend_from_slice(&storage[at * width..(at + 1) * width]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                // Wrapping: the stride of an axis with one element may be anything, and is taken back at once.
                at = at.wrapping_add(self.strides[axis]);
                if index[axis] < self.shape[axis] {
                    break;
                }
                at = at.wrapping_sub(self.shape[axis].wrapping_mul(self.strides[axis]));
                index[axis] = 0;
            }
        }
        data
    }
}

/// A tensor to be read: its new name, its name in the file, its place.
pub(super) type Wanted<'a> = (String, String, View<'a>);

/// Reads tensors under the names that they are to have; `file_len` bounds what they may take.
///
/// # Errors
/// The name in the file and what is wrong.
pub(super) fn load<'a>(
    wanted: Vec<Wanted<'a>>,
    storages: &mut dyn Storages<'a>,
    file_len: usize,
) -> Result<BTreeMap<String, Tensor>, String> {
    let mut by_storage: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    let mut total = 0usize;
    for (new, name, view) in wanted {
        let inform = |what: String| format!("{}: {what}", shortened(&name));
        let dtype = view.dtype.map_err(|other| {
            inform(format!("of type {}, expected float32, float64, float16 or bfloat16", shortened(other)))
        })?;
        let len = view.checked_len().map_err(inform)?;
        total = total.saturating_add(len.saturating_mul(dtype.size_in_bytes()));
        if total > file_len.saturating_mul(SHARED) {
            return Err(inform(format!(
                "with shape {:?} the tensors are more than {SHARED} times as large as the file; an expanded tensor is to be \
                 saved as tensor.clone()",
                view.shape
            )));
        }
        by_storage.entry(view.storage).or_default().push((new, name, view, dtype));
    }
    let mut tensors = BTreeMap::new();
    for (storage, views) in by_storage {
        let data = storages.bytes(storage)?;
        for (new, name, view, dtype) in views {
            let tensor = view.tensor(&data, dtype).map_err(|what| format!("{}: {what}", shortened(&name)))?;
            tensors.insert(new, tensor);
        }
    }
    Ok(tensors)
}
