//! Writes small parquet files for the other tests, good ones and bad ones.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// Every compression that is read.
pub(crate) const COMPRESSIONS: [fn() -> Compression; 7] = [
    || Compression::UNCOMPRESSED,
    || Compression::SNAPPY,
    || Compression::GZIP(GzipLevel::default()),
    || Compression::BROTLI(BrotliLevel::default()),
    || Compression::LZ4,
    || Compression::LZ4_RAW,
    || Compression::ZSTD(ZstdLevel::default()),
];

/// An encoded image and a label; `None` is null.
pub(crate) type Row = (Option<Vec<u8>>, Option<i64>);

/// How a table is laid out; the default is that of the Hub.
#[derive(Clone)]
pub(crate) struct Layout {
    /// Of the struct `{bytes, path}`, or of the binary column if `plain`.
    pub(crate) image: &'static str,
    pub(crate) plain: bool,
    pub(crate) label: &'static str,
    /// `int64` or `int32`.
    pub(crate) label_type: &'static str,
    pub(crate) required: bool,
    pub(crate) rows_per_group: usize,
    pub(crate) compression: Compression,
    pub(crate) metadata: Option<String>,
    /// Labels as text: these in place of the numbers.
    pub(crate) names: Option<&'static [&'static str]>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            image: "image",
            plain: false,
            label: "label",
            label_type: "int64",
            required: false,
            rows_per_group: 1000,
            compression: Compression::SNAPPY,
            metadata: None,
            names: None,
        }
    }
}

impl Layout {
    pub(crate) fn zstd() -> Self {
        Self { compression: Compression::ZSTD(ZstdLevel::default()), ..Self::default() }
    }

    /// Writes `rows` to `path`.
    pub(crate) fn write(&self, path: impl AsRef<Path>, rows: &[Row]) {
        let Self { image, label, label_type, .. } = self;
        let optional = if self.required { "required" } else { "optional" };
        let columns = match self.plain {
            true => format!("{optional} binary {image};"),
            false => format!("optional group {image} {{ optional binary bytes; optional binary path (STRING); }}"),
        };
        let labels = match self.names {
            Some(_) => format!("{optional} binary {label} (STRING);"),
            None => format!("{optional} {label_type} {label};"),
        };
        let schema = format!("message schema {{ {columns} {labels} }}");
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let pairs = self.metadata.clone().map(|json| vec![KeyValue::new("huggingface".to_owned(), json)]);
        let properties =
            WriterProperties::builder().set_compression(self.compression).set_key_value_metadata(pairs).build();
        let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
        // The definition level of a value that is there.
        let (nested, flat) = (2 - i16::from(self.plain), 1);
        for rows in rows.chunks(self.rows_per_group) {
            let mut group = file.next_row_group().unwrap();
            let levels = |level: i16, there: &dyn Fn(&Row) -> bool| -> Option<Vec<i16>> {
                (!self.required).then(|| rows.iter().map(|row| if there(row) { level } else { level - 1 }).collect())
            };
            let images: Vec<ByteArray> = rows.iter().filter_map(|(i, _)| i.clone()).map(ByteArray::from).collect();
            let image_levels = levels(nested, &|(image, _)| image.is_some());
            let label_levels = levels(flat, &|(_, label)| label.is_some());
            let labels: Vec<i64> = rows.iter().filter_map(|(_, label)| *label).collect();

            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&images, image_levels.as_deref(), None).unwrap();
            column.close().unwrap();
            if !self.plain {
                // No path, as for images that are embedded.
                let mut column = group.next_column().unwrap().unwrap();
                column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; rows.len()]), None).unwrap();
                column.close().unwrap();
            }
            let mut column = group.next_column().unwrap().unwrap();
            match (self.names, self.label_type) {
                (Some(names), _) => {
                    let labels: Vec<ByteArray> = labels.iter().map(|label| names[*label as usize].into()).collect();
                    column.typed::<ByteArrayType>().write_batch(&labels, label_levels.as_deref(), None).unwrap();
                }
                (None, "int32") => {
                    let labels: Vec<i32> = labels.iter().map(|label| *label as i32).collect();
                    column.typed::<Int32Type>().write_batch(&labels, label_levels.as_deref(), None).unwrap();
                }
                _ => {
                    column.typed::<Int64Type>().write_batch(&labels, label_levels.as_deref(), None).unwrap();
                }
            }
            column.close().unwrap();
            group.close().unwrap();
        }
        file.close().unwrap();
    }
}

/// A row that is as it should be.
pub(crate) fn row(image: Vec<u8>, label: i64) -> Row {
    (Some(image), Some(label))
}

/// A gray PNG of `h` rows and `w` columns with the value `base + 10 * row + column`.
pub(crate) fn gray_png(h: u32, w: u32, base: u8) -> Vec<u8> {
    let image = GrayImage::from_fn(w, h, |x, y| [base + 10 * y as u8 + x as u8].into());
    encode(image.into(), ImageFormat::Png)
}

/// An RGB PNG of `h` rows and `w` columns with the value `base + 100 * channel + 10 * row + column`.
pub(crate) fn rgb_png(h: u32, w: u32, base: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(w, h, |x, y| [0, 100, 200].map(|c| base + c + 10 * y as u8 + x as u8).into());
    encode(image.into(), ImageFormat::Png)
}

/// The file of an image.
pub(crate) fn encode(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
