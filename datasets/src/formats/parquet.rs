//! One parquet file as a table of (encoded image, label): finds the two columns, reads them in chunks with the typed
//! column readers, and turns every way in which a file can be wrong into an [`Error`].

mod pages;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Type as PhysicalType};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::DataType;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::RowGroupReader;
use ::parquet::file::serialized_reader::SerializedRowGroupReader;
use ::parquet::schema::types::ColumnDescriptor;

use super::{Encoded, Format, Label, MAX_HELD, Rows, Splits, Table, ends_in, entries, name, split_of};
use crate::ReadOptions;
use crate::error::{Error, Place, Result};
use crate::guard::guard;
use crate::split::{canonical, is_usual};

/// Column names for images that the Hub uses.
const IMAGE_COLUMNS: [&str; 2] = ["image", "img"];
/// Column names for labels that the Hub uses; `fine_label` is CIFAR-100's.
const LABEL_COLUMNS: [&str; 3] = ["label", "fine_label", "labels"];

/// Rows that a file may have that is smaller than a byte for each.
const MAX_ROWS_OF_NOTHING: u64 = 1 << 20;

/// Parquet files, as Hugging Face's `datasets` and the Hub write them.
pub(crate) struct Parquet;

impl Format for Parquet {
    fn takes(&self, file: &Path) -> bool {
        ends_in(file, "parquet")
    }

    /// `train.parquet`, `train-00000-of-00001.parquet`, and what lies in `train/`.
    fn splits(&self, folder: &Path, _options: &ReadOptions) -> Result<Splits> {
        let mut splits = Splits::new();
        for entry in entries(folder)? {
            if entry.is_dir() && is_usual(&name(&entry)) {
                let files: Vec<_> = entries(&entry)?.into_iter().filter(|file| self.takes(file)).collect();
                if !files.is_empty() {
                    splits.entry(canonical(&name(&entry)).to_owned()).or_default().extend(files);
                }
            } else if self.takes(&entry) && entry.is_file() {
                splits.entry(split_of(&entry)).or_default().push(entry);
            }
        }
        Ok(splits)
    }

    fn open(&self, file: &Path, options: &ReadOptions) -> Result<Box<dyn Table>> {
        Ok(Box::new(ParquetTable::open(file, options)?))
    }
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Parquet { path: path.to_path_buf(), reason }
}

/// A parquet file whose footer is read, with its image and label columns found. It is open only while rows are read: a data
/// set may have more shards than a process may have files.
struct ParquetTable {
    path: PathBuf,
    metadata: ParquetMetaData,
    image: usize,
    label: usize,
    /// `image.bytes` or the like, for messages.
    image_name: String,
    label_name: String,
    /// Rows that the file's footer promises.
    n_rows: usize,
    n_bytes: u64,
    /// The names of the classes, where the file has Hugging Face's metadata.
    class_names: Option<Vec<String>>,
}

impl ParquetTable {
    /// Opens `path` and finds the columns.
    fn open(path: &Path, options: &ReadOptions) -> Result<Self> {
        guard(path, || {
            let io = |source| Error::Io { path: path.to_path_buf(), doing: "open the file", source };
            let file = File::open(path).map_err(io)?;
            let size = file.metadata().map_err(io)?.len();
            let metadata = ParquetMetaDataReader::new()
                .parse_and_finish(&file)
                .map_err(|e| damaged(path, format!("its {size} bytes do not hold one ({})", words(e))))?;
            let columns = metadata.file_metadata().schema_descr().columns();
            let image = find_image(path, columns, options.image_column.as_deref())?;
            let label = find_label(path, columns, options.label_column.as_deref())?;
            let n_rows = metadata.row_groups().iter().try_fold(0usize, |sum, group| {
                let rows = usize::try_from(group.num_rows()).ok();
                rows.and_then(|rows| sum.checked_add(rows))
                    .ok_or_else(|| damaged(path, format!("a row group claims {} rows", group.num_rows())))
            })?;
            // A run of equal labels takes no room: without a bound, a kilobyte could promise any number of them.
            if n_rows as u64 > size.max(MAX_ROWS_OF_NOTHING) {
                return Err(damaged(path, format!("its {size} bytes promise {n_rows} rows")));
            }
            for group in metadata.row_groups() {
                for column in [image, label] {
                    // The others are in the features of the crate.
                    if let codec @ Compression::LZO = group.columns()[column].compression() {
                        return Err(Error::Codec { path: path.to_path_buf(), codec: codec.to_string() });
                    }
                }
            }
            let label_name = columns[label].path().string();
            let class_names = metadata.file_metadata().key_value_metadata().and_then(|pairs| {
                let pair = pairs.iter().find(|pair| pair.key == "huggingface")?;
                class_names(pair.value.as_deref()?, &label_name)
            });
            Ok(Self {
                image_name: columns[image].path().string(),
                path: path.to_path_buf(),
                image,
                label,
                label_name,
                n_rows,
                n_bytes: size,
                class_names,
                metadata,
            })
        })
    }

