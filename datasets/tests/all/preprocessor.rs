//! What turns an image into the input of a network: the same bits as in evaluation, and a file that others read.

use std::fs;
use std::sync::Arc;

use candle_core::Device;
use image::{DynamicImage, ImageFormat, RgbImage};
use lmht_datasets::{
    Augment, Error, Fit, ImageDataset, Loader, LoaderConfig, Normalize, Preprocessor, ReadOptions, Split,
};
use tempfile::tempdir;

use crate::tables::{Layout, encode, gray_png, row};

/// A picture without symmetry.
fn picture(h: u32, w: u32, seed: u32) -> DynamicImage {
    RgbImage::from_fn(w, h, |x, y| [x * 7 + seed, y * 11 + x * y, (x ^ y) * 5 + seed].map(|v| v as u8).into()).into()
}

/// A loader for evaluation of these images, and the preprocessor of it.
fn evaluation(
    images: &[Vec<u8>],
    options: &ReadOptions,
    center_crop: Option<(usize, usize)>,
) -> (Loader, Preprocessor) {
    let folder = tempdir().unwrap();
    let rows: Vec<_> = images.iter().map(|image| row(image.clone(), 1)).collect();
    Layout::default().write(folder.path().join("train.parquet"), &rows);
    let data = ImageDataset::read(folder.path(), Split::Train, options).unwrap();
    let normalize = match data.shape().0 {
        1 => Normalize { mean: vec![0.2867], std: vec![0.3540] },
        _ => Normalize::imagenet(),
    };
    let config = LoaderConfig { center_crop, ..LoaderConfig::eval(images.len()) };
    let loader = Loader::new(Arc::new(data), &config, &normalize, &Device::Cpu).unwrap();
    let preprocessor = Preprocessor::of(&loader).unwrap();
    (loader, preprocessor)
}

#[test]
fn the_bits_are_those_of_evaluation() {
    let large: Vec<Vec<u8>> = [(30, 41, ImageFormat::Png), (64, 17, ImageFormat::Jpeg), (20, 20, ImageFormat::WebP)]
        .map(|(h, w, format)| encode(picture(h, w, h), format))
        .to_vec();
    let same = vec![encode(picture(9, 8, 1), ImageFormat::Bmp), encode(picture(9, 8, 2), ImageFormat::Png)];
    let gray = vec![gray_png(9, 8, 1), gray_png(9, 8, 20)];
    let base = ReadOptions::default;
    let cases = [
        (&same, base(), None),
        (&same, base(), Some((5, 6))),
        (&gray, base(), None),
        (&gray, ReadOptions { channels: Some(3), ..base() }, None),
        (&same, ReadOptions { channels: Some(1), ..base() }, None),
        (&large, ReadOptions { resize: Some((12, 15)), ..base() }, Some((7, 8))),
        (&large, ReadOptions { cover: Some((16, 16)), ..base() }, None),
        (&large, ReadOptions { cover: Some((16, 16)), ..base() }, Some((11, 11))),
        (&large, ReadOptions { cover: Some((10, 16)), channels: Some(1), ..base() }, None),
    ];
    for (images, options, center_crop) in cases {
        let (loader, preprocessor) = evaluation(images, &options, center_crop);
        let batch = loader.epoch(0).unwrap().next().unwrap().unwrap().images;
        // As it was made, and after a way through its file.
        let folder = tempdir().unwrap();
        let file = folder.path().join("preprocessor_config.json");
        fs::write(&file, preprocessor.to_json()).unwrap();
        let read = Preprocessor::load(&file).unwrap();
        assert_eq!(read, preprocessor, "{}", preprocessor.to_json());
        for (i, image) in images.iter().enumerate() {
            let bits = |tensor: candle_core::Tensor| -> Vec<u32> {
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            let expected = batch.get(i).unwrap();
            let input = read.apply(image).unwrap();
            assert_eq!(input.dims(), expected.dims());
            assert_eq!(bits(input), bits(expected), "image {i}, {options:?}, {center_crop:?}");
        }
    }
}

#[test]
fn the_file_has_the_words_of_transformers() {
    let options = ReadOptions { cover: Some((16, 16)), ..ReadOptions::default() };
    let names = Some(vec!["cat".to_owned(), "Grünspecht".to_owned()]);
    let (_, preprocessor) = evaluation(&[encode(picture(20, 30, 0), ImageFormat::Png)], &options, Some((12, 12)));
    let json = Preprocessor { class_names: names, ..preprocessor }.to_json();
    let expected = r#"{
  "do_convert_rgb": true,
  "do_resize": true,
  "size": {
    "shortest_edge": 16
  },
  "resample": 2,
  "do_center_crop": true,
  "crop_size": {
    "height": 12,
    "width": 12
  },
  "do_rescale": true,
  "rescale_factor": 0.00392156862745098,
  "do_normalize": true,
  "image_mean": [
    0.485,
    0.456,
    0.406
  ],
  "image_std": [
    0.229,
    0.224,
    0.225
  ],
  "lmht": {
    "class_names": [
      "cat",
      "Grünspecht"
    ],
    "image_column": "image",
    "label_column": "label"
  }
}
"#;
    assert_eq!(json, expected);
}

