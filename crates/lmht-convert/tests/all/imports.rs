//! Checkpoints in every shape that people have: what stands beside the weights, wrappers, shards, the old format, foreign
//! names, other classes. Each test makes its files, from the instructions of pickles up.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lmht_convert::checkpoint::{self, Format, ImportOptions, Layout};
use lmht_convert::{Model, Result};
use lmht_nn::{Backbone, ModelConfig, Network, NeuronConfig, ParamStore, Stem};

use crate::archive::{archive, entry};
use crate::support::{assert_refused, bytes, model, small, values};

/// What `torch.save` writes, byte by byte: values as pickle instructions, and the storages that they speak of.
#[derive(Default)]
struct Python {
    storages: Vec<Vec<u8>>,
}

fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn int(number: usize) -> Vec<u8> {
    [b"J", (number as i32).to_le_bytes().as_slice()].concat()
}

fn tuple(values: &[Vec<u8>]) -> Vec<u8> {
    [b"(", values.concat().as_slice(), b"t"].concat()
}

fn dict(entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    let entries: Vec<u8> = entries.into_iter().flat_map(|(key, value)| [key, value].concat()).collect();
    [b"}(", entries.as_slice(), b"u"].concat()
}

fn named(entries: impl IntoIterator<Item = (impl AsRef<str>, Vec<u8>)>) -> Vec<u8> {
    dict(entries.into_iter().map(|(name, value)| (text(name.as_ref()), value)))
}

fn call(function: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    let (module, name) = function.rsplit_once('.').expect("a module");
    [format!("c{module}\n{name}\n").into_bytes(), tuple(arguments), b"R".to_vec()].concat()
}

/// `call` and then attributes.
fn build(function: &str, arguments: &[Vec<u8>], state: Vec<u8>) -> Vec<u8> {
    [call(function, arguments), state, b"b".to_vec()].concat()
}

impl Python {
    fn storage(&mut self, class: &str, n: usize, data: Vec<u8>) -> Vec<u8> {
        let key = text(&self.storages.len().to_string());
        self.storages.push(data);
        let class = format!("ctorch\n{class}\n").into_bytes();
        [tuple(&[text("storage"), class, key, text("cpu"), int(n), b"N".to_vec()]), b"Q".to_vec()].concat()
    }

