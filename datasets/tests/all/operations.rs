//! The operations of AutoAugment: by hand, by their properties, and against Pillow.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{Device, safetensors};
use lmht_datasets::{Error, Operation};

/// One channel, one row.
fn row<const N: usize>(operation: Operation, mut image: [u8; N]) -> [u8; N] {
    operation.apply(&mut image, (1, 1, N), 0).unwrap();
    image
}

/// 4x4, the digits are row and column from 1.
const GRID: [u8; 16] = [11, 12, 13, 14, 21, 22, 23, 24, 31, 32, 33, 34, 41, 42, 43, 44];

fn grid(operation: Operation) -> [u8; 16] {
    let mut image = GRID;
    operation.apply(&mut image, (1, 4, 4), 9).unwrap();
    image
}

#[test]
#[rustfmt::skip]
fn geometry_by_hand() {
    assert_eq!(grid(Operation::TranslateX(1.9)), [9, 11, 12, 13, 9, 21, 22, 23, 9, 31, 32, 33, 9, 41, 42, 43]);
    assert_eq!(grid(Operation::TranslateX(-1.9)), [12, 13, 14, 9, 22, 23, 24, 9, 32, 33, 34, 9, 42, 43, 44, 9]);
    assert_eq!(grid(Operation::TranslateY(2.0)), [9, 9, 9, 9, 9, 9, 9, 9, 11, 12, 13, 14, 21, 22, 23, 24]);
    // The centres of the rows are at 0.5, 1.5, 2.5, 3.5: at slope 0.4 they move by 0.2, 0.6, 1.0, 1.4 to the left, so
    // the nearest pixels by 0, 1, 1, 1.
    assert_eq!(grid(Operation::ShearX(0.4)), [11, 12, 13, 14, 22, 23, 24, 9, 32, 33, 34, 9, 42, 43, 44, 9]);
    assert_eq!(grid(Operation::ShearY(0.4)), [11, 22, 23, 24, 21, 32, 33, 34, 31, 42, 43, 44, 41, 9, 9, 9]);
    // A quarter turn, counter-clockwise: the last column becomes the first row.
    assert_eq!(grid(Operation::Rotate(90.0)), [14, 24, 34, 44, 13, 23, 33, 43, 12, 22, 32, 42, 11, 21, 31, 41]);
    assert_eq!(grid(Operation::Rotate(180.0)), [44, 43, 42, 41, 34, 33, 32, 31, 24, 23, 22, 21, 14, 13, 12, 11]);
}

#[test]
fn values_by_hand() {
    // 100 · 1.5 = 150; 200 · 1.5 = 300, cut off; 3 · 1.5 = 4.5, rounded down.
    assert_eq!(row(Operation::Brightness(1.5), [0, 3, 100, 200]), [0, 4, 150, 255]);
    assert_eq!(row(Operation::Brightness(0.5), [0, 3, 100, 200]), [0, 1, 50, 100]);
    // The mean is 75: 75 + 2 (x - 75), cut off at both ends.
    assert_eq!(row(Operation::Contrast(2.0), [0, 50, 100, 150]), [0, 25, 125, 225]);
    assert_eq!(row(Operation::Contrast(0.0), [0, 50, 100, 150]), [75; 4]);
    // 10110110 to its highest 3 bits.
    assert_eq!(row(Operation::Posterize(3), [0b1011_0110, 255, 31, 0]), [0b1010_0000, 0b1110_0000, 0, 0]);
    assert_eq!(row(Operation::Solarize(128.0), [0, 127, 128, 255]), [0, 127, 127, 0]);
    assert_eq!(row(Operation::Invert, [0, 1, 128, 255]), [255, 254, 127, 0]);
    // 50 to 0 and 101 to 255: a factor of 5.
    assert_eq!(row(Operation::AutoContrast, [50, 60, 100, 101]), [0, 50, 250, 255]);
    // Pure red is 0.299 · 255 = 76 in gray; half-way: 76 + 0.5 · 179 = 165 and 76 - 38 = 38.
    let mut red = [255, 0, 0];
    Operation::Color(0.5).apply(&mut red, (3, 1, 1), 0).unwrap();
    assert_eq!(red, [165, 38, 38]);
}

#[test]
fn equalize_by_hand() {
    // 511 pixels of 10, 255 of 20, 10 of 30: without the last value 766 pixels, 3 for each output value. 10 maps to
    // 1 / 3 = 0, 20 to (1 + 511) / 3 = 170, 30 to (1 + 766) / 3 = 255.
    let mut image: Vec<u8> = [vec![10; 511], vec![20; 255], vec![30; 10]].concat();
    Operation::Equalize.apply(&mut image, (1, 1, 776), 0).unwrap();
    assert_eq!([image[0], image[511], image[775]], [0, 170, 255]);
    // Fewer than 255 pixels beside the largest value: nothing to spread.
    assert_eq!(row(Operation::Equalize, [3, 1, 4, 1]), [3, 1, 4, 1]);
}

