//! [`Preprocessor`]: what turns an image of any size into the input of a trained network, kept beside its weights as
//! `preprocessor_config.json`.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::decode::{self, Fit, Refusal};
use crate::error::{Error, Place, Result};
use crate::guard::guard;
use crate::transform::{MAX_SIDE, Window};
use crate::{Loader, Normalize};

/// What happens to an image before a network sees it: decoded, brought to `size`, the middle cut out, normalized.
///
/// As JSON it is what `transformers` calls the configuration of an image processor (`do_resize`, `size`, `do_center_crop`,
/// `crop_size`, `resample`, `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`, `do_convert_rgb`),
/// with what that has no word for under the key `lmht`. Other keys are passed over; a value that asks for something
/// that is not done here is refused. Interpolation is antialiased bilinear (`"resample": 2`).
///
/// ```
/// use lmht_datasets::{Fit, Normalize, Preprocessor};
///
/// let preprocessor = Preprocessor {
///     fit: Fit::Cover,
///     center_crop: Some((224, 224)),
///     ..Preprocessor::new(3, (256, 256), Normalize::imagenet())
/// };
/// let json = serde_json::to_value(&preprocessor).unwrap();
/// assert_eq!(json["size"]["shortest_edge"], 256);
/// assert_eq!(json["crop_size"]["height"], 224);
/// assert_eq!(serde_json::from_value::<Preprocessor>(json).unwrap(), preprocessor);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Preprocessor {
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// (height, width) in pixels that an image is brought to.
    pub size: (usize, usize),
    /// How it is brought there.
    pub fit: Fit,
    /// (height, width) of the middle that is cut out then.
    pub center_crop: Option<(usize, usize)>,
    /// Mean and standard deviation of each channel, as they were used.
    pub normalize: Normalize,
    /// The names of the classes, in the order of their labels.
    pub class_names: Option<Vec<String>>,
    /// The column of images in the data set that the network learned from.
    pub image_column: Option<String>,
    /// The column of labels there.
    pub label_column: Option<String>,
}

impl Preprocessor {
    /// Images of exactly one size, without names.
    pub fn new(channels: usize, size: (usize, usize), normalize: Normalize) -> Self {
        Self {
            channels,
            size,
            fit: Fit::Exact,
            center_crop: None,
            normalize,
            class_names: None,
            image_column: None,
            label_column: None,
        }
    }

    /// What a loader for evaluation does to an image.
    ///
    /// # Errors
    /// [`Error::Config`] if it augments: what is random belongs to no trained network.
    pub fn of(loader: &Loader) -> Result<Self> {
        let config = loader.config();
        if config.augment != crate::Augment::default() || config.mix.is_some() {
            return Err(Error::Config(
                "Preprocessor::of: expected a loader for evaluation, found one that augments its images; make it with \
                 LoaderConfig::eval"
                    .to_owned(),
            ));
        }
        let data = loader.about().ok_or_else(|| {
            Error::Config("Preprocessor::of: expected a loader of images, found one of another data set".to_owned())
        })?;
        let (channels, h, w) = data.shape();
        Ok(Self {
            fit: data.fit(),
            center_crop: config.center_crop,
            class_names: data.class_names().map(<[_]>::to_vec),
            image_column: data.columns().map(|(image, _)| image.to_owned()),
            label_column: data.columns().map(|(_, label)| label.to_owned()),
            ..Self::new(channels, (h, w), loader.normalize().clone())
        })
    }

    /// The input of one image, `f32`, `[C, H, W]`, from the bytes of its file; the same bits as in an evaluation batch.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::ImageFormat`]; [`Error::ImageSize`] if another size is not brought to `size`;
    /// [`Error::TooLarge`], before memory is taken, for more than 2^28 bytes of pixels; [`Error::Config`] for a
    /// preprocessor that makes no sense. They name the place `image`.
    pub fn apply(&self, bytes: &[u8]) -> Result<Tensor> {
        self.input(bytes, Path::new("image"))
    }