    fn arguments(&mut self, tensor: &Tensor) -> Vec<Vec<u8>> {
        let (class, data) = match tensor.dtype() {
            DType::F64 => ("DoubleStorage", le(&values(tensor), |x| x.to_le_bytes().to_vec())),
            DType::I64 => {
                let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<i64>()).expect("whole numbers");
                ("LongStorage", values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            _ => ("FloatStorage", le(&values(tensor), |x| (*x as f32).to_le_bytes().to_vec())),
        };
        let n = tensor.elem_count();
        let sizes = |sizes: &[usize]| tuple(&sizes.iter().map(|size| int(*size)).collect::<Vec<_>>());
        let (shape, strides) = (sizes(tensor.dims()), sizes(tensor.contiguous().expect("a copy").stride()));
        vec![
            self.storage(class, n, data),
            int(0),
            shape,
            strides,
            b"\x89".to_vec(),
            call("collections.OrderedDict", &[]),
        ]
    }

    fn tensor(&mut self, tensor: &Tensor) -> Vec<u8> {
        let arguments = self.arguments(tensor);
        call("torch._utils._rebuild_tensor_v2", &arguments)
    }

    fn state(&mut self, model: &Model, name: impl Fn(&str) -> String) -> Vec<(String, Vec<u8>)> {
        sorted(model).into_iter().map(|(own, tensor)| (name(own), self.tensor(tensor))).collect()
    }

    /// The file as PyTorch writes it today.
    fn save(&self, object: &[u8]) -> Vec<u8> {
        let pickle = [b"\x80\x02", object, b"."].concat();
        let names: Vec<_> = (0..self.storages.len()).map(|key| format!("a/data/{key}")).collect();
        let storages = names.iter().zip(&self.storages).map(|(name, data)| entry(name, data));
        archive(&[entry("a/data.pkl", &pickle)].into_iter().chain(storages).collect::<Vec<_>>())
    }

    /// A file of a `state_dict` alone.
    fn save_state(&mut self, model: &Model, name: impl Fn(&str) -> String) -> Vec<u8> {
        let state = named(self.state(model, name));
        self.save(&state)
    }

    /// The file as PyTorch wrote it before 1.6.
    fn save_legacy(&self, object: &[u8], width: usize, little_endian: bool) -> Vec<u8> {
        let pickle = |object: &[u8]| [b"\x80\x02", object, b"."].concat();
        let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
        let machine = named([
            ("protocol_version", b"M\xe9\x03".to_vec()),
            ("little_endian", if little_endian { b"\x88".to_vec() } else { b"\x89".to_vec() }),
        ]);
        let keys: Vec<u8> = (0..self.storages.len()).flat_map(|key| text(&key.to_string())).collect();
        let keys = [b"](", keys.as_slice(), b"e"].concat();
        let mut file = [pickle(magic), pickle(b"M\xe9\x03"), pickle(&machine), pickle(object), pickle(&keys)].concat();
        for storage in &self.storages {
            file.extend((storage.len() as u64 / width as u64).to_le_bytes());
            file.extend(storage);
        }
        file
    }
}

fn le(values: &[f64], bytes: impl Fn(&f64) -> Vec<u8>) -> Vec<u8> {
    values.iter().flat_map(bytes).collect()
}

fn sorted(model: &Model) -> BTreeMap<&str, &Tensor> {
    model.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

fn config() -> ModelConfig {
    small(Backbone::Resnet20)
}

fn same(name: &str) -> String {
    name.into()
}

fn import(bytes: &[u8], config: &ModelConfig, options: &ImportOptions) -> Result<(Model, Vec<String>)> {
    let checkpoint = checkpoint::parse_for("theirs.pth", bytes, config, options)?;
    let notes = checkpoint.notes.clone();
    Ok((checkpoint.into_model(config)?, notes))
}

/// Reads `bytes` without options, compares with `expected`, and returns the notes.
#[track_caller]
fn assert_read(file: &[u8], config: &ModelConfig, expected: &Model) -> Vec<String> {
    let (read, notes) = import(file, config, &ImportOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    assert!(bytes(&read) == bytes(expected), "other weights");
    notes
}

fn key(key: &str) -> ImportOptions {
    ImportOptions { key: Some(key.into()), ..ImportOptions::default() }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect()
}

/// Everything that training scripts were seen to save with the weights.
#[test]
fn what_stands_beside_the_weights_is_listed_and_left_alone() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let network = named(python.state(&expected, same));
    let short = |text: &str| [b"\x8c", [text.len() as u8].as_slice(), text.as_bytes()].concat();
    let global = |module: &str, name: &str| [short(module), short(name), b"\x93".to_vec()].concat();
    let momentum: Vec<_> = (0..70)
        .map(|i| {
            (int(i), named([("momentum_buffer", python.tensor(&Tensor::ones(3, DType::F32, &Device::Cpu).unwrap()))]))
        })
        .collect();
    let groups = [
        b"](".to_vec(),
        named([("lr", b"G?\xb9\x99\x99\x99\x99\x99\x9a".to_vec()), ("params", int(0))]),
        b"e".to_vec(),
    ];
    let optimizer = named([("state", dict(momentum)), ("param_groups", groups.concat())]);
    let dtype = build("numpy.dtype", &[text("f8"), b"\x89".to_vec(), b"\x88".to_vec()], tuple(&[int(3), text("<")]));
    let values: Vec<(&str, Vec<u8>)> = vec![
        ("Counter", call("collections.Counter", &[dict([(int(30), int(1))])])),
        ("OrderedDict_attributes", build("collections.OrderedDict", &[], named([("x", int(1))]))),
        ("argparse", [b"cargparse\nNamespace\n)\x81".to_vec(), named([("lr", int(1))]), b"b".to_vec()].concat()),
        ("buffers", b"\x97\x98".to_vec()),
        ("bytearray8", b"\x96\x03\0\0\0\0\0\0\0abc".to_vec()),
        ("bytes", b"C\x03abc".to_vec()),
        ("bytes4", b"B\x03\0\0\0abc".to_vec()),
        ("bytes8", b"\x8e\x03\0\0\0\0\0\0\0abc".to_vec()),
        (
            "defaultdict",
            [call("collections.defaultdict", &[b"cbuiltins\nlist\n".to_vec()]), text("a"), int(1), b"s".to_vec()]
                .concat(),
        ),
        ("device", call("torch.device", &[text("cuda"), int(0)])),
        ("dtype", b"ctorch\nfloat16\n".to_vec()),
        ("enum", call("mine.Kind", &[int(1)])),
        ("ext1", b"\x82\x01".to_vec()),
        ("ext2", b"\x83\x01\x02".to_vec()),
        ("ext4", b"\x84\x01\x02\x03\x04)R".to_vec()),
        ("frozenset", [b"(".to_vec(), int(1), int(2), b"\x91\x94".to_vec()].concat()),
        ("inst", b"(I1\nimine\nOld\n".to_vec()),
        ("long", b"\x8b\x0a\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a".to_vec()),
        ("namedtuple", [global("mine", "Point"), int(1), int(2), b"\x86\x81".to_vec()].concat()),
        ("newobj_ex", [global("mine", "Thing"), b")}\x92".to_vec()].concat()),
        (
            "numpy_array",
            call(
                "numpy.core.multiarray._reconstruct",
                &[b"cnumpy\nndarray\n".to_vec(), tuple(&[int(0)]), b"C\x01b".to_vec()],
            ),
        ),
        ("numpy_scalar", call("numpy.core.multiarray.scalar", &[dtype, b"C\x08\0\0\0\0\0\0\0\0".to_vec()])),
        ("obj", b"(cmine\nOld\nI1\no".to_vec()),
        ("path", call("pathlib.PosixPath", &[text("a"), text("b")])),
        ("protocol0", b"(lp7\nF1.5\naL12L\naS'a'\naVb\na".to_vec()),
        ("pop", b"NK\x010(NN12\x86".to_vec()),
        ("set", [b"\x8f(".to_vec(), int(1), b"\x90".to_vec()].concat()),
        ("size", call("torch.Size", &[tuple(&[int(1), int(2)])])),
        ("unknown", build("mine.Trainer", &[], named([("model", int(1))]))),
    ];
    for (name, value) in &values {
        // A frame and a number of the protocol may stand in front of any instruction.
        let value = [b"\x95\0\0\0\0\0\0\0\0".as_slice(), value].concat();
        let file = python.save(&named([("epoch", int(3)), ("net", network.clone()), (*name, value)]));
        let notes = assert_read(&file, &config, &expected);
        assert!(notes.iter().any(|note| note.starts_with("passed over:") && note.contains(*name)), "{name}: {notes:?}");
    }
    let all = named([("net", network), ("optimizer", optimizer)].into_iter().chain(values));
    let notes = assert_read(&python.save(&all), &config, &expected);
    assert!(notes.iter().all(|note| note.len() < 2000), "{notes:?}");
    let (read, notes) = import(&python.save(&all), &config, &key("net")).unwrap();
    assert_eq!(bytes(&read), bytes(&expected), "{notes:?}");
}

#[test]
fn the_optimizer_is_one_line() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let network = named(python.state(&expected, same));
    let one = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
    let state = (0..70).map(|i| (int(i), named([("momentum_buffer", python.tensor(&one))]))).collect::<Vec<_>>();
    let file = python.save(&named([("net", network), ("optimizer", named([("state", dict(state))]))]));
    let notes = assert_read(&file, &config, &expected);
    assert_eq!(notes, ["read the network under \"net\"", "passed over: optimizer.state (70 tensors)"]);
}

#[test]
fn names_of_a_file_move_no_terminal() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let mut state = python.state(&expected, same);
    state.push(("\x1b[2Jgone".into(), python.tensor(&Tensor::ones(1, DType::F32, &Device::Cpu).unwrap())));
    state.push(("\x1b[31mkey\n".into(), call("mine.\x1b", &[])));
    let notes = assert_read(&python.save(&named(state)), &config, &expected);
    assert!(notes[0].contains("gone") && notes[0].contains("key"), "{notes:?}");
    assert!(!notes[0].contains(|c: char| c.is_control()), "{notes:?}");
}