#[test]
fn sharpness_by_hand() {
    // The inner pixels smoothed: the centre of (0 except 130 in one inner pixel) is 5/13 · 130 = 50, its inner
    // neighbours 130 / 13 = 10; the border stays. Factor 0 shows that, factor 2 the other side: 130 + 80 = 210, 0 - 10.
    let mut image = [0u8; 25];
    image[12] = 130;
    let (mut smooth, mut sharp) = (image, image);
    Operation::Sharpness(0.0).apply(&mut smooth, (1, 5, 5), 0).unwrap();
    #[rustfmt::skip]
    assert_eq!(smooth, [0, 0, 0, 0, 0, 0, 10, 10, 10, 0, 0, 10, 50, 10, 0, 0, 10, 10, 10, 0, 0, 0, 0, 0, 0]);
    Operation::Sharpness(2.0).apply(&mut sharp, (1, 5, 5), 0).unwrap();
    image[12] = 210;
    assert_eq!(sharp, image);
}

/// Bytes without a pattern.
fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(n).collect()
}

#[test]
fn what_changes_nothing_changes_nothing() {
    for (shape, seed) in [((1, 5, 7), 1), ((3, 6, 4), 2), ((3, 1, 9), 3), ((1, 1, 1), 4), ((3, 2, 2), 5)] {
        let image = noise(shape.0 * shape.1 * shape.2, seed);
        let apply = |operations: &[Operation]| {
            let mut image = image.clone();
            operations.iter().for_each(|operation| operation.apply(&mut image, shape, 200).unwrap());
            image
        };
        use Operation::{
            Brightness, Color, Contrast, Invert, Posterize, Rotate, Sharpness, ShearX, ShearY, Solarize, TranslateX,
            TranslateY,
        };
        for operation in [
            [ShearX(0.0), ShearY(0.0)],
            [TranslateX(0.9), TranslateY(-0.9)],
            [Rotate(0.0), Rotate(360.0)],
            [Brightness(1.0), Color(1.0)],
            [Contrast(1.0), Sharpness(1.0)],
            [Posterize(8), Solarize(256.0)],
            [Invert, Invert],
            [Invert, Solarize(0.0)],
            [Rotate(180.0), Rotate(-180.0)],
        ] {
            assert_eq!(apply(&operation), image, "{operation:?} on {shape:?}");
        }
        // A second time changes nothing more.
        for operation in [Posterize(3), Solarize(256.0)] {
            assert_eq!(apply(&[operation]), apply(&[operation, operation]), "{operation:?} on {shape:?}");
        }
    }
    for operation in [Operation::Equalize, Operation::AutoContrast, Operation::Sharpness(1.9), Operation::Contrast(0.1)]
    {
        let mut constant = vec![123; 1200];
        operation.apply(&mut constant, (3, 20, 20), 0).unwrap();
        assert_eq!(constant, vec![123; 1200], "{operation:?}");
    }
}

#[test]
fn geometry_invents_no_values() {
    let image = noise(3 * 9 * 8, 7);
    let known: BTreeSet<u8> = image.iter().copied().chain([77]).collect();
    for degrees in (-45..=45).map(f64::from) {
        for operation in [Operation::Rotate(degrees), Operation::ShearX(degrees / 30.0), Operation::TranslateY(degrees)]
        {
            let mut image = image.clone();
            operation.apply(&mut image, (3, 9, 8), 77).unwrap();
            assert!(image.iter().all(|value| known.contains(value)), "{operation:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refuse = |operation: Operation, n: usize, shape, part: &str| {
        let error = operation.apply(&mut vec![0; n], shape, 0).unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains(part)), "{error}");
    };
    refuse(Operation::Invert, 5, (1, 2, 3), "found 5 bytes for [1, 2, 3]");
    refuse(Operation::Invert, 12, (2, 2, 3), "[3, H, W]");
    refuse(Operation::Invert, 12, (3, usize::MAX, 3), "expected the pixels");
    refuse(Operation::Rotate(f64::NAN), 6, (1, 2, 3), "finite");
    refuse(Operation::Posterize(9), 6, (1, 2, 3), "0 to 8 bits");
    Operation::Equalize.apply(&mut [], (3, 0, 3), 0).unwrap();
}

/// Every operation, on every image, has every bit of Pillow's.
#[test]
fn operations_are_pillows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pil.safetensors");
    let tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    let bytes = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let mut kinds = BTreeSet::new();
    let mut n_cases = 0;
    for name in tensors.keys() {
        let is_one = |(image, rest): &(&str, &str)| tensors.contains_key(*image) && !rest.starts_with("resize");
        let Some((image, operation)) = name.split_once(' ').filter(is_one) else { continue };
        let shape = tensors[image].dims3().unwrap();
        let operation: Operation = serde_json::from_str(operation).unwrap();
        let mut found = bytes(image);
        operation.apply(&mut found, shape, 77).unwrap();
        let expected = bytes(name);
        let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{image}, {operation:?}: {differ} of {} bytes differ", expected.len());
        kinds.insert(format!("{operation:?}").split('(').next().unwrap().to_owned());
        n_cases += 1;
    }
    assert_eq!((kinds.len(), n_cases), (14, 3 * 49 + 4), "{kinds:?}");
}
