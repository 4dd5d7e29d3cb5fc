//! Files made to do harm, and files that were damaged: each is refused with a message, none does anything else.

use std::io::Write;
use std::path::Path;

use lmht_convert::checkpoint;

use crate::archive::{Entry, archive, entry};
use crate::support::{assert_refused, bytes, fixture_bytes, model, qcfs, small};

/// A pickle of one tensor "w" on four floats; the parts are pickled numbers and tuples.
fn pickle(storage_len: &str, offset: &str, shape: &str, strides: &str) -> Vec<u8> {
    let number = |text: &str| match text.parse::<i32>() {
        Ok(number) => [b"J".as_slice(), &number.to_le_bytes()].concat(),
        Err(_) => [b"\x8a\x08".as_slice(), &text.parse::<i64>().unwrap().to_le_bytes()].concat(),
    };
    let tuple = |text: &str| {
        let numbers: Vec<u8> = text.split_whitespace().flat_map(number).collect();
        [b"(", numbers.as_slice(), b"t"].concat()
    };
    let text = |text: &str| [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        number(storage_len),
        b"tQ".to_vec(),
        number(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

/// An archive around a pickle and one storage of four floats.
fn around(pickle: &[u8]) -> Vec<u8> {
    archive(&[entry("a/data.pkl", pickle), entry("a/data/0", &[0; 16])])
}

fn parse(bytes: &[u8]) -> lmht_convert::Result<checkpoint::Checkpoint> {
    checkpoint::parse("evil.pth", bytes)
}

#[test]
fn the_archives_of_these_tests_are_read_where_nothing_is_wrong() {
    let checkpoint = parse(&around(&pickle("4", "0", "2 2", "2 1"))).unwrap();
    assert_eq!(checkpoint.tensors["w"].dims(), [2, 2]);
    // The stride of an axis with one element may be anything.
    let checkpoint = parse(&around(&pickle("4", "3", "1 1", "9223372036854775807 5000000000"))).unwrap();
    assert_eq!(checkpoint.tensors["w"].dims(), [1, 1]);
    assert_eq!(parse(&around(&pickle("4", "0", "0 4000000000", "1 1"))).unwrap().tensors["w"].elem_count(), 0);
}

#[test]
fn a_function_that_a_pickle_names_is_refused_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let call = format!("(S'touch {}'\ntR.", witness.display());
    let modern = |function: &str| {
        let argument = format!("touch {}", witness.display());
        let length = (argument.len() as u32).to_le_bytes();
        [b"\x80\x02c", function.as_bytes(), b"(X", &length, argument.as_bytes(), b"tR."].concat()
    };
    let cases = [
        ("posix.system", format!("cposix\nsystem\n{call}").into_bytes()),
        ("posix.system", modern("posix\nsystem\n")),
        ("builtins.eval", modern("builtins\neval\n")),
        ("torch.load", modern("torch\nload\n")),
        ("torch._utils._rebuild_device_tensor_from_numpy", modern("torch._utils\n_rebuild_device_tensor_from_numpy\n")),
    ];
    for (function, pickle) in cases {
        assert_refused(parse(&around(&pickle)), &["evil.pth", &format!("{function:?}"), "nothing was executed"]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&around(&pickle)).unwrap();
        assert_refused(checkpoint::read(file.path()), &["nothing was executed"]);
        assert!(!witness.exists());
    }
    // Beside tensors it is listed, and no instruction that imports does more.
    let good = pickle("4", "0", "4", "1");
    let tensor = &good[3..good.len() - 2];
    let text = |text: &str| [b"\x8c", [text.len() as u8].as_slice(), text.as_bytes()].concat();
    let shell = text(&format!("touch {}", witness.display()));
    let (module, name) = (text("posix"), text("system"));
    for call in [
        [b"cposix\nsystem\n(".as_slice(), &shell, b"tR"].concat(),
        [&module, &name, b"\x93(".as_slice(), &shell, b"t\x81"].concat(),
        [&module, &name, b"\x93(".as_slice(), &shell, b"t}\x92"].concat(),
        [b"(".as_slice(), &shell, b"iposix\nsystem\n"].concat(),
        [b"(cposix\nsystem\n".as_slice(), &shell, b"o"].concat(),
        [b"cposix\nsystem\n)R(".as_slice(), &shell, &shell, b"db"].concat(),
    ] {
        let file = around(&[b"\x80\x04}", tensor, b"s", &text("extra"), &call, b"s."].concat());
        let checkpoint = parse(&file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(checkpoint.notes, ["passed over: extra (an object of \"posix.system\")"]);
        assert!(!witness.exists());
    }
}

#[test]
fn windows_outside_their_storage_are_refused() {
    for (storage_len, offset, shape, strides, part) in [
        ("4", "0", "5", "1", "outside its storage"),
        ("4", "1", "2 2", "2 1", "outside its storage"),
        ("4", "0", "2 2", "4 1", "outside its storage"),
        ("4", "9223372036854775807", "2", "1", "outside its storage"),
        ("4", "0", "4000000000 4000000000 4000000000", "0 0 0", "outside its storage"),
        ("4", "0", "3 3", "9223372036854775807 9223372036854775807", "outside its storage"),
        ("4", "0", "4000000000", "0", "times as large as the file"),
        ("4", "0", "-1", "1", "size of -1"),
        ("4", "-1", "1", "1", "size of -1"),
        ("4", "0", "1", "-1", "size of -1"),
        ("-4", "0", "1", "1", "size of -4"),
        ("5", "0", "5", "1", "16 bytes, expected 5 numbers"),
        ("9223372036854775807", "0", "1", "1", "16 bytes, expected 9223372036854775807 numbers"),
        ("4", "0", "2 2", "1", "as many of each"),
        ("4", "0", "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "at most 16"),
    ] {
        assert_refused(parse(&around(&pickle(storage_len, offset, shape, strides))), &["evil.pth: w: ", part]);
    }
}

#[test]
fn a_pickle_out_of_order_is_refused() {
    let deep = [vec![b'('; 100_000], vec![b't'; 100_000], b".".to_vec()].concat();
    let deep_lists = [b"]".repeat(100_000), b"a".repeat(99_999), b".".to_vec()].concat();
    let deep_calls = [b"ctorch\nSize\n".repeat(1000), b")".to_vec(), b"R\x85".repeat(999), b"R.".to_vec()].concat();
    // Each round doubles what the memo holds: thirty of them would make a billion values.
    let doubling = [b"]q\x000".to_vec(), b"]h\x00ah\x00aq\x000".repeat(30), b"h\x00.".to_vec()].concat();
    // A dictionary that holds itself.
    let circle = b"}q\x00X\x01\0\0\0ah\x00s.".to_vec();
    let many = b"N".repeat(2_000_001);
    let cases: [(&[u8], &str); 29] = [
        (&deep, "more than 32 deep"),
        (&deep_lists, "more than 32 deep"),
        (&deep_calls, "an object of"),
        (&doubling, "no dictionary of tensors"),
        (&circle, "no dictionary of tensors"),
        (&many, "more than 2000000 values"),
        (b"", "in the middle"),
        (b"\x80", "in the middle"),
        (b"}", "in the middle"),
        (b".", "left over"),
        (b"}}.", "left over"),
        (b"}.}", "left over"),
        (b"(.", "left over"),
        (b"}X\xff\xff\xff\xffabc.", "in the middle"),
        (b"}c", "in the middle"),
        (b"c\xff\n\xff\n.", "not UTF-8"),
        (b"h\x07.", "never kept"),
        (b"q\x00.", "where there is none"),
        (b"(q\x00.", "where there is none"),
        (b"}(NNNu.", "without a value"),
        (b"]NNs.", "takes none"),
        (b"t.", "never set"),
        (b"\x8a\xff", "in the middle"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa", "in the middle"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa", "in the middle"),
        (b"\xff.", "instruction 0xff"),
        (b"NN\x93.", "a name that is no text"),
        (b"Nb.", "where there is none"),
        (b"N.", "no dictionary of tensors"),
    ];
    for (pickle, part) in cases {
        assert_refused(parse(&around(pickle)), &["evil.pth: ", part]);
    }
    assert_refused(parse(&around(&vec![b'N'; (16 << 20) + 1])), &["at most that"]);
    assert_refused(parse(&around(b"}X\x01\0\0\0aNs.")), &["no dictionary of tensors", "only: a (a value)"]);
    // A name that is not UTF-8 is none.
    assert_refused(parse(&around(b"}X\x01\0\0\0\xffNs.")), &["no dictionary of tensors", "only: ? (a value)"]);
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let good = pickle("4", "0", "4", "1");
    let storage = entry("a/data/0", &[0; 16]);
    let large = Entry { claimed: Some(u32::MAX - 1), ..entry("a/data/0", &[0; 16]) };
    let bomb = Entry { method: 8, claimed: Some(u32::MAX - 1), ..entry("a/data/0", &[0; 16]) };
    let pickle_bomb = Entry { method: 8, claimed: Some(u32::MAX - 1), ..entry("a/data.pkl", &good) };
    let cases = [
        (archive(&[entry("a/data.pkl", &good), bomb]), "compressed or encrypted"),
        (archive(&[pickle_bomb, entry("a/data/0", &[0; 16])]), "compressed or encrypted"),
        (archive(&[entry("a/data.pkl", &good), large]), "over each other"),
        (archive(&[entry("a/data.pkl", &good)]), "\"a/data/0\" is not in it"),
        (archive(&[entry("a/data.pkl", &good), entry("a/data/0", &[0; 15])]), "15 bytes, expected 4 numbers"),
        (archive(&[entry("a/data.pkl", &good), entry("a/data.pkl", &good), storage]), "same name"),
        (archive(&[entry("a/data.pkl", &good), entry("b/data.pkl", &good)]), "2 entries data.pkl"),
        (archive(&[entry("a/other.pkl", &good)]), "0 entries data.pkl"),
        (archive(&[]), "evil.pth"),
        (archive(&[entry("a/data.pkl", &good), entry("a/byteorder", b"big")]), "little-endian"),
        (archive(&[entry("weights.npy", &good)]), "NumPy archive"),
        (archive(&[entry("a/data.pkl", &good), entry("a/constants.pkl", b"")]), "TorchScript"),
    ];
    for (bytes, part) in cases {
        assert_refused(parse(&bytes), &["evil.pth: ", part]);
    }
    // Damage in a storage that no tensor of the network has.
    let mut beside =
        archive(&[entry("a/data.pkl", &good), entry("a/data/0", &[0; 16]), entry("a/data/1", b"of another")]);
    assert!(parse(&beside).is_ok());
    let at = beside.windows(10).position(|window| window == b"of another").unwrap();
    beside[at] ^= 1;
    assert_refused(parse(&beside), &["evil.pth: ", "\"a/data/1\" is damaged"]);
    // Two entries of the directory that lead to one place.
    let mut twice = archive(&[entry("a/data.pkl", &good), entry("a/data/0", &[0; 16]), entry("a/data/1", &[0; 16])]);
    let header = |name: &[u8]| twice.windows(name.len()).rposition(|window| window == name).unwrap();
    let (first, second) = (header(b"a/data/0") - 4, header(b"a/data/1") - 4);
    twice.copy_within(first..first + 4, second);
    assert_refused(parse(&twice), &["evil.pth: ", "over each other"]);
    // Where the directory begins is moved: the headers lie elsewhere.
    let mut moved = around(&good);
    let at = moved.len() - 6;
    moved[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_refused(parse(&moved), &["evil.pth: "]);
}

#[test]
fn names_of_paths_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let good = pickle("4", "0", "4", "1");
    let target = folder.path().join("written");
    for name in ["../../data.pkl", "/etc/data.pkl", "a\\..\\..\\data.pkl", target.to_str().unwrap()] {
        let bytes = archive(&[entry(name, &good), entry("a/data.pkl", &good), entry("a/data/0", &[0; 16])]);
        assert_refused(parse(&bytes), &["points outside the archive"]);
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    // A storage is looked up in the archive only.
    let secret = folder.path().join("secret");
    std::fs::write(&secret, [0; 16]).unwrap();
    let path = secret.display().to_string();
    let text = |text: &str| [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
    let name = text("0");
    let at = good.windows(name.len()).position(|window| window == name).unwrap();
    let elsewhere = [&good[..at], &text(&path), &good[at + name.len()..]].concat();
    assert_refused(parse(&around(&elsewhere)), &[&path, "is not in it"]);
}

#[test]
fn several_networks_in_one_file_are_told_apart() {
    let one = pickle("4", "0", "4", "1");
    let one = &one[2..one.len() - 1];
    let key = |name: &str| [b"X", (name.len() as u32).to_le_bytes().as_slice(), name.as_bytes()].concat();
    let both = [b"}", key("net").as_slice(), one, b"s", &key("model"), one, b"s."].concat();
    assert_refused(
        parse(&around(&both)),
        &["several networks: \"net\" (1 tensors), \"model\"", "torch.save(checkpoint[\"net\"], path)"],
    );
    let twice = [b"}", key("net").as_slice(), one, b"s", &key("net"), one, b"s."].concat();
    assert_refused(parse(&around(&twice)), &["several networks"]);
    let body = &one[1..];
    let same_name = [b"}", body, body, b"."].concat();
    assert_refused(parse(&around(&same_name)), &["w: there twice"]);
}

/// A safetensors file from its header and four bytes of data for each number.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn damaged_safetensors_are_refused() {
    let w = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
    };
    let good = safetensors(&format!("{{{}}}", w("w", "2,2", 0, 16)), &[0; 16]);
    assert_eq!(parse(&good).unwrap().tensors["w"].dims(), [2, 2]);
    let huge = "4611686018427387904,4611686018427387904";
    let deep = format!("{{\"__metadata__\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        safetensors(&format!("{{{},{}}}", w("v", "4", 0, 16), w("w", "4", 8, 24)), &[0; 24]),
        safetensors(&format!("{{{},{}}}", w("v", "4", 0, 16), w("w", "4", 0, 16)), &[0; 16]),
        safetensors(&format!("{{{},{}}}", w("v", "1", 0, 4), w("w", "1", 8, 12)), &[0; 12]),
        safetensors(&format!("{{{}}}", w("w", "2,2", 0, 16)), &[0; 12]),
        safetensors(&format!("{{{}}}", w("w", "2,2", 0, 16)), &[0; 20]),
        safetensors(&format!("{{{}}}", w("w", "2,3", 0, 16)), &[0; 16]),
        safetensors(&format!("{{{}}}", w("w", huge, 0, 16)), &[0; 16]),
        safetensors(&format!("{{{}}}", w("w", "-1", 0, 16)), &[0; 16]),
        safetensors(&format!("{{{}}}", w("w", "4", 16, 0)), &[0; 16]),
        safetensors(&format!("{{{}", w("w", "4", 0, 16)), &[0; 16]),
        safetensors(&format!("{{{}}}", w("w", "4", 0, u64::MAX)), &[0; 16]),
        safetensors(&deep, &[]),
        safetensors("{", &[]),
        good[..12].to_vec(),
    ];
    for bytes in cases {
        assert_refused(parse(&bytes), &["evil.pth: ", "safetensors"]);
    }
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_refused(parse(&long), &["its header would have 18446744073709551615 bytes", "cut off"]);
    let integers = r#"{"w":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}"#;
    assert_refused(parse(&safetensors(integers, &[0; 16])), &["evil.pth: ", "no dictionary of tensors"]);
}

/// Files cut off at every 64th part of their length.
#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let config = small(lmht_nn::Backbone::Vgg13);
    for bytes in
        [fixture_bytes("bare.pth"), fixture_bytes("resnet20_qcfs.pth"), bytes(&model(&config, candle_core::DType::F32))]
    {
        assert!(parse(&bytes).is_ok());
        for part in 0..64 {
            assert_refused(parse(&bytes[..bytes.len() * part / 64]), &["evil.pth: "]);
        }
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
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// How many inputs a test makes: a few, or as many as `LMHT_FUZZ_ROUNDS` says.
fn rounds(few: usize) -> usize {
    std::env::var("LMHT_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(few)
}

/// One to eight bits changed at places from a seed: an error that names the file, or tensors; never a panic.
#[test]
fn changed_bits_never_panic() {
    let config = small(lmht_nn::Backbone::Vgg13);
    let model = bytes(&model(&config, candle_core::DType::F32));
    let mut random = Random(1);
    for (original, fits, few) in [
        (fixture_bytes("parameter.pth"), None, 4000),
        (fixture_bytes("legacy.pth"), None, 4000),
        (fixture_bytes("whole_module.pth"), None, 1000),
        (fixture_bytes("resnet20_qcfs.pth"), Some(qcfs()), 100),
        (model, Some(config), 300),
    ] {
        let (mut refused, mut read) = (0, 0);
        for _ in 0..rounds(few) {
            let mut bytes = original.clone();
            for _ in 0..1 + random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            let options = checkpoint::ImportOptions { new_head: Some(1), ..Default::default() };
            let _ = fits.as_ref().map(|config| checkpoint::parse_for("evil.pth", &bytes, config, &options));
            match (parse(&bytes), &fits) {
                (Ok(checkpoint), Some(config)) => {
                    read += 1;
                    let _ = checkpoint.into_model(config);
                }
                (Ok(_), None) => read += 1,
                (Err(error), _) => {
                    refused += 1;
                    assert!(error.to_string().starts_with("evil.pth: "), "{error}");
                }
            }
        }
        assert!(refused > 0 && read > 0, "{refused} refused, {read} read");
    }
}

/// Pickles with changed instructions in an archive whose checksums are right, so that nothing but the pickle is wrong.
#[test]
fn changed_pickles_never_panic() {
    const INSTRUCTIONS: &[u8] = b"\x80cqr)R(XJtQKM\x85\x86\x87\x88\x89Nhjsu}db.\x81]Gae\x8a0129\0\xff\
          \x82\x83\x84\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98FILPSTUVBCgpiol";
    const MODULES: &[u8] = b"\x8c\x08_modules}ubu.";
    let whole = pickle("4", "0", "4", "1");
    let entries = &whole[3..whole.len() - 1];
    let originals = [
        pickle("4", "0", "2 2", "2 1"),
        pickle("4", "1", "1 3", "3 1"),
        [b"\x80\x02}X\x03\0\0\0net}".as_slice(), entries, b"s."].concat(),
        [b"\x80\x04}\x94(\x8c\x01ah\x00\x8c\x01b\x8c\x01m\x8c\x01N\x93)\x81}\x94(\x8c\x0b_parameters}", entries, MODULES].concat(),
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\0\0\0aq\x02]q\x03(K\x01h\x02h\x03euh\x01}X\x01\0\0\0bNsb.".to_vec(),
    ];
    for original in &originals {
        let read = parse(&around(original));
        assert!(read.is_ok() || original.starts_with(b"\x80\x02c"), "{read:?}");
    }
    let mut random = Random(2);
    let (mut refused, mut read) = (0, 0);
    for round in 0..rounds(20_000) {
        let mut bytes = originals[round % originals.len()].clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            let byte = INSTRUCTIONS[random.below(INSTRUCTIONS.len())];
            match random.below(4) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => {
                    let from = random.below(bytes.len());
                    let piece = bytes[from..bytes.len().min(from + 1 + random.below(16))].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        match parse(&around(&bytes)) {
            Ok(_) => read += 1,
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("evil.pth: "), "{error}");
            }
        }
    }
    assert!(refused > 0 && read > 0, "{refused} refused, {read} read");
}

#[test]
fn nothing_is_written_beside_a_file_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.pth");
    std::fs::write(&path, around(b"cposix\nsystem\n.")).unwrap();
    assert_refused(checkpoint::read(&path), &["posix.system"]);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [Path::new("evil.pth").file_name().unwrap()]);
}