/// Each wrapper alone, on some names, and several at once.
#[test]
fn wrappers_come_off_wherever_they_stand() {
    let config = config();
    let expected = model(&config, DType::F32);
    let inner = |name: &str| name.replacen("conv2_x.", "conv2_x._orig_mod.", 1);
    let cases: [&dyn Fn(&str) -> String; 9] = [
        &|name| format!("module.{name}"),
        &|name| format!("_orig_mod.{name}"),
        &|name| format!("model.{name}"),
        &|name| format!("net.{name}"),
        &|name| format!("ema.{name}"),
        &|name| format!("shadow.module.{name}"),
        &|name| format!("model._orig_mod.module.{name}"),
        &inner,
        &|name| if name.starts_with("fc") { name.into() } else { format!("module.{}", inner(name)) },
    ];
    for names in cases {
        let mut python = Python::default();
        let mut state = python.state(&expected, names);
        state.push(("n_averaged".into(), python.tensor(&Tensor::new(7i64, &Device::Cpu).unwrap())));
        let notes = assert_read(&python.save(&named(state)), &config, &expected);
        assert!(notes.iter().any(|note| note.contains("names changed")), "{notes:?}");
        assert!(notes.iter().any(|note| note == "passed over: n_averaged (of type LongStorage)"), "{notes:?}");
    }
}