    /// The file, which has to be the one whose footer was read.
    fn file(&self) -> Result<Arc<File>> {
        let io = |source| Error::Io { path: self.path.clone(), doing: "open the file", source };
        let file = File::open(&self.path).map_err(io)?;
        let n_bytes = file.metadata().map_err(io)?.len();
        if n_bytes != self.n_bytes {
            let reason = format!("it had {} bytes when it was opened first, and now has {n_bytes}", self.n_bytes);
            return Err(damaged(&self.path, reason));
        }
        Ok(Arc::new(file))
    }

    /// The reader of a column of a row group, whose first row is `first`; refuses a page that would burst.
    fn column(&self, file: &Arc<File>, group: usize, column: usize, first: usize) -> Result<ColumnReader> {
        let rows = self.metadata.row_group(group);
        pages::check(file, rows.column(column))
            .map_err(|e| damaged(&self.path, format!("in row group {group} {e}")))?;
        let (pages, properties) = (self.metadata.page_index_for_row_group(group), ReaderProperties::builder().build());
        let reader = SerializedRowGroupReader::new(file.clone(), rows, pages, Arc::new(properties));
        reader.and_then(|reader| reader.get_column_reader(column)).map_err(|e| self.damaged(first, e))
    }

    fn n_rows_of(&self, group: usize) -> usize {
        self.metadata.row_group(group).num_rows() as usize
    }

    fn read_labels(&self, reader: &mut ColumnReader, wanted: usize, first: usize) -> Result<Vec<Label>> {
        match reader {
            ColumnReader::Int32ColumnReader(reader) => {
                let labels = self.read(reader, wanted, first, &self.label_name)?;
                Ok(labels.into_iter().map(|label| Label::Number(label.into())).collect())
            }
            ColumnReader::Int64ColumnReader(reader) => {
                let labels = self.read(reader, wanted, first, &self.label_name)?;
                Ok(labels.into_iter().map(Label::Number).collect())
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                let text = |(i, label): (usize, Encoded)| match label.as_utf8() {
                    Ok(text) => Ok(Label::Text(text.to_owned())),
                    Err(_) => Err(damaged(&self.path, format!("the label in row {} is not UTF-8", first + i))),
                };
                self.read(reader, wanted, first, &self.label_name)?.into_iter().enumerate().map(text).collect()
            }
            _ => Err(damaged(&self.path, format!("`{}` is neither a number nor text after all", self.label_name))),
        }
    }

