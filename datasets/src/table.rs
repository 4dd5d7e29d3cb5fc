//! One parquet file as a table of (encoded image, label): finds the two columns, reads them in chunks with the typed
//! column readers, and turns every way in which a file can be wrong into an [`Error`].

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::ParquetOptions;
use crate::error::{Error, Result};

/// Column names for images that the Hub uses.
const IMAGE_COLUMNS: [&str; 2] = ["image", "img"];
/// Column names for labels that the Hub uses; `fine_label` is CIFAR-100's.
const LABEL_COLUMNS: [&str; 3] = ["label", "fine_label", "labels"];

/// Runs `work` on the file at `path` and turns a panic into an error.
///
/// The decoders of pages and images are meant to answer damaged input with an error. Should one of them panic instead
/// (an index past a buffer, a capacity overflow), the damage is still that of one file, and a program that loads data
/// must not end there. Nothing that `work` touches is used after a panic, hence the assertion. The panic hook of the
/// program still runs; with `panic = "abort"` nothing can be caught.
pub(crate) fn guard<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()))
            .unwrap_or_else(|| "no message".to_owned());
        Err(damaged(path, format!("a decoder gave up on it ({words})")))
    })
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Parquet { path: path.to_path_buf(), reason }
}

/// An open parquet file, with its image and label columns found.
pub(crate) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    image: usize,
    label: usize,
    /// `image.bytes` or the like, for messages.
    image_name: String,
    label_name: String,
    /// Rows that the file's footer promises.
    pub(crate) n_rows: usize,
    /// The names of the classes, where the file has Hugging Face's metadata.
    pub(crate) class_names: Option<Vec<String>>,
}

/// Some rows of a table.
pub(crate) struct Rows {
    /// The row in the file of the first one, from 0.
    pub(crate) first: usize,
    pub(crate) images: Vec<ByteArray>,
    pub(crate) labels: Vec<i64>,
}

impl Table {
    /// Opens `path` and finds the columns.
    pub(crate) fn open(path: &Path, options: &ParquetOptions) -> Result<Self> {
        guard(path, || {
            let io = |source| Error::Io { path: path.to_path_buf(), doing: "open the file", source };
            let file = File::open(path).map_err(io)?;
            let size = file.metadata().map_err(io)?.len();
            let reader = SerializedFileReader::new(file)
                .map_err(|e| damaged(path, format!("its {size} bytes do not hold one ({})", words(e))))?;
            let metadata = reader.metadata();
            let columns = metadata.file_metadata().schema_descr().columns();
            let image = find_image(path, columns, options.image_column.as_deref())?;
            let label = find_label(path, columns, options.label_column.as_deref())?;
            let n_rows = metadata.row_groups().iter().try_fold(0usize, |sum, group| {
                let rows = usize::try_from(group.num_rows()).ok();
                rows.and_then(|rows| sum.checked_add(rows))
                    .ok_or_else(|| damaged(path, format!("a row group claims {} rows", group.num_rows())))
            })?;
            let label_name = columns[label].path().string();
            let class_names = metadata.file_metadata().key_value_metadata().and_then(|pairs| {
                let pair = pairs.iter().find(|pair| pair.key == "huggingface")?;
                class_names(pair.value.as_deref()?, &label_name)
            });
            Ok(Self {
                image_name: columns[image].path().string(),
                path: path.to_path_buf(),
                reader,
                image,
                label,
                label_name,
                n_rows,
                class_names,
            })
        })
    }