/// A file with the network and its moving average under prefixes, or in two dictionaries.
#[test]
fn two_networks_are_refused_until_one_is_named() {
    let config = config();
    let (first, mut second) = (model(&config, DType::F32), model(&config, DType::F32));
    let zeros = second.tensors["fc.bias"].zeros_like().unwrap();
    second.tensors.insert("fc.bias".into(), zeros);
    let mut python = Python::default();
    let both: Vec<_> = python
        .state(&first, |name| format!("model.{name}"))
        .into_iter()
        .chain(python.state(&second, |name| format!("ema.{name}")))
        .collect();
    let file = python.save(&named(both));
    assert_refused(
        import(&file, &config, &ImportOptions::default()),
        &["theirs.pth: ", "would both be", "--drop", "--key"],
    );
    for (options, expected) in [
        (key("model"), &first),
        (key("ema"), &second),
        (ImportOptions { drop: vec!["ema".into()], ..ImportOptions::default() }, &first),
    ] {
        assert_eq!(bytes(&import(&file, &config, &options).unwrap().0), bytes(expected));
    }

    let mut python = Python::default();
    let (net, ema) = (named(python.state(&first, same)), named(python.state(&second, same)));
    let file = python.save(&named([("state", named([("net", net), ("average", ema)]))]));
    let n = first.tensors.len();
    let count = format!("\"state.net\" ({n} of {n})");
    assert_refused(
        import(&file, &config, &ImportOptions::default()),
        &["several", &count, "\"state.average\"", "--key"],
    );
    assert_eq!(bytes(&import(&file, &config, &key("state.average")).unwrap().0), bytes(&second));
    assert_refused(import(&file, &config, &key("states")), &["\"states\"", "state.average"]);
    let unused = ImportOptions { drop: vec!["aux".into()], ..ImportOptions::default() };
    assert_refused(import(&file, &config, &unused), &["\"aux\"", "up to a dot"]);

    // Fewer names of the network lose: an average without running statistics.
    let mut python = Python::default();
    let net = named(python.state(&first, same));
    let few = python.state(&second, same).into_iter().filter(|(name, _)| !name.contains("running"));
    let few = named(few.collect::<Vec<_>>());
    let notes = assert_read(&python.save(&named([("shadow", few), ("net", net)])), &config, &first);
    assert!(notes.iter().any(|note| note.contains("shadow (")), "{notes:?}");
}

/// No name of the network anywhere: the dictionaries are listed.
#[test]
fn a_file_of_other_names_is_refused_with_what_it_has() {
    let mut python = Python::default();
    let one = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
    let (a, b) = (named([("w", python.tensor(&one))]), named([("x", python.tensor(&one)), ("y", python.tensor(&one))]));
    let file = python.save(&named([("a", a), ("b", b)]));
    let options = ImportOptions::default();
    assert_refused(
        import(&file, &config(), &options),
        &["none of its dictionaries", "\"b\" (0 of 2), \"a\" (0 of 1)", "--rename"],
    );
}

/// thop's counters, whole numbers, a loss's weights; and what is of another network instead.
#[test]
fn what_is_no_tensor_of_the_network_is_left_alone() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let double = Tensor::new(&[1f64], &Device::Cpu).unwrap();
    let mut state = python.state(&expected, same);
    state.push(("total_ops".into(), python.tensor(&double)));
    state.push(("conv2_x.0.total_params".into(), python.tensor(&double)));
    state.push(("idx".into(), python.tensor(&Tensor::new(&[1i64, 2], &Device::Cpu).unwrap())));
    state.push(("criterion.weight".into(), python.tensor(&double)));
    state.push(("conv1.1.num_batches_tracked".into(), python.tensor(&Tensor::new(1i64, &Device::Cpu).unwrap())));
    let notes = assert_read(&python.save(&named(state.clone())), &config, &expected);
    assert_eq!(
        notes,
        [
            "passed over: idx (of type LongStorage), total_ops, conv2_x.0.total_params, criterion.weight",
            "dropped 1 counters num_batches_tracked, which change nothing"
        ]
    );
    for i in 0..30 {
        state.push((format!("conv{i}.total_ops"), python.tensor(&double)));
    }
    let notes = assert_read(&python.save(&named(state.clone())), &config, &expected);
    assert!(notes[0].contains("total_ops and the like (31 tensors *.total_ops)"), "{notes:?}");
    state.push(("conv2_x.3.residual_function.0.weight".into(), python.tensor(&double)));
    let options = ImportOptions::default();
    assert_refused(import(&python.save(&named(state)), &config, &options), &["conv2_x.3.residual_function.0.weight"]);
}