#[test]
fn files_of_others_are_read_or_refused_by_the_entry() {
    let read = |json: &str| serde_json::from_str::<Preprocessor>(json).map_err(|e| e.to_string());
    let vit = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
                  "resample": 2, "size": {"height": 224, "width": 224}, "image_processor_type": "ViTImageProcessor"}"#;
    let found = read(vit).unwrap();
    assert_eq!((found.size, found.fit, found.center_crop, found.channels), ((224, 224), Fit::Stretch, None, 3));
    assert_eq!(found.normalize.mean, [0.5; 3]);
    let resnet = r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "size": {"shortest_edge": 256},
                     "do_normalize": false, "do_rescale": true, "rescale_factor": 0.003921569, "resample": 2}"#;
    let found = read(resnet).unwrap();
    assert_eq!((found.size, found.fit, found.center_crop), ((256, 256), Fit::Cover, Some((224, 224))));
    assert_eq!(found.normalize, Normalize::unit(3));
    for (old, new, key) in [
        ("\"resample\": 2", "\"resample\": 3", "resample"),
        ("0.003921569", "1.0", "rescale_factor"),
        ("\"do_rescale\": true", "\"do_rescale\": false", "do_rescale"),
        ("\"do_rescale\": true", "\"do_rescale\": \"yes\"", "do_rescale"),
        ("{\"shortest_edge\": 256}", "256", "size"),
        ("{\"shortest_edge\": 256}", "{\"shortest_edge\": -1}", "size"),
        ("{\"shortest_edge\": 256}", "{\"height\": 0, \"width\": 3}", "size"),
        ("{\"shortest_edge\": 256}", "{\"shortest_edge\": 100}", "center_crop"),
        ("{\"shortest_edge\": 256}", "{\"shortest_edge\": 1000000000}", "size"),
        ("\"do_center_crop\": true", "\"do_center_crop\": false", "size"),
        ("\"height\": 224", "\"height\": 2.5", "crop_size"),
        ("\"do_normalize\": false", "\"image_mean\": [1, 2]", "channels"),
        ("\"do_normalize\": false", "\"image_std\": [1, 0, 1]", "std"),
        ("\"do_normalize\": false", "\"image_std\": \"imagenet\"", "image_std"),
        ("\"do_normalize\": false", "\"lmht\": 3", "lmht"),
        ("\"do_normalize\": false", "\"lmht\": {\"class_names\": [1]}", "class_names"),
    ] {
        assert!(resnet.contains(old), "{old}");
        let error = read(&resnet.replace(old, new)).unwrap_err();
        assert!(error.contains(key), "{new}: {error}");
    }
    let folder = tempdir().unwrap();
    let file = folder.path().join("preprocessor_config.json");
    for text in ["", "{", "[]", "null", "{}"] {
        fs::write(&file, text).unwrap();
        let error = Preprocessor::load(&file).unwrap_err();
        assert!(
            matches!(error, Error::Preprocessor { .. }) && error.to_string().contains("preprocessor_config.json"),
            "{error}"
        );
    }
}

