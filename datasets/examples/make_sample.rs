//! Makes `datasets/sample/` from the original files of Fashion-MNIST: the first 1,000 training and the first 200 test
//! images of each class, in their original order, as PNG in parquet in the Hugging Face layout.
//!
//! ```sh
//! apt-get install dataset-fashion-mnist
//! cargo run --release -p lmht-datasets --example make_sample -- /usr/share/datasets/fashion-mnist datasets/sample
//! ```
//!
//! The same input gives the same bytes, as long as `png`, `flate2`, `parquet` and `zstd` have the versions of
//! `Cargo.lock`.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Height and width of an image, in pixels.
const SIDE: usize = 28;
/// Rows in a row group: what a reader holds in memory at a time.
const ROW_GROUP: usize = 1_000;
/// The names in the order of the labels, as in the README of Fashion-MNIST.
const CLASS_NAMES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err("usage: make_sample <folder of the four *-ubyte.gz files> <folder to write to>".into());
    };
    fs::create_dir_all(to)?;
    for (original, split, per_class) in [("train", "train", 1_000), ("t10k", "test", 200)] {
        let images = read_idx(&Path::new(from).join(format!("{original}-images-idx3-ubyte.gz")), &[SIDE, SIDE])?;
        let labels = read_idx(&Path::new(from).join(format!("{original}-labels-idx1-ubyte.gz")), &[])?;
        if images.len() != labels.len() * SIDE * SIDE {
            return Err(format!("{original}: {} labels for {} bytes of images", labels.len(), images.len()).into());
        }
        let path = Path::new(to).join(format!("{split}-00000-of-00001.parquet"));
        let rows = select(&images, &labels, per_class, original)?;
        write(&path, &rows)?;
        println!("{}: {} images, {} bytes", path.display(), rows.len(), fs::metadata(&path)?.len());
    }
    Ok(())
}

/// The content of a gzipped IDX file of bytes: a magic number with the number of dimensions, the dimensions as
/// big-endian `u32`, then the values. `shape` is what follows the first dimension.
fn read_idx(path: &Path, shape: &[usize]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).map_err(|e| format!("{}: {e}", path.display()))?).read_to_end(&mut bytes)?;
    let words: Vec<usize> = bytes
        .chunks_exact(4)
        .take(2 + shape.len())
        .map(|word| word.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
        .collect();
    let header = 4 * (2 + shape.len());
    // Third byte 8: unsigned bytes; fourth: dimensions.
    if words.first() != Some(&(0x0800 + 1 + shape.len()))
        || words[2..] != *shape
        || bytes.len() != header + words[1..].iter().product::<usize>()
    {
        return Err(format!("{}: expected an IDX file of bytes with images of {shape:?}", path.display()).into());
    }
    Ok(bytes.split_off(header))
}

/// A row of the table.
struct Row {
    png: Vec<u8>,
    path: String,
    label: i64,
}

/// The first `per_class` images of each class, in the order of the file.
fn select(images: &[u8], labels: &[u8], per_class: usize, name: &str) -> Result<Vec<Row>> {
    let mut n_of_class = [0; CLASS_NAMES.len()];
    let mut rows = Vec::new();
    for (index, (pixels, &label)) in images.chunks_exact(SIDE * SIDE).zip(labels).enumerate() {
        let n =
            n_of_class.get_mut(usize::from(label)).ok_or_else(|| format!("{name}, image {index}: label {label}"))?;
        if *n < per_class {
            *n += 1;
            rows.push(Row { png: encode(pixels)?, path: format!("{name}-{index:05}.png"), label: label.into() });
        }
    }
    Ok(rows)
}

/// A PNG that stores its pixels as they are: the page around a thousand of them is compressed as a whole, which makes
/// the table 4 % smaller than compressing each image at best, and quicker to read.
fn encode(pixels: &[u8]) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Uncompressed, FilterType::NoFilter).write_image(
        pixels,
        SIDE as u32,
        SIDE as u32,
        ExtendedColorType::L8,
    )?;
    Ok(png)
}

fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let schema = parse_message_type(
        "message schema {
            optional group image { optional binary bytes; optional binary path (STRING); }
            optional int64 label;
        }",
    )?;
    let names = CLASS_NAMES.map(|name| format!("\"{name}\"")).join(", ");
    let features = format!(
        "{{\"info\": {{\"features\": {{\"image\": {{\"_type\": \"Image\"}}, \
         \"label\": {{\"names\": [{names}], \"_type\": \"ClassLabel\"}}}}}}}}"
    );
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(22)?))
        .set_dictionary_enabled(false)
        .set_created_by("lmht-datasets make_sample".to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), features)]))
        .build();
    let mut file = SerializedFileWriter::new(File::create(path)?, Arc::new(schema), Arc::new(properties))?;
    for rows in rows.chunks(ROW_GROUP) {
        let mut group = file.next_row_group()?;
        let (present, nested) = (vec![1; rows.len()], vec![2; rows.len()]);
        let pngs: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.png.clone())).collect();
        let paths: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.path.as_str())).collect();
        let labels: Vec<i64> = rows.iter().map(|row| row.label).collect();
        for values in [&pngs, &paths] {
            let mut column = group.next_column()?.ok_or("the schema has three columns")?;
            column.typed::<ByteArrayType>().write_batch(values, Some(&nested), None)?;
            column.close()?;
        }
        let mut column = group.next_column()?.ok_or("the schema has three columns")?;
        column.typed::<Int64Type>().write_batch(&labels, Some(&present), None)?;
        column.close()?;
        group.close()?;
    }
    file.close()?;
    Ok(())
}