/// Parameters with and without attributes, tensors with attributes, tensors of the oldest kind.
#[test]
fn tensors_in_every_wrapping_are_read() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let hooks = call("collections.OrderedDict", &[]);
    let mut state = Vec::new();
    for (i, (name, tensor)) in sorted(&expected).into_iter().enumerate() {
        let mut arguments = python.arguments(tensor);
        let plain = call("torch._utils._rebuild_tensor_v2", &arguments);
        let attributes = named([("no_decay", b"\x88".to_vec())]);
        state.push((
            name,
            match i % 6 {
                0 => call("torch._utils._rebuild_parameter", &[plain, b"\x88".to_vec(), hooks.clone()]),
                1 => call(
                    "torch._utils._rebuild_parameter_with_state",
                    &[plain, b"\x88".to_vec(), hooks.clone(), attributes],
                ),
                2 => call(
                    "torch._tensor._rebuild_from_type_v2",
                    &[
                        b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
                        b"ctorch\nTensor\n".to_vec(),
                        tuple(&arguments),
                        attributes,
                    ],
                ),
                3 => {
                    arguments.truncate(4);
                    call("torch._utils._rebuild_tensor", &arguments)
                }
                4 => {
                    arguments[2] = call("torch.Size", &[arguments[2].clone()]);
                    call("torch._utils._rebuild_tensor_v2", &arguments)
                }
                _ => plain,
            },
        ));
    }
    assert_read(&python.save(&named(state)), &config, &expected);
}

/// A whole network as an object: its tensors, without making it.
#[test]
fn modules_are_read_by_what_they_hold() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    // Parameters and modules by the part of the name before the next dot.
    fn module(tensors: Vec<(Vec<&str>, Vec<u8>)>) -> Vec<u8> {
        let (mut own, mut inner) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for (parts, tensor) in tensors {
            match parts.as_slice() {
                [name] => own.push((name.to_string(), tensor)),
                [first, rest @ ..] => inner.entry(first.to_string()).or_default().push((rest.to_vec(), tensor)),
                [] => unreachable!("a name has parts"),
            }
        }
        let inner = named(inner.into_iter().map(|(name, tensors)| (name, module(tensors))));
        let half = own.split_off(own.len() / 2);
        let state = named([
            ("training", b"\x88".to_vec()),
            ("_parameters", named(own)),
            ("_buffers", named(half)),
            ("_modules", inner),
        ]);
        [b"cmine\nNet\n)\x81".to_vec(), state, b"b".to_vec()].concat()
    }
    let tensors =
        sorted(&expected).into_iter().map(|(name, x)| (name.split('.').collect(), python.tensor(x))).collect();
    let network = module(tensors);
    let notes = assert_read(&python.save(&network), &config, &expected);
    assert_eq!(notes, ["passed over: the whole (an object of \"mine.Net\")"]);
    let notes = assert_read(&python.save(&named([("epoch", int(1)), ("ema", network)])), &config, &expected);
    assert_eq!(notes[0], "read the network under \"ema\"");
    // A module in itself, and modules that double with each step down.
    let head = b"\x80\x02".to_vec();
    let open = b"cmine\nNet\n)\x81q\x00}(X\x0b\0\0\0_parameters}X\x08\0\0\0_modules}(X\x01\0\0\0a".to_vec();
    let circle = [head.clone(), open.clone(), b"h\x00uub.".to_vec()].concat();
    let mut doubling = b"Nq\x000".to_vec();
    for _ in 0..30 {
        doubling
            .extend([open[..12].to_vec(), open[14..].to_vec(), b"h\x00X\x01\0\0\0bh\x00uubq\x000".to_vec()].concat());
    }
    let doubling = [head, doubling, b"h\x00.".to_vec()].concat();
    for (pickle, part) in [(circle, "32 deep"), (doubling, "modules and tensors")] {
        let file = archive(&[entry("a/data.pkl", &pickle)]);
        assert_refused(import(&file, &config, &ImportOptions::default()), &["theirs.pth: ", part]);
    }
}