    /// Up to `wanted` values of one column, none of them null; `first` is the row of the first one.
    fn read<T: DataType>(
        &self,
        reader: &mut ColumnReaderImpl<T>,
        wanted: usize,
        first: usize,
        column: &str,
    ) -> Result<Vec<T::T>> {
        let schema = self.metadata.file_metadata().schema_descr();
        let index = if column == self.image_name { self.image } else { self.label };
        let present = schema.column(index).max_def_level();
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (n_rows, n_values, _) =
            reader.read_records(wanted, Some(&mut levels), None, &mut values).map_err(|e| self.damaged(first, e))?;
        if let Some(null) = levels.iter().position(|level| *level != present) {
            let hint = match column.ends_with(".bytes") {
                true => {
                    "; if the images lie beside the table, as paths, embed them (in `datasets`: embed_external_files)"
                }
                false => "; remove the row",
            };
            return Err(Error::Null { at: self.place(first + null), column: column.to_owned(), hint });
        }
        if n_rows != n_values || values.len() != n_values {
            let reason = format!("from row {first} on `{column}` has {n_values} values in {n_rows} rows");
            return Err(damaged(&self.path, reason));
        }
        Ok(values)
    }

    fn damaged(&self, row: usize, error: ParquetError) -> Error {
        damaged(&self.path, format!("its rows from {row} on cannot be read ({})", words(error)))
    }
}