    /// Hands every row to `visit`, in order and at most `chunk` at a time.
    pub(crate) fn for_each_chunk(&self, chunk: usize, mut visit: impl FnMut(Rows) -> Result<()>) -> Result<()> {
        let mut first = 0;
        for group in 0..self.reader.num_row_groups() {
            let (mut images, mut labels, n_rows) = guard(&self.path, || {
                let rows = self.reader.get_row_group(group).map_err(|e| self.damaged(first, e))?;
                let images = rows.get_column_reader(self.image).map_err(|e| self.damaged(first, e))?;
                let labels = rows.get_column_reader(self.label).map_err(|e| self.damaged(first, e))?;
                let ColumnReader::ByteArrayColumnReader(images) = images else {
                    return Err(damaged(&self.path, format!("`{}` is not binary after all", self.image_name)));
                };
                Ok((images, labels, self.reader.metadata().row_group(group).num_rows() as usize))
            })?;
            let end = first + n_rows;
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
                    break;
                }
                first += n_read;
                visit(rows)?;
            }
        }
        Ok(())
    }

    /// The labels alone, which is quick: the images are not even decompressed.
    pub(crate) fn labels(&self) -> Result<Vec<i64>> {
        guard(&self.path, || {
            let mut all = Vec::new();
            for group in 0..self.reader.num_row_groups() {
                let first = all.len();
                let rows = self.reader.get_row_group(group).map_err(|e| self.damaged(first, e))?;
                let mut reader = rows.get_column_reader(self.label).map_err(|e| self.damaged(first, e))?;
                let n_rows = self.reader.metadata().row_group(group).num_rows() as usize;
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

    fn read_labels(&self, reader: &mut ColumnReader, wanted: usize, first: usize) -> Result<Vec<i64>> {
        match reader {
            ColumnReader::Int32ColumnReader(reader) => {
                let labels = self.read(reader, wanted, first, &self.label_name)?;
                Ok(labels.into_iter().map(i64::from).collect())
            }
            ColumnReader::Int64ColumnReader(reader) => self.read(reader, wanted, first, &self.label_name),
            _ => Err(damaged(&self.path, format!("`{}` is not an integer after all", self.label_name))),
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
        let schema = self.reader.metadata().file_metadata().schema_descr();
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
            return Err(Error::Null { path: self.path.clone(), row: first + null, column: column.to_owned(), hint });
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

/// The library's words without its own prefix, and on one line.
fn words(error: ParquetError) -> String {
    match error {
        ParquetError::General(words) | ParquetError::EOF(words) | ParquetError::NYI(words) => words,
        other => other.to_string(),
    }
    .replace('\n', " ")
}

/// The index of the leaf column with the images: `image.bytes`, `img.bytes`, or a plain binary column.
fn find_image(path: &Path, columns: &[std::sync::Arc<ColumnDescriptor>], name: Option<&str>) -> Result<usize> {
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

/// The index of the integer column with the labels.
fn find_label(path: &Path, columns: &[std::sync::Arc<ColumnDescriptor>], name: Option<&str>) -> Result<usize> {
    let named = |name: &str| {
        columns.iter().position(|column| {
            column.path().string() == name
                && column.max_rep_level() == 0
                && matches!(column.physical_type(), PhysicalType::INT32 | PhysicalType::INT64)
        })
    };
    let found = match name {
        Some(name) => named(name),
        None => LABEL_COLUMNS.into_iter().find_map(named),
    };
    found.ok_or_else(|| Error::Column {
        path: path.to_path_buf(),
        expected: match name {
            Some(name) => format!("integer labels in the column `{name}`"),
            None => "integer labels in a column `label`, `fine_label` or `labels`".to_owned(),
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
fn list(columns: &[std::sync::Arc<ColumnDescriptor>]) -> String {
    let describe = |column: &std::sync::Arc<ColumnDescriptor>| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_within_a_file_becomes_an_error_that_names_it() {
        let path = Path::new("some/train.parquet");
        // As a decoder panics: with formatted words, with plain ones, and with something else.
        let out_of_bounds = || assert_eq!([1, 2, 3][std::hint::black_box(3)], 0);
        let panics: [fn(); 3] = [out_of_bounds, || panic!("plain"), || std::panic::panic_any(7)];
        for (panic, words) in panics.into_iter().zip(["index is 3", "plain", "no message"]) {
            let error = guard(path, || {
                panic();
                Ok(())
            });
            let message = error.unwrap_err().to_string();
            assert!(message.starts_with("some/train.parquet: expected") && message.contains(words), "{message}");
        }
        assert_eq!(guard(path, || Ok(3)).unwrap(), 3);
    }
}