/// A dictionary as Python 2 pickled it, of texts that may be bytes.
#[test]
fn python_2_is_read() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let old = |name: &str| [b"U", [name.len() as u8].as_slice(), name.as_bytes()].concat();
    let pairs = sorted(&expected).into_iter().map(|(name, tensor)| tuple(&[old(name), python.tensor(tensor)]));
    let pairs = [b"](".to_vec(), pairs.collect::<Vec<_>>().concat(), b"e".to_vec()].concat();
    let object = call("collections.OrderedDict", &[pairs]);
    assert_read(&python.save(&object), &config, &expected);
    assert_read(&python.save_legacy(&object, 4, true), &config, &expected);
}

#[test]
fn the_format_before_1_6_is_read() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let state = named(python.state(&expected, |name| format!("module.{name}")));
    let file = python.save_legacy(&named([("epoch", int(1)), ("net", state.clone())]), 4, true);
    assert_eq!(checkpoint::parse("theirs.pth", &file).unwrap().format, Format::Legacy);
    assert_read(&file, &config, &expected);
    let options = ImportOptions::default();
    for part in 0..64 {
        assert_refused(import(&file[..file.len() * part / 64], &config, &options), &["theirs.pth: "]);
    }
    let last = python.storages.last().unwrap().len();
    let mut huge = file.clone();
    let at = huge.len() - last - 8;
    huge[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_refused(import(&huge, &config, &options), &["in the middle of the storage", "fetch it again"]);
    huge[at..at + 8].copy_from_slice(&(1u64 << 61).to_le_bytes());
    assert_refused(import(&huge, &config, &options), &["in the middle of the storage"]);
    assert_refused(import(&python.save_legacy(&state, 4, false), &config, &options), &["not little-endian"]);
}

fn shard(path: &Path, tensors: &[(&str, &Tensor)]) {
    let tensors: BTreeMap<_, _> = tensors.iter().map(|(name, tensor)| (*name, (*tensor).clone())).collect();
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn shards_and_folders_are_read_and_their_damage_is_named() {
    let config = config();
    let expected = model(&config, DType::F32);
    let all: Vec<_> = sorted(&expected).into_iter().collect();
    let (left, right) = all.split_at(all.len() / 2);
    let options = ImportOptions::default();
    let read = |path: &Path| checkpoint::read_for(path, &config, &options)?.into_model(&config);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert_refused(read(folder.path()), &["expected a file", "or a folder with one"]);

    shard(&path("a.safetensors"), left);
    shard(&path("b.safetensors"), right);
    assert_refused(read(folder.path()), &["several checkpoints", "a.safetensors, b.safetensors"]);
    let index = |place: &dyn Fn(&str) -> String| {
        let map: serde_json::Map<_, _> = all.iter().map(|(name, _)| (name.to_string(), place(name).into())).collect();
        let json = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        std::fs::write(path("model.safetensors.index.json"), json.to_string()).unwrap();
    };
    let is_left = |name: &str| left.iter().any(|(own, _)| *own == name);
    let good = |name: &str| String::from(if is_left(name) { "a.safetensors" } else { "b.safetensors" });
    index(&good);
    for place in [folder.path().to_path_buf(), path("model.safetensors.index.json")] {
        assert_eq!(bytes(&read(&place).unwrap()), bytes(&expected));
    }
    let renamed =
        |to: &'static str| move |name: &str| if is_left(name) { to.to_string() } else { "b.safetensors".into() };
    index(&renamed("c.safetensors"));
    assert_refused(read(folder.path()), &["index.json", "\"c.safetensors\" cannot be read", "fetch all shards"]);
    for leads_out in ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\b"] {
        index(&renamed(leads_out));
        assert_refused(read(folder.path()), &["index.json", "not in the folder"]);
    }
    index(&|_| "a.safetensors".into());
    assert_refused(read(folder.path()), &["is not in \"a.safetensors\", where the index says"]);
    index(&good);
    shard(&path("b.safetensors"), &all[left.len() - 1..]);
    assert_refused(read(folder.path()), &[left[left.len() - 1].0, "is in two shards"]);
    shard(&path("b.safetensors"), &[right, &[("more", right[0].1)]].concat());
    assert_refused(read(folder.path()), &["more is in \"b.safetensors\", which the index does not say"]);
    std::fs::write(path("b.safetensors"), b"{}").unwrap();
    assert_refused(read(folder.path()), &["b.safetensors", "safetensors"]);
    for json in ["", "{}", "{\"weight_map\": 1}", "{\"weight_map\": {\"a\": 1}}"] {
        std::fs::write(path("model.safetensors.index.json"), json).unwrap();
        assert_refused(read(folder.path()), &["index.json"]);
    }
}