    /// [`Preprocessor::apply`] to the file of an image: PNG, JPEG, WebP, BMP, GIF (the first frame) or TIFF, told by its
    /// content.
    ///
    /// # Errors
    /// [`Error::Io`], and as [`Preprocessor::apply`], with the path of the file.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Tensor> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.to_path_buf(), doing: "read the image", source };
        let metadata = fs::metadata(path).map_err(io)?;
        // A pipe or a device may have no end.
        if !metadata.is_file() || metadata.len() > decode::MAX_IMAGE_BYTES {
            let reason = if metadata.is_file() { "it has more than 2^28 bytes" } else { "it is no file" };
            return Err(Error::Decode { at: Place { path: path.into(), row: None }, reason: reason.to_owned() });
        }
        self.input(&fs::read(path).map_err(io)?, path)
    }

    fn input(&self, bytes: &[u8], path: &Path) -> Result<Tensor> {
        self.check()?;
        let at = || Place { path: path.into(), row: None };
        let (h, w) = self.size;
        let (out_h, out_w) = self.output_size();
        let refuse = |refusal| match refusal {
            Refusal::Decode(reason) => Error::Decode { at: at(), reason },
            Refusal::Format(format) => Error::ImageFormat { at: at(), format },
            Refusal::Size(found) => Error::ImageSize { at: at(), expected: self.size, found },
        };
        let pixels = guard(path, || {
            let header = decode::header(bytes).map_err(refuse)?;
            if header.n_bytes > decode::MAX_IMAGE_BYTES {
                return Err(Error::TooLarge {
                    at: at(),
                    bytes: header.n_bytes,
                    limit: decode::MAX_IMAGE_BYTES,
                    scope: "in an image",
                    option: "max_image_bytes",
                });
            }
            let image = decode::decode(bytes, self.size, self.fit).map_err(refuse)?;
            let mut chw = vec![0; self.channels * h * w];
            decode::write_chw(&image, self.channels, &mut chw);
            Ok(Window::centre(self.size, (out_h, out_w)).cut(&chw, h, w))
        })?;
        let table = self.normalize.table();
        let planes = pixels.chunks_exact(out_h * out_w).zip(&table);
        let values: Vec<f32> =
            planes.flat_map(|(plane, table)| plane.iter().map(|byte| table[usize::from(*byte)])).collect();
        Ok(Tensor::from_vec(values, (self.channels, out_h, out_w), &Device::Cpu)?)
    }

    /// (height, width) of what a network sees.
    pub fn output_size(&self) -> (usize, usize) {
        self.center_crop.unwrap_or(self.size)
    }

    /// The preprocessing of a trained network: of a model folder, of a run or of one of its checkpoints, with the feature
    /// `hub` also of `owner/name@revision` on the Hugging Face Hub. With the network
    /// that `from_pretrained` of `lmht-nn` builds of the same path, it is everything that an image needs.
    ///
    /// ```no_run
    /// let preprocessor = lmht_datasets::Preprocessor::from_pretrained("runs/mine")?;
    /// let image = preprocessor.open("cat.png")?; // [C, H, W]
    /// let names = preprocessor.class_names.unwrap_or_default();
    /// # Ok::<(), lmht_datasets::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoPreprocessor`] if there is none, which folders of older versions lack; as [`Preprocessor::load`].
    pub fn from_pretrained(path: impl AsRef<Path>) -> Result<Self> {
        Self::load(find(path.as_ref())?)
    }

    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Preprocessor`], which names the entry.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.to_path_buf(), doing: "read the preprocessing", source };
        Self::parse(&fs::read_to_string(path).map_err(io)?, path)
    }

    /// [`load`](Self::load) of the text of a file; `path` stands in errors.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
        let wrong = |(key, expected, found)| Error::Preprocessor { path: path.to_path_buf(), key, expected, found };
        let json: Value =
            serde_json::from_str(text).map_err(|e| wrong(("the file".to_owned(), "JSON".to_owned(), e.to_string())))?;
        parse(&json).map_err(wrong)
    }

    /// The text of `preprocessor_config.json`.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::from(self.clone()))
    }

    fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(format!("Preprocessor::{message}")));
        let ((h, w), (out_h, out_w)) = (self.size, self.output_size());
        if ![1, 3].contains(&self.channels) {
            return fail(format!("channels: expected 1 (gray) or 3 (RGB), found {}", self.channels));
        }
        if ![h, w].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return fail(format!("size: expected (height, width) of 1 to {MAX_SIDE} pixels, found ({h}, {w})"));
        }
        if !(1..=h).contains(&out_h) || !(1..=w).contains(&out_w) {
            return fail(format!("center_crop: expected at most the size, ({h}, {w}), found ({out_h}, {out_w})"));
        }
        self.normalize.check(self.channels)
    }
}

/// The `preprocessor_config.json` of a model folder, a run or a checkpoint.
pub(crate) fn find(path: &Path) -> Result<PathBuf> {
    #[cfg(feature = "hub")]
    if let Some(repo) = lmht_hub::Repo::at(lmht_hub::RepoKind::Model, path) {
        let folder = lmht_hub::Hub::from_env().and_then(|hub| hub.model(&repo, &|_| ()));
        return find(&folder.map_err(|source| Error::Hub { given: repo.to_string(), source })?);
    }
    let io = |source| Error::Io { path: path.to_path_buf(), doing: "find the model", source };
    // A relative path may show no folder above it.
    let folder = path.canonicalize().map_err(io)?;
    let is_checkpoint = folder.parent().is_some_and(|parent| parent.ends_with("checkpoints"));
    let of_run = folder.ancestors().nth(2).filter(|_| is_checkpoint);
    let places = [Some(folder.clone()), Some(folder.join("model")), of_run.map(Path::to_path_buf)];
    let mut files = places.into_iter().flatten().map(|place| place.join("preprocessor_config.json"));
    files
        .find(|file| !matches!(file.try_exists(), Ok(false)))
        .ok_or_else(|| Error::NoPreprocessor { path: path.to_path_buf() })
}

/// The shortest number that is the same `f32`: 0.4914, not 0.4913999915.
fn number(value: f32) -> f64 {
    let short: f64 = value.to_string().parse().unwrap_or(f64::from(value));
    if short as f32 == value { short } else { f64::from(value) }
}

impl From<Preprocessor> for Value {
    fn from(p: Preprocessor) -> Self {
        let sides = |(h, w): (usize, usize)| json!({ "height": h, "width": w });
        let (h, w) = p.size;
        let is_cover = p.fit == Fit::Cover;
        let size = if is_cover && h == w { json!({ "shortest_edge": h }) } else { sides(p.size) };
        let crop = p.center_crop.or(is_cover.then_some(p.size));
        let numbers = |values: &[f32]| -> Vec<f64> { values.iter().map(|value| number(*value)).collect() };
        let mut json = json!({
            "do_convert_rgb": p.channels == 3,
            "do_resize": p.fit != Fit::Exact,
            "size": size,
            "resample": BILINEAR,
            "do_center_crop": crop.is_some(),
            "crop_size": sides(crop.unwrap_or(p.size)),
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": numbers(&p.normalize.mean),
            "image_std": numbers(&p.normalize.std),
        });
        json["lmht"] = json!({
            "class_names": p.class_names,
            "image_column": p.image_column,
            "label_column": p.label_column,
        });
        if is_cover && h != w {
            // `transformers` has no word for it.
            json["lmht"]["fit"] = json!(Fit::Cover);
        }
        json
    }
}

impl TryFrom<Value> for Preprocessor {
    type Error = String;

    fn try_from(json: Value) -> std::result::Result<Self, String> {
        parse(&json).map_err(|(key, expected, found)| format!("{key}: expected {expected}, found {found}"))
    }
}

/// Pillow's number for bilinear interpolation.
const BILINEAR: u64 = 2;

/// The entry, what it may be, and what it is.
type Wrong = (String, String, String);

fn wrong(key: &str, expected: &str, found: &Value) -> Wrong {
    (key.to_owned(), expected.to_owned(), found.to_string())
}

/// The value of a key; none if it is not there or null.
fn get<T: serde::de::DeserializeOwned>(
    json: &Map<String, Value>,
    key: &str,
    expected: &str,
) -> std::result::Result<Option<T>, Wrong> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|_| wrong(key, expected, value)),
    }
}

#[derive(Deserialize)]
struct Sides {
    height: usize,
    width: usize,
}

fn parse(json: &Value) -> std::result::Result<Preprocessor, Wrong> {
    let object = |value: &Value, key: &str| value.as_object().cloned().ok_or_else(|| wrong(key, "an object", value));
    let all = object(json, "the file")?;
    let ours = all.get("lmht").map_or(Ok(Map::new()), |value| object(value, "lmht"))?;
    if ours.get("events").is_some_and(|events| !events.is_null()) {
        let found = "a recipe for frames of events, which EventPreprocessor reads".to_owned();
        return Err(("lmht.events".to_owned(), "the preprocessing of images".to_owned(), found));
    }
    let flag = |key| get::<bool>(&all, key, "true or false");
    const SIDES: &str = "{\"height\", \"width\"} in pixels";
    type Size = Option<(usize, usize)>;
    let sides = |json, key| -> std::result::Result<Size, Wrong> {
        Ok(get::<Sides>(json, key, SIDES)?.map(|sides| (sides.height, sides.width)))
    };

    if flag("do_rescale")? == Some(false) {
        return Err(wrong("do_rescale", "true: pixels come as 0..1", &all["do_rescale"]));
    }
    let factor: Option<f64> = get(&all, "rescale_factor", "1/255")?;
    if let Some(factor) = factor.filter(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
        return Err(wrong("rescale_factor", "1/255", &json!(factor)));
    }
    let values = |key| get::<Vec<f32>>(&all, key, "a number for each channel");
    let (mean, std) = match flag("do_normalize")? {
        Some(false) => (None, None),
        _ => (values("image_mean")?, values("image_std")?),
    };
    let by_mean = mean.as_ref().or(std.as_ref()).map(Vec::len);
    let channels = by_mean.unwrap_or(if flag("do_convert_rgb")? == Some(false) { 1 } else { 3 });
    let unit = Normalize::unit(channels);
    let normalize = Normalize { mean: mean.unwrap_or(unit.mean), std: std.unwrap_or(unit.std) };

    let resizes = flag("do_resize")?.unwrap_or(true);
    let crops = flag("do_center_crop")?.unwrap_or(false);
    let other = |value: &&Value| !value.is_null() && **value != json!(BILINEAR);
    if let Some(resample) = all.get("resample").filter(|_| resizes).filter(other) {
        return Err(wrong("resample", "2 (bilinear)", resample));
    }
    let crop = if crops { sides(&all, "crop_size")? } else { None };
    let expected = "{\"height\", \"width\"}, or {\"shortest_edge\"} with do_center_crop";
    let missing = || wrong("size", expected, all.get("size").unwrap_or(&Value::Null));
    let shortest = all.get("size").and_then(|size| size.get("shortest_edge")).and_then(Value::as_u64);
    let (size, fit) = match shortest {
        Some(edge) if resizes && crop.is_some() => {
            let edge = usize::try_from(edge).map_err(|_| missing())?;
            ((edge, edge), Fit::Cover)
        }
        Some(_) => return Err(missing()),
        None => {
            let fit = match (resizes, crop) {
                (false, _) => Fit::Exact,
                (true, Some(_)) => get(&ours, "fit", "`stretch` or `cover`")?.unwrap_or(Fit::Stretch),
                (true, None) => Fit::Stretch,
            };
            let size = if all.contains_key("size") { sides(&all, "size")? } else { crop };
            (size.ok_or_else(missing)?, fit)
        }
    };
    // The middle of a cover is cut out as it is.
    let center_crop = crop.filter(|crop| fit != Fit::Cover || *crop != size);
    let preprocessor = Preprocessor {
        class_names: get(&ours, "class_names", "a list of names")?,
        image_column: get(&ours, "image_column", "a name")?,
        label_column: get(&ours, "label_column", "a name")?,
        fit,
        center_crop,
        ..Preprocessor::new(channels, size, normalize)
    };
    preprocessor.check().map_err(|error| ("the file".to_owned(), "a preprocessing".to_owned(), error.to_string()))?;
    Ok(preprocessor)
}