impl Table for ParquetTable {
    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn columns(&self) -> Option<(&str, &str)> {
        Some((self.image_name.trim_end_matches(".bytes"), &self.label_name))
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn place(&self, row: usize) -> Place {
        Place { path: self.path.clone(), row: Some(row) }
    }

    fn groups(&self) -> Vec<usize> {
        (0..self.metadata.num_row_groups()).map(|group| self.n_rows_of(group)).collect()
    }

    fn read_group(&self, group: usize, chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let mut first = (0..group).map(|group| self.n_rows_of(group)).sum();
        let (mut images, mut labels) = guard(&self.path, || {
            let file = self.file()?;
            let images = self.column(&file, group, self.image, first)?;
            let labels = self.column(&file, group, self.label, first)?;
            let ColumnReader::ByteArrayColumnReader(images) = images else {
                return Err(damaged(&self.path, format!("`{}` is not binary after all", self.image_name)));
            };
            Ok((images, labels))
        })?;
        let n_rows = self.n_rows_of(group);
        let end = first + n_rows;
        let bytes = self.metadata.row_group(group).column(self.image).uncompressed_size();
        let mean = u64::try_from(bytes).unwrap_or(0) / (n_rows as u64).max(1);
        let chunk = chunk.min((MAX_HELD / mean.max(1)).max(1) as usize);
        loop {
            // At the end of a group, ask for one more row: a footer that promises too few would hide the rest.
            let wanted = chunk.min(end - first).max(1);
            let rows = guard(&self.path, || {
                let images = self.read(&mut images, wanted, first, &self.image_name)?;
                let labels = self.read_labels(&mut labels, wanted, first)?;
                Ok(Rows { first, images, labels })
            })?;
            let n_read = rows.images.len();
            if rows.labels.len() != n_read || (n_read < wanted) != (first == end) {
                return Err(damaged(
                    &self.path,
                    format!(
                        "row group {group} promises rows up to {end}, and from row {first} on {wanted} were asked \
                         for, {n_read} images and {} labels came",
                        rows.labels.len()
                    ),
                ));
            }
            if n_read == 0 {
                return Ok(());
            }
            first += n_read;
            visit(rows)?;
        }
    }

    /// The images are not even decompressed.
    fn labels(&self) -> Result<Vec<Label>> {
        guard(&self.path, || {
            let (file, mut all) = (self.file()?, Vec::new());
            for group in 0..self.metadata.num_row_groups() {
                let (first, n_rows) = (all.len(), self.n_rows_of(group));
                let mut reader = self.column(&file, group, self.label, first)?;
                // In chunks, so that a damaged row count cannot ask for memory that the rows would not fill.
                while all.len() < first + n_rows {
                    let labels = self.read_labels(&mut reader, (first + n_rows - all.len()).min(8192), all.len())?;
                    if labels.is_empty() {
                        let reason = format!("row group {group} ends at row {} of {}", all.len(), first + n_rows);
                        return Err(damaged(&self.path, reason));
                    }
                    all.extend(labels);
                }
            }
            Ok(all)
        })
    }
}

/// The library's words without its own prefix, and on one line.
fn words(error: ParquetError) -> String {
    match error {
        ParquetError::General(words) | ParquetError::EOF(words) | ParquetError::NYI(words) => words,
        other => other.to_string(),
    }
    .replace('\n', " ")
}

/// The index of the leaf column with the images: `image.bytes`, `img.bytes`, or a plain binary column.
fn find_image(path: &Path, columns: &[Arc<ColumnDescriptor>], name: Option<&str>) -> Result<usize> {
    let named = |name: &str| {
        let nested = format!("{name}.bytes");
        columns.iter().position(|column| {
            let leaf = column.path().string();
            (leaf == name || leaf == nested) && is_binary(column)
        })
    };
    let found = match name {
        Some(name) => named(name),
        None => IMAGE_COLUMNS.into_iter().find_map(named).or_else(|| {
            let mut binary = columns.iter().enumerate().filter(|(_, column)| is_binary(column));
            // The only one there is cannot be the wrong one.
            binary.next().filter(|_| binary.next().is_none()).map(|(index, _)| index)
        }),
    };
    found.ok_or_else(|| Error::Column {
        path: path.to_path_buf(),
        expected: match name {
            Some(name) => format!("encoded images (binary) in the column `{name}` or `{name}.bytes`"),
            None => "encoded images in a binary column `image.bytes`, `img.bytes`, `image` or `img`".to_owned(),
        },
        columns: list(columns),
        option: "image_column",
    })
}

/// The index of the column with the labels, whole numbers or text.
fn find_label(path: &Path, columns: &[Arc<ColumnDescriptor>], name: Option<&str>) -> Result<usize> {
    let named = |name: &str| {
        columns.iter().position(|column| {
            column.path().string() == name
                && column.max_rep_level() == 0
                && (matches!(column.physical_type(), PhysicalType::INT32 | PhysicalType::INT64) || is_text(column))
        })
    };
    let found = match name {
        Some(name) => named(name),
        None => LABEL_COLUMNS.into_iter().find_map(named),
    };
    found.ok_or_else(|| Error::Column {
        path: path.to_path_buf(),
        expected: match name {
            Some(name) => format!("labels (whole numbers or text) in the column `{name}`"),
            None => "labels (whole numbers or text) in a column `label`, `fine_label` or `labels`".to_owned(),
        },
        columns: list(columns),
        option: "label_column",
    })
}

/// Bytes, one value a row, and not text.
fn is_binary(column: &ColumnDescriptor) -> bool {
    column.physical_type() == PhysicalType::BYTE_ARRAY
        && column.max_rep_level() == 0
        && !is_text(column)
        && column.converted_type() == ConvertedType::NONE
}

fn is_text(column: &ColumnDescriptor) -> bool {
    matches!(column.logical_type_ref(), Some(LogicalType::String | LogicalType::Json | LogicalType::Enum))
        || column.converted_type() == ConvertedType::UTF8
}

/// Every column with its type, for messages.
fn list(columns: &[Arc<ColumnDescriptor>]) -> String {
    let describe = |column: &Arc<ColumnDescriptor>| {
        let kind = match column.physical_type() {
            PhysicalType::BYTE_ARRAY if is_text(column) => "text".to_owned(),
            PhysicalType::BYTE_ARRAY => "binary".to_owned(),
            other => other.to_string().to_lowercase(),
        };
        let repeated = if column.max_rep_level() > 0 { " list" } else { "" };
        format!("`{}` ({kind}{repeated})", column.path().string())
    };
    if columns.is_empty() { "none".to_owned() } else { columns.iter().map(describe).collect::<Vec<_>>().join(", ") }
}

/// The names of a label column's classes in the metadata that Hugging Face's `datasets` writes into parquet files:
/// `{"info": {"features": {"label": {"names": ["cat", ...], "_type": "ClassLabel"}}}}`.
fn class_names(metadata: &str, label: &str) -> Option<Vec<String>> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let names = metadata.get("info")?.get("features")?.get(label)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}