#[test]
fn an_image_that_does_not_fit_is_refused() {
    let exact = Preprocessor::new(3, (4, 5), Normalize::unit(3));
    let error = exact.apply(&gray_png(5, 4, 0)).unwrap_err();
    assert!(matches!(error, Error::ImageSize { expected: (4, 5), found: (5, 4), .. }), "{error}");
    assert!(matches!(exact.apply(b""), Err(Error::Decode { .. })));
    let none = Preprocessor { normalize: Normalize::unit(1), ..exact };
    assert!(matches!(none.apply(&gray_png(4, 5, 0)), Err(Error::Config(_))));
}

#[test]
fn augmentation_is_no_preprocessing() {
    let data = Arc::new(ImageDataset::new(vec![0; 4], vec![0], (1, 2, 2), 1).unwrap());
    let config = LoaderConfig { augment: Augment { flip: true, ..Augment::default() }, ..LoaderConfig::eval(1) };
    let loader = Loader::new(data, &config, &Normalize::unit(1), &Device::Cpu).unwrap();
    assert!(matches!(Preprocessor::of(&loader), Err(Error::Config(_))));
}

#[test]
fn a_trained_network_brings_its_preprocessing_along() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let (model, checkpoint) = (run.join("model"), run.join("checkpoints/epoch-0002"));
    std::fs::create_dir_all(&model).unwrap();
    std::fs::create_dir_all(&checkpoint).unwrap();
    for path in [&run, &model, &checkpoint] {
        let message = Preprocessor::from_pretrained(path).unwrap_err().to_string();
        let parts = [path.to_str().unwrap(), "preprocessor_config.json", "copy it from the run"];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let ours = Preprocessor::new(1, (4, 4), Normalize::unit(1));
    std::fs::write(run.join("preprocessor_config.json"), ours.to_json()).unwrap();
    assert_eq!(Preprocessor::from_pretrained(&run).unwrap(), ours);
    assert_eq!(Preprocessor::from_pretrained(&checkpoint).unwrap(), ours);
    // What lies beside the weights goes before that of the run; a run may have it there alone.
    let other = Preprocessor { center_crop: Some((2, 2)), ..ours };
    std::fs::write(model.join("preprocessor_config.json"), other.to_json()).unwrap();
    assert_eq!(Preprocessor::from_pretrained(&model).unwrap(), other);
    std::fs::remove_file(run.join("preprocessor_config.json")).unwrap();
    assert_eq!(Preprocessor::from_pretrained(&run).unwrap(), other);
    assert!(Preprocessor::from_pretrained(folder.path().join("nowhere")).is_err());
}

#[test]
fn the_file_of_an_image_is_named_in_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let preprocessor = Preprocessor::new(1, (4, 4), Normalize::unit(1));
    let good = folder.path().join("good.png");
    picture(4, 4, 1).to_luma8().save(&good).unwrap();
    let bytes = std::fs::read(&good).unwrap();
    let (opened, applied) = (preprocessor.open(&good).unwrap(), preprocessor.apply(&bytes).unwrap());
    assert_eq!(opened.to_vec3::<f32>().unwrap(), applied.to_vec3::<f32>().unwrap());
    let bad = folder.path().join("bad.png");
    std::fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    for path in [&bad, folder.path(), &folder.path().join("nowhere.png")] {
        let message = preprocessor.open(path).unwrap_err().to_string();
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
    }
}
