//! A NIR graph in HDF5, as version 1.0 of the format has it: a group for each node, a dataset for each field, no attributes.
//!
//! ```text
//! /version                      the version of the format
//! /node/type, /node/edges       "NIRGraph"; pairs of names
//! /node/nodes/<name>/type       "Conv2d", …
//! /node/nodes/<name>/<field>    a field of the node
//! /node/metadata/<key>          what the format has no field for
//! ```

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;

use super::graph::{Array, Integration, Metadata, NirGraph, Node, Pair, Precision, Primitive};
use crate::{Error, Result};
use hdf5_reader::group::Group;
use hdf5_reader::{Datatype, Hdf5File, OpenOptions};
use hdf5_writer::{DatasetBuilder, FILTER_DEFLATE, FilterDescription, Hdf5Builder, WriteOptions};

/// The version of the format that Python's `nir` writes.
const VERSION: &str = "1.0.8";

/// Arrays of fewer numbers are not worth a compression.
const MIN_COMPRESSED: usize = 256;

/// Numbers in a chunk of a compressed array, at most, if its first axis can be cut so.
const CHUNK: usize = 1 << 18;

/// The level of gzip: what is compressed is nearly constant, and more gains nothing.
const GZIP_LEVEL: u32 = 4;

/// Bytes that one byte of a file can become: deflate gives no more. What claims more is the fill value of chunks that are not
/// there.
const MAX_EXPANSION: u64 = 1032;

/// Bytes that the arrays of a file may have together, whatever its length.
const MAX_BYTES: u64 = 1 << 32;

/// The bytes of a file.
pub(super) fn encode(graph: &NirGraph, precision: Precision) -> Result<Vec<u8>> {
    let mut file = File { builder: Hdf5Builder::new(), precision };
    file.text("version", VERSION)?;
    file.text("node/type", "NIRGraph")?;
    let names: Vec<&str> =
        graph.edges.iter().flat_map(|&(from, to)| [from, to]).map(|node| graph.nodes[node].name.as_str()).collect();
    file.add(DatasetBuilder::vlen_string_data("node/edges", vec![graph.edges.len() as u64, 2], &names))?;
    let metadata = &graph.metadata;
    for (key, value) in [
        ("generator", metadata.generator.as_str()),
        ("profile", &metadata.profile),
        ("reset", &metadata.reset),
        ("integration", metadata.integration.name()),
        ("absorbed", &metadata.absorbed),
    ] {
        file.text(&format!("node/metadata/{key}"), value)?;
    }
    for (key, value) in [("dt", metadata.dt), ("v_init", metadata.v_init)] {
        file.add(DatasetBuilder::typed_data(format!("node/metadata/{key}"), vec![], &[value]))?;
    }
    file.add(DatasetBuilder::typed_data("node/metadata/timesteps", vec![], &[metadata.timesteps as i64]))?;
    for node in &graph.nodes {
        file.node(node)?;
    }
    let plan = file.builder.into_plan().map_err(refused)?;
    plan.encode(WriteOptions::default()).map_err(refused)
}

fn refused(error: hdf5_writer::Error) -> Error {
    Error::Refused(format!("the network cannot be written as HDF5: {error}"))
}

struct File {
    builder: Hdf5Builder,
    precision: Precision,
}

impl File {
    fn add(&mut self, dataset: std::result::Result<DatasetBuilder, hdf5_writer::Error>) -> Result<()> {
        let dataset = dataset.map_err(refused)?;
        self.builder = std::mem::take(&mut self.builder).dataset(dataset);
        Ok(())
    }

    fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.add(DatasetBuilder::vlen_string_data(path, vec![], &[text]))
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let path = format!("node/nodes/{}", node.name);
        let kind = match &node.primitive {
            Primitive::Input { shape } => {
                self.sizes(&format!("{path}/shape"), shape)?;
                "Input"
            }
            Primitive::Output { shape } => {
                self.sizes(&format!("{path}/shape"), shape)?;
                "Output"
            }
            Primitive::Conv2d { weight, bias, stride, padding, groups, input_shape } => {
                self.arrays(&path, &[("weight", weight), ("bias", bias)])?;
                let one = [1, 1];
                for (field, pair) in
                    [("stride", stride), ("padding", padding), ("input_shape", input_shape), ("dilation", &one)]
                {
                    self.sizes(&format!("{path}/{field}"), pair)?;
                }
                self.add(DatasetBuilder::typed_data(format!("{path}/groups"), vec![], &[*groups as i64]))?;
                "Conv2d"
            }
            Primitive::Affine { weight, bias } => {
                self.arrays(&path, &[("weight", weight), ("bias", bias)])?;
                "Affine"
            }
            Primitive::Scale { scale } => {
                self.arrays(&path, &[("scale", scale)])?;
                "Scale"
            }
            Primitive::If { r, v_threshold, v_reset } => {
                self.arrays(&path, &[("r", r), ("v_threshold", v_threshold), ("v_reset", v_reset)])?;
                "IF"
            }
            Primitive::Lif { tau, r, v_leak, v_threshold, v_reset } => {
                let fields = [("tau", tau), ("r", r), ("v_leak", v_leak), ("v_threshold", v_threshold)];
                self.arrays(&path, &fields)?;
                self.arrays(&path, &[("v_reset", v_reset)])?;
                "LIF"
            }
            Primitive::AvgPool2d { kernel, stride, padding } | Primitive::SumPool2d { kernel, stride, padding } => {
                for (field, pair) in [("kernel_size", kernel), ("stride", stride), ("padding", padding)] {
                    self.sizes(&format!("{path}/{field}"), pair)?;
                }
                if matches!(node.primitive, Primitive::AvgPool2d { .. }) { "AvgPool2d" } else { "SumPool2d" }
            }
            Primitive::Flatten { input } => {
                self.sizes(&format!("{path}/input_type"), input)?;
                for (field, axis) in [("start_dim", 0_i64), ("end_dim", -1)] {
                    self.add(DatasetBuilder::typed_data(format!("{path}/{field}"), vec![], &[axis]))?;
                }
                "Flatten"
            }
        };
        self.text(&format!("{path}/type"), kind)
    }

    fn sizes(&mut self, path: &str, sizes: &[usize]) -> Result<()> {
        let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        self.add(DatasetBuilder::typed_data(path, vec![sizes.len() as u64], &sizes))
    }

    fn arrays(&mut self, path: &str, arrays: &[(&str, &Array)]) -> Result<()> {
        for (field, array) in arrays {
            let path = format!("{path}/{field}");
            let shape: Vec<u64> = array.shape.iter().map(|&n| n as u64).collect();
            let dataset = match self.precision {
                Precision::F32 => {
                    let values: Vec<f32> = array.data.iter().map(|&x| x as f32).collect();
                    check_finite(&path, values.iter().all(|x| x.is_finite()))?;
                    DatasetBuilder::typed_data(path, shape, &values)
                }
                Precision::F64 => {
                    check_finite(&path, array.data.iter().all(|x| x.is_finite()))?;
                    DatasetBuilder::typed_data(path, shape, &array.data)
                }
            };
            self.add(dataset.map(|dataset| compressed(dataset, array)))?;
        }
        Ok(())
    }
}

fn check_finite(path: &str, finite: bool) -> Result<()> {
    if finite {
        return Ok(());
    }
    let field = path.trim_start_matches("node/nodes/").replace('/', ".");
    Err(Error::NonFinite(format!(
        "{field} holds a value that is not finite in the file's type; train or convert the network again"
    )))
}

/// Compresses what is nearly constant: the parameters of neurons, one number for each unit, and diagonal kernels.
fn compressed(dataset: DatasetBuilder, array: &Array) -> DatasetBuilder {
    let (len, first) = (array.data.len(), array.data.first().copied().unwrap_or(0.));
    let dull = array.data.iter().filter(|&&x| x == first || x == 0.).count();
    if len < MIN_COMPRESSED || dull * 2 < len {
        return dataset;
    }
    let mut chunk: Vec<u64> = array.shape.iter().map(|&n| n as u64).collect();
    chunk[0] = ((CHUNK / (len / array.shape[0])).max(1) as u64).min(chunk[0]);
    dataset.chunked(chunk).filter(FilterDescription { id: FILTER_DEFLATE, name: None, client_data: vec![GZIP_LEVEL] })
}

