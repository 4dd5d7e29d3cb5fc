//! The paper's figures, from `docs/paper-tables.toml`.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A published row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PaperRow {
    /// The table as the paper numbers it.
    pub(crate) table: String,
    /// The data set of the published figure.
    pub(crate) dataset: String,
    /// The network as the paper names it.
    pub(crate) arch: String,
    /// L.
    pub(crate) levels: u32,
    /// T.
    pub(crate) timesteps: usize,
    /// Whether the T-GIM is there, where the table says so.
    pub(crate) tgim: Option<bool>,
    /// Published top-1, %.
    pub(crate) acc: f64,
    /// Published synaptic operations per image, 10^9.
    pub(crate) sops_g: Option<f64>,
    /// Published energy per image, mJ.
    pub(crate) energy_mj: Option<f64>,
}

#[derive(Deserialize)]
struct Tables {
    table1: Table1,
    table3: Table3,
}

#[derive(Deserialize)]
struct Table1 {
    rows: Vec<Table1Row>,
}

#[derive(Deserialize)]
struct Table1Row {
    arch: String,
    levels: u32,
    timesteps: usize,
    tgim: bool,
    acc: f64,
    sops: f64,
    energy: f64,
}

#[derive(Deserialize)]
struct Table3 {
    rows: Vec<Table3Row>,
}

#[derive(Deserialize)]
struct Table3Row {
    dataset: String,
    method: String,
    arch: String,
    levels: Option<u32>,
    timesteps: Vec<usize>,
    acc: Vec<f64>,
}

/// The LM-HT rows of Tables 1 and 3.
pub(crate) fn rows() -> Result<Vec<PaperRow>> {
    let tables: Tables = toml::from_str(include_str!("../../../docs/paper-tables.toml"))
        .context("docs/paper-tables.toml: expected the paper's tables")?;
    let mut rows = Vec::new();
    for row in tables.table1.rows {
        rows.push(PaperRow {
            table: "Table 1".into(),
            dataset: "a subset of ImageNet-1k".into(),
            arch: row.arch,
            levels: row.levels,
            timesteps: row.timesteps,
            tgim: Some(row.tgim),
            acc: row.acc,
            sops_g: Some(row.sops),
            energy_mj: Some(row.energy),
        });
    }
    for row in tables.table3.rows.into_iter().filter(|row| row.method == "LM-HT") {
        for (timesteps, acc) in row.timesteps.into_iter().zip(row.acc) {
            rows.push(PaperRow {
                table: "Table 3".into(),
                dataset: row.dataset.clone(),
                arch: row.arch.clone(),
                levels: row.levels.unwrap_or(1),
                timesteps,
                tgim: None,
                acc,
                sops_g: None,
                energy_mj: None,
            });
        }
    }
    Ok(rows)
}
