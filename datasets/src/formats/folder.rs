//! Folders of images, one for each class: `cat/1.png`, or `train/cat/1.png` with a folder for each split. And images that
//! are files of their own as a table, which a CSV needs, too.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Encoded, Format, Label, MAX_HELD, Rows, Splits, Table, ends_in, entries, name};
use crate::ReadOptions;
use crate::error::{Error, Place, Result};
use crate::split::{canonical, is_usual};

/// Names of the files that are read.
const ENDINGS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"];
/// Images that are not read: passing over them would lose them without a word. Opening one says what it is.
const OTHER_ENDINGS: [&str; 17] = [
    "avif", "heic", "heif", "jxl", "jp2", "j2k", "ppm", "pgm", "pbm", "pnm", "tga", "ico", "exr", "hdr", "svg", "psd",
    "qoi",
];
/// Folders within the folder of a class; a link to a folder above must come to an end.
const MAX_DEPTH: usize = 16;

/// A folder for each class.
pub(crate) struct ImageFolder;

impl Format for ImageFolder {
    fn takes(&self, _file: &Path) -> bool {
        false
    }

    /// The folders that are named as splits are, if they hold folders of images; else the folder itself, as `all`.
    fn splits(&self, folder: &Path, _options: &ReadOptions) -> Result<Splits> {
        let mut splits = Splits::new();
        for split in folders(folder)?.into_iter().filter(|folder| is_usual(&name(folder))) {
            if has_classes(&split)? {
                splits.entry(canonical(&name(&split)).to_owned()).or_default().push(split);
            }
        }
        if splits.is_empty() && has_classes(folder)? {
            splits.insert("all".to_owned(), vec![folder.to_path_buf()]);
        }
        Ok(splits)
    }

    fn open(&self, file: &Path, _options: &ReadOptions) -> Result<Box<dyn Table>> {
        let mut table = Files::default();
        for class in folders(file)? {
            let n_before = table.images.len();
            for image in image_files(&class)? {
                table.add(image, Label::Text(name(&class)))?;
            }
            if table.images.len() == n_before {
                return Err(Error::NoImages { folder: class });
            }
        }
        Ok(Box::new(table))
    }
}

/// The folders in a folder.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|entry| entry.is_dir()).collect())
}

/// Whether there is an image in a folder in `folder`, or one further down.
fn has_classes(folder: &Path) -> Result<bool> {
    for class in folders(folder)? {
        let mut inside = entries(&class)?;
        // Tiny-ImageNet's classes have a folder `images`.
        inside.extend(entries(&class.join("images"))?);
        if inside.iter().any(|file| is_image(file) && file.is_file()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The images in a folder and below it, in the order of their names; what is hidden, and what is no image by its name, is
/// passed over.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be listed.
pub fn image_files(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    files(folder.as_ref(), &is_image)
}

/// The files in a folder and below it that are wanted, in the order of their names.
pub(crate) fn files(folder: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    fn walk(folder: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in entries(folder)? {
            if entry.is_dir() && depth < MAX_DEPTH {
                walk(&entry, depth + 1, wanted, found)?;
            } else if wanted(&entry) {
                found.push(entry);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(folder, 0, is_wanted, &mut found)?;
    Ok(found)
}

pub(crate) fn is_image(file: &Path) -> bool {
    ENDINGS.iter().chain(&OTHER_ENDINGS).any(|ending| ends_in(file, ending))
}

/// Images in files of their own.
#[derive(Default)]
pub(super) struct Files {
    pub(super) images: Vec<PathBuf>,
    pub(super) labels: Vec<Label>,
    /// The columns of the table that names them, if one does.
    pub(super) columns: Option<(String, String)>,
    pub(super) n_bytes: u64,
}

impl Files {
    /// Adds one image.
    pub(super) fn add(&mut self, image: PathBuf, label: Label) -> Result<()> {
        let metadata = fs::metadata(&image).map_err(|source| Error::Io {
            path: image.clone(),
            doing: "find the image",
            source,
        })?;
        self.n_bytes = self.n_bytes.saturating_add(metadata.len());
        self.images.push(image);
        self.labels.push(label);
        Ok(())
    }
}

impl Table for Files {
    fn n_rows(&self) -> usize {
        self.images.len()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn columns(&self) -> Option<(&str, &str)> {
        self.columns.as_ref().map(|(image, label)| (image.as_str(), label.as_str()))
    }

    fn class_names(&self) -> Option<&[String]> {
        None
    }

    fn labels(&self) -> Result<Vec<Label>> {
        Ok(self.labels.clone())
    }

    fn groups(&self) -> Vec<usize> {
        vec![1; self.images.len()]
    }

    fn read_group(&self, group: usize, _chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let images = vec![Encoded::from(read(&self.images[group])?)];
        visit(Rows { first: group, images, labels: vec![self.labels[group].clone()] })
    }

    fn for_each_chunk(&self, chunk: usize, visit: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let mut first = 0;
        while first < self.images.len() {
            let (mut images, mut held) = (Vec::new(), 0);
            for path in self.images[first..].iter().take(chunk) {
                if held >= MAX_HELD {
                    break;
                }
                let bytes = read(path)?;
                held += bytes.len() as u64;
                images.push(Encoded::from(bytes));
            }
            let end = first + images.len();
            visit(Rows { first, images, labels: self.labels[first..end].to_vec() })?;
            first = end;
        }
        Ok(())
    }

    fn place(&self, row: usize) -> Place {
        Place { path: self.images[row].clone(), row: None }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), doing: "read the image", source })
}