/// The graph in the bytes of a file; `origin` is what errors call it.
pub(super) fn decode(origin: &Path, bytes: &[u8]) -> Result<NirGraph> {
    let bad = |what: String| Error::File { path: origin.to_path_buf(), what };
    let limit = (bytes.len() as u64).saturating_mul(MAX_EXPANSION).min(MAX_BYTES);
    let budget = Cell::new(limit);
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let options = OpenOptions::default().with_max_read_bytes(most).with_max_chunk_bytes(most);
    let file = Hdf5File::from_bytes_with_options(bytes, options)
        .map_err(|error| bad(format!("expected a NIR file (HDF5), got something else ({error}); export it again")))?;
    let reader = |path: &str| -> Result<Reader<'_>> {
        let group =
            file.group(path).map_err(|error| bad(format!("the group {path} is missing or damaged ({error})")))?;
        Ok(Reader { origin, budget: &budget, path: path.to_string(), group })
    };
    let root = reader("node")?;
    let kind = root.text("type")?;
    if kind != "NIRGraph" {
        return Err(root.error("type", &format!("expected NIRGraph, got {kind}")));
    }
    let mut nodes = Vec::new();
    let mut numbers = HashMap::new();
    let groups = reader("node/nodes")?.group.groups();
    for group in groups.map_err(|error| bad(format!("the nodes cannot be listed ({error})")))? {
        let name = group.name().to_string();
        let reader = Reader { origin, budget: &budget, path: format!("node/nodes/{name}"), group };
        numbers.insert(name.clone(), nodes.len());
        nodes.push(Node { name, primitive: reader.primitive()? });
    }
    let mut edges = Vec::new();
    for edge in root.texts("edges")?.chunks(2) {
        let number = |name: &String| {
            let missing = || root.error("edges", &format!("an edge names the node {name}, which is not there"));
            numbers.get(name).copied().ok_or_else(missing)
        };
        let [from, to] = edge else { return Err(root.error("edges", "expected pairs of names")) };
        edges.push((number(from)?, number(to)?));
    }
    Ok(NirGraph { nodes, edges, metadata: reader("node/metadata")?.metadata()? })
}

/// A group, and what errors call it.
struct Reader<'a> {
    origin: &'a Path,
    /// Bytes that may still be read.
    budget: &'a Cell<u64>,
    path: String,
    group: Group,
}

