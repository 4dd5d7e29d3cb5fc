//! Our side of `benches/compare/pipeline.py`: reads a split and makes one epoch of augmented batches for every line of
//! standard input, and answers with the seconds and the number of images.
//!
//! ```sh
//! cargo build --release -p lmht-datasets --example pipeline
//! python benches/compare/pipeline.py --data DATA --split test --recipe cifar10
//! ```

use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use lmht_datasets::{Augment, ImageDataset, Loader, LoaderConfig, Normalize, ReadOptions, Split};

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: pipeline DATA SPLIT cifar10|tiny-imagenet IMAGE_COLUMN";
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let [data, split, recipe, column] = &arguments[..] else { return Err(usage.into()) };
    let (augment, normalize) = match recipe.as_str() {
        "cifar10" => (Augment::cifar10(), Normalize::cifar10()),
        "tiny-imagenet" => (Augment::imagenet(64), Normalize::tiny_imagenet()),
        _ => return Err(usage.into()),
    };
    let options = ReadOptions {
        image_column: Some(column.clone()),
        channels: Some(3),
        train_split: Some(split.clone()),
        // The same images may not be measured on: nothing is.
        test_split: Some("none".to_owned()),
        ..ReadOptions::default()
    };
    let config = LoaderConfig { drop_last: false, augment, ..LoaderConfig::train(128, 42) };
    for (epoch, line) in (0..).zip(std::io::stdin().lock().lines()) {
        line?;
        let start = Instant::now();
        let data = Arc::new(ImageDataset::read(data, Split::Train, &options)?);
        let mut n_images = 0;
        for batch in Loader::new(data, &config, &normalize, &Device::Cpu)?.epoch(epoch)? {
            n_images += batch?.images.dim(0)?;
        }
        println!("{} {n_images}", start.elapsed().as_secs_f64());
        std::io::stdout().flush()?;
    }
    Ok(())
}
