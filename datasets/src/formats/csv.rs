//! A table of comma-separated values that names image files and their labels: `file_name,label`.

use std::fs::File;
use std::path::{Component, Path};

use super::folder::Files;
use super::{Format, Label, Splits, Table, ends_in, entries, name, split_of};
use crate::ReadOptions;
use crate::error::{Error, Result};
use crate::split::{canonical, is_usual};

/// Columns of file names; the first is that of Hugging Face's `imagefolder`.
const IMAGE_COLUMNS: [&str; 3] = ["file_name", "filename", "image"];
const LABEL_COLUMNS: [&str; 4] = ["label", "fine_label", "labels", "class"];

/// A CSV beside its images.
pub(crate) struct Csv;

impl Format for Csv {
    fn takes(&self, file: &Path) -> bool {
        ends_in(file, "csv")
    }

    /// `train.csv`, or a CSV in `train/`; else the only one, as `all`.
    fn splits(&self, folder: &Path, options: &ReadOptions) -> Result<Splits> {
        let tables = |folder: &Path| -> Result<Vec<_>> {
            let files = entries(folder)?.into_iter().filter(|file| self.takes(file) && names_images(file, options));
            Ok(files.collect())
        };
        let mut splits = Splits::new();
        for entry in entries(folder)?.iter().filter(|entry| is_usual(&name(entry))) {
            for table in tables(entry)? {
                splits.entry(canonical(&name(entry)).to_owned()).or_default().push(table);
            }
        }
        let here = tables(folder)?;
        match &here[..] {
            [table] if !is_usual(&split_of(table)) && splits.is_empty() => {
                splits.insert("all".to_owned(), here);
            }
            _ => here.into_iter().for_each(|table| splits.entry(split_of(&table)).or_default().push(table)),
        }
        Ok(splits)
    }

    /// Labels are numbers if all of them are.
    fn open(&self, file: &Path, options: &ReadOptions) -> Result<Box<dyn Table>> {
        let damaged = |e: csv::Error| Error::Csv { path: file.to_path_buf(), reason: e.to_string() };
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut reader = reader(file)?;
        let header = reader.headers().map_err(damaged)?.clone();
        let find = |option: &Option<String>, usual: &[&str], what: &str, field: &'static str| {
            let names: Vec<&str> = option.as_deref().map_or(usual.to_vec(), |name| vec![name]);
            names.iter().find_map(|name| header.iter().position(|column| column == *name)).ok_or_else(|| {
                Error::Column {
                    path: file.to_path_buf(),
                    expected: format!("a column of {what} named `{}`", names.join("` or `")),
                    columns: header.iter().collect::<Vec<_>>().join(", "),
                    option: field,
                }
            })
        };
        let image = find(&options.image_column, &IMAGE_COLUMNS, "file names", "image_column")?;
        let label = find(&options.label_column, &LABEL_COLUMNS, "labels", "label_column")?;
        let mut table =
            Files { columns: Some((header[image].to_owned(), header[label].to_owned())), ..Files::default() };
        for (row, record) in reader.records().enumerate() {
            let record = record.map_err(damaged)?;
            let path = Path::new(&record[image]);
            if record[image].is_empty()
                || !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
            {
                return Err(Error::Csv {
                    path: file.to_path_buf(),
                    reason: format!("row {row} names `{}`, which is no file beside or below it", path.display()),
                });
            }
            table.add(folder.join(path), Label::Text(record[label].to_owned()))?;
        }
        let number = |label: &Label| match label {
            Label::Text(text) => text.parse().ok().map(Label::Number),
            Label::Number(_) => None,
        };
        if let Some(numbers) = table.labels.iter().map(number).collect() {
            table.labels = numbers;
        }
        Ok(Box::new(table))
    }
}

fn reader(file: &Path) -> Result<csv::Reader<File>> {
    let error = |source| Error::Io { path: file.to_path_buf(), doing: "open the file", source };
    Ok(csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(File::open(file).map_err(error)?))
}

/// Whether a CSV has a column of file names: others may lie in the folder, too.
fn names_images(file: &Path, options: &ReadOptions) -> bool {
    let is_image = |column: &str| match &options.image_column {
        Some(name) => column == name,
        None => IMAGE_COLUMNS.contains(&column),
    };
    reader(file).ok().is_some_and(|mut reader| reader.headers().is_ok_and(|header| header.iter().any(is_image)))
}