impl Reader<'_> {
    fn error(&self, field: &str, what: &str) -> Error {
        Error::File {
            path: self.origin.to_path_buf(),
            what: format!("{}/{field}: {what}; export the network again", self.path),
        }
    }

    /// A data set whose size the file can have.
    fn dataset(&self, field: &str) -> Result<hdf5_reader::Dataset> {
        let damaged = |error| self.error(field, &format!("missing or damaged ({error})"));
        let dataset = self.group.dataset(field).map_err(damaged)?;
        let size = dataset.raw_element_size().map_err(damaged)? as u64;
        // An array here is of numbers of 8 bytes, whatever the file's are.
        let claimed = dataset.num_elements().map_err(damaged)?.saturating_mul(size.max(8));
        let left = self.budget.get().checked_sub(claimed).ok_or_else(|| {
            self.error(
                field,
                &format!(
                    "it claims {claimed} bytes, more than a file of this length and what stands before leave ({})",
                    self.budget.get()
                ),
            )
        })?;
        self.budget.set(left);
        Ok(dataset)
    }

    fn texts(&self, field: &str) -> Result<Vec<String>> {
        self.dataset(field)?.read_strings().map_err(|error| self.error(field, &format!("expected text ({error})")))
    }

    fn text(&self, field: &str) -> Result<String> {
        match &mut self.texts(field)?[..] {
            [text] => Ok(std::mem::take(text)),
            texts => Err(self.error(field, &format!("expected one text, got {}", texts.len()))),
        }
    }

    fn array(&self, field: &str) -> Result<Array> {
        let dataset = self.dataset(field)?;
        let wrong = |error: hdf5_reader::error::Error| self.error(field, &format!("expected numbers ({error})"));
        let data: Vec<f64> = match dataset.dtype() {
            Datatype::FloatingPoint { size: 4, .. } => {
                dataset.read_array::<f32>().map_err(wrong)?.iter().map(|&x| f64::from(x)).collect()
            }
            Datatype::FixedPoint { signed: true, size: 4, .. } => {
                dataset.read_array::<i32>().map_err(wrong)?.iter().map(|&x| f64::from(x)).collect()
            }
            // Sizes and axes: no number there comes near to what f64 cannot hold.
            Datatype::FixedPoint { .. } => {
                dataset.read_array::<i64>().map_err(wrong)?.iter().map(|&x| x as f64).collect()
            }
            _ => dataset.read_array::<f64>().map_err(wrong)?.iter().copied().collect(),
        };
        let shape: Vec<usize> = dataset.shape().iter().map(|&n| n as usize).collect();
        if shape.iter().try_fold(1_usize, |n, &side| n.checked_mul(side)) != Some(data.len()) {
            return Err(self.error(field, &format!("expected numbers of shape {shape:?}, got {}", data.len())));
        }
        Ok(Array { shape, data })
    }

    fn number(&self, field: &str) -> Result<f64> {
        match self.array(field)?.data[..] {
            [number] => Ok(number),
            ref numbers => Err(self.error(field, &format!("expected one number, got {}", numbers.len()))),
        }
    }

    fn sizes(&self, field: &str) -> Result<Vec<usize>> {
        let size = |&x: &f64| {
            let fits = x.fract() == 0. && (0. ..=f64::from(u32::MAX)).contains(&x);
            if fits { Ok(x as usize) } else { Err(self.error(field, &format!("expected a size, got {x}"))) }
        };
        self.array(field)?.data.iter().map(size).collect()
    }

    fn pair(&self, field: &str) -> Result<Pair> {
        let sizes = self.sizes(field)?;
        sizes.try_into().map_err(|sizes| self.error(field, &format!("expected two sizes, got {sizes:?}")))
    }

    fn primitive(&self) -> Result<Primitive> {
        Ok(match self.text("type")?.as_str() {
            "Input" => Primitive::Input { shape: self.sizes("shape")? },
            "Output" => Primitive::Output { shape: self.sizes("shape")? },
            "Conv2d" => {
                if self.pair("dilation")? != [1, 1] {
                    return Err(self.error("dilation", "expected a convolution without dilation"));
                }
                let groups = match self.sizes("groups")?[..] {
                    [groups] if groups > 0 => groups,
                    _ => return Err(self.error("groups", "expected a whole number of at least 1")),
                };
                Primitive::Conv2d {
                    weight: self.array("weight")?,
                    bias: self.array("bias")?,
                    stride: self.pair("stride")?,
                    padding: self.pair("padding")?,
                    groups,
                    input_shape: self.pair("input_shape")?,
                }
            }
            "Affine" => Primitive::Affine { weight: self.array("weight")?, bias: self.array("bias")? },
            "Scale" => Primitive::Scale { scale: self.array("scale")? },
            "IF" => Primitive::If {
                r: self.array("r")?,
                v_threshold: self.array("v_threshold")?,
                v_reset: self.array("v_reset")?,
            },
            "LIF" => Primitive::Lif {
                tau: self.array("tau")?,
                r: self.array("r")?,
                v_leak: self.array("v_leak")?,
                v_threshold: self.array("v_threshold")?,
                v_reset: self.array("v_reset")?,
            },
            kind @ ("AvgPool2d" | "SumPool2d") => {
                let (kernel, stride, padding) =
                    (self.pair("kernel_size")?, self.pair("stride")?, self.pair("padding")?);
                if kind == "AvgPool2d" {
                    Primitive::AvgPool2d { kernel, stride, padding }
                } else {
                    Primitive::SumPool2d { kernel, stride, padding }
                }
            }
            "Flatten" => {
                if self.number("start_dim")? != 0. || self.number("end_dim")? != -1. {
                    return Err(self.error("start_dim", "expected all axes, 0 to -1"));
                }
                Primitive::Flatten { input: self.sizes("input_type")? }
            }
            other => {
                return Err(
                    self.error("type", &format!("{other} is a node that the networks of this program do not have"))
                );
            }
        })
    }

    fn metadata(&self) -> Result<Metadata> {
        let integration = self.text("integration")?;
        let known = Integration::ALL.iter().find(|(name, _)| *name == integration);
        let Some(&(_, integration)) = known else {
            return Err(self.error("integration", &format!("expected euler or exponential, got {integration}")));
        };
        let timesteps = self.number("timesteps")?;
        if timesteps.fract() != 0. || !(1. ..=f64::from(u16::MAX)).contains(&timesteps) {
            return Err(
                self.error("timesteps", &format!("expected a whole number in 1..={}, got {timesteps}", u16::MAX))
            );
        }
        Ok(Metadata {
            generator: self.text("generator")?,
            profile: self.text("profile")?,
            reset: self.text("reset")?,
            integration,
            absorbed: self.text("absorbed")?,
            dt: self.number("dt")?,
            timesteps: timesteps as usize,
            v_init: self.number("v_init")?,
        })
    }
}