#[test]
fn names_are_changed_by_patterns() {
    let (config, mut python) = (config(), Python::default());
    let expected = model(&config, DType::F32);
    let theirs = |name: &str| {
        let name = name.replace("residual_function.", "body.").replace("fc.", "head.out.");
        format!(
            "module.{}",
            name.replace("conv2_x", "stage2").replace("conv3_x", "stage3").replace("conv4_x", "stage4")
        )
    };
    let file = python.save_state(&expected, theirs);
    let renames = |pairs: &[(&str, &str)]| ImportOptions { renames: map(pairs), ..ImportOptions::default() };
    let good =
        [("stage{s}.{b}.body", "conv{s}_x.{b}.residual_function"), ("stage{s}", "conv{s}_x"), ("head.out", "fc")];
    let (read, notes) = import(&file, &config, &renames(&good)).unwrap();
    assert_eq!(bytes(&read), bytes(&expected));
    assert!(notes.iter().any(|note| note.contains("names changed, such as module.")), "{notes:?}");
    let with = |pair: (&'static str, &'static str)| renames(&[good.as_slice(), &[pair]].concat());
    assert_refused(import(&file, &config, &with(("body.{n}", "x"))), &["\"body.{n}\"", "up to a dot"]);
    assert_refused(import(&file, &config, &with(("head.{n}", "fc.{m}"))), &["\"fc.{m}\"", "placeholder"]);
    assert_refused(import(&file, &config, &with(("conv1", "fc"))), &["fc"]);
    let clash = [("stage{s}", "conv2_x"), ("head.out", "fc")];
    assert_refused(import(&file, &config, &renames(&clash)), &["would both be"]);
}

#[test]
fn another_number_of_classes_starts_with_a_new_head() {
    let (ours, mut python) = (config(), Python::default());
    let theirs = ModelConfig { n_classes: 7, ..ours.clone() };
    let trained = model(&theirs, DType::F32);
    // With the copies and counters that published networks have.
    let published = checkpoint::to_published(&trained).unwrap();
    let state: Vec<_> =
        published.iter().map(|(name, tensor)| (format!("module.{name}"), python.tensor(tensor))).collect();
    let file = python.save(&named(state));
    let option = "`--new-head`, `ImportOptions::new_head`";
    assert_refused(import(&file, &ours, &ImportOptions::default()), &["theirs.pth: fc.", "7 classes", "10", option]);
    let head = |seed| ImportOptions { new_head: Some(seed), ..ImportOptions::default() };
    let (read, notes) = import(&file, &ours, &head(5)).unwrap();
    assert!(
        notes.iter().any(|note| note == "fc.bias, fc.weight start anew, drawn from seed 5: train before use"),
        "{notes:?}"
    );
    let drawn = ParamStore::new(5);
    Network::new(&ours, drawn.builder(DType::F32, &Device::Cpu)).unwrap();
    for (name, var) in drawn.all() {
        let expected = if name.starts_with("fc.") { var.as_tensor() } else { &trained.tensors[&name] };
        assert_eq!(values(&read.tensors[&name]), values(expected), "{name}");
    }
    assert_eq!(bytes(&read), bytes(&import(&file, &ours, &head(5)).unwrap().0));
    assert_read(&file, &theirs, &trained);
    assert_ne!(bytes(&read), bytes(&import(&file, &ours, &head(6)).unwrap().0));
    // A file of another width is not helped by that.
    let wider = ModelConfig { width: 3, ..ours };
    assert_refused(import(&file, &wider, &ImportOptions::default()), &["expected shape"]);
}

