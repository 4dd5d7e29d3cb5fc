//! Any text as the TOML of an experiment, as far as libraries read it: the tables model, train and data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmht_datasets::{Augment, Mix, Normalize, ReadOptions};
use lmht_nn::ModelConfig;
use lmht_train::TrainConfig;
use serde::Deserialize;

#[derive(Deserialize)]
struct Experiment {
    model: ModelConfig,
    train: TrainConfig,
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
#[serde(default)]
#[allow(dead_code)]
struct Data {
    parquet: ReadOptions,
    augment: Augment,
    mix: Option<Mix>,
    normalize: Option<Normalize>,
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(experiment) = toml::from_str::<Experiment>(text) else { return };
    let _ = (experiment.model.check(), experiment.train.check());
    let _ = experiment.data;
});