/// torchvision's names of ours, as its ResNet and VGG define them.
pub(crate) fn torchvision(name: &str, backbone: &Backbone, has_norm: bool) -> String {
    let n_convs: [usize; 5] = match backbone {
        Backbone::Resnet18 | Backbone::Resnet34 => {
            let name = name.replace(".downsample.0.", ".downsample.").replace("fc.0.", "fc.");
            let name = name.replace(".conv1.0.", ".conv1.").replace(".conv2.0.", ".conv2.");
            return name.replace(".conv1.1.", ".bn1.").replace(".conv2.1.", ".bn2.");
        }
        Backbone::Vgg11 => [1, 1, 2, 2, 2],
        Backbone::Vgg13Standard => [2, 2, 2, 2, 2],
        Backbone::Vgg16 => [2, 2, 3, 3, 3],
        _ => [2, 2, 4, 4, 4],
    };
    let parts: Vec<_> = name.split('.').collect();
    let at: usize = parts[1].parse().expect("a number");
    if parts[0] == "classifier" {
        return format!("classifier.{}.{}", at - 1, parts[2]);
    }
    let stage: usize = parts[0]["layer".len()..].parse().expect("a number");
    let n_parts = if has_norm { 3 } else { 2 };
    let before: usize = n_convs[..stage - 1].iter().map(|n| n_parts * n + 1).sum();
    format!("features.{}.{}", before + at / 4 * n_parts + at % 4, parts[2])
}

#[test]
fn torchvisions_networks_are_read_or_what_differs_is_said() {
    let relu = |backbone, stem| ModelConfig { stem, neuron: NeuronConfig::relu(), timesteps: 1, ..small(backbone) };
    let options = ImportOptions { layout: Layout::Torchvision, ..ImportOptions::default() };
    for backbone in [Backbone::Resnet18, Backbone::Resnet34] {
        let config = relu(backbone.clone(), Stem::Imagenet);
        let (expected, mut python) = (model(&config, DType::F32), Python::default());
        let file = python.save_state(&expected, |name| torchvision(name, &backbone, true));
        assert_eq!(bytes(&import(&file, &config, &options).unwrap().0), bytes(&expected));
        assert_refused(import(&file, &config, &ImportOptions::default()), &["torchvision's", "--layout torchvision"]);
        let cifar = ModelConfig { stem: Stem::Cifar, ..config.clone() };
        assert_refused(import(&file, &cifar, &options), &["7 x 7 convolution", "\"imagenet\""]);
        let spiking = ModelConfig { neuron: NeuronConfig::lmht(2), ..config };
        assert_refused(import(&file, &spiking, &options), &["have ReLU", "\"relu\""]);
    }
    // The deeper one into the shallower one.
    let deep = relu(Backbone::Resnet34, Stem::Imagenet);
    let mut python = Python::default();
    let names = |name: &str| torchvision(name, &Backbone::Resnet34, true);
    let file = python.save_state(&model(&deep, DType::F32), names);
    assert_refused(import(&file, &relu(Backbone::Resnet18, Stem::Imagenet), &options), &["layer1.2.conv1.0.weight"]);

    for backbone in [Backbone::Vgg11, Backbone::Vgg13Standard, Backbone::Vgg16, Backbone::Vgg19] {
        let config = relu(backbone.clone(), Stem::Cifar);
        let (expected, mut python) = (model(&config, DType::F32), Python::default());
        let file = python.save_state(&expected, |name| torchvision(name, &backbone, true));
        assert_refused(
            import(&file, &config, &options),
            &["takes the maximum", "7 x 7 positions", "\"imagenet\"", "--new-head"],
        );
        let start = ImportOptions { new_head: Some(1), ..options.clone() };
        let (read, notes) = import(&file, &config, &start).unwrap();
        for (name, tensor) in sorted(&expected) {
            assert_eq!(values(&read.tensors[name]) == values(tensor), !name.starts_with("classifier."), "{name}");
        }
        assert!(notes.iter().any(|note| note.contains("takes the maximum")), "{notes:?}");
        let folded = ModelConfig { batch_norm: false, ..config.clone() };
        assert_refused(import(&file, &folded, &start), &["the file has batch norm"]);
        // As torchvision has it: with 49 positions.
        let config = ModelConfig { stem: Stem::Imagenet, ..config };
        assert_refused(import(&file, &config, &options), &["classifier.1.weight", "784"]);
        let (expected, mut python) = (model(&config, DType::F32), Python::default());
        let file = python.save_state(&expected, |name| torchvision(name, &backbone, true));
        assert_eq!(bytes(&import(&file, &config, &options).unwrap().0), bytes(&expected));
        let (read, notes) = import(&file, &config, &start).unwrap();
        for (name, tensor) in sorted(&expected) {
            let is_new = name.starts_with("classifier.7.");
            assert_eq!(values(&read.tensors[name]) == values(tensor), !is_new, "{name}");
        }
        assert!(!notes.iter().any(|note| note.contains("takes the maximum")), "{notes:?}");
    }
    let vgg13 = relu(Backbone::Vgg13, Stem::Cifar);
    assert_refused(import(&file, &vgg13, &options), &["that fit here are", "vgg13_standard"]);
}
