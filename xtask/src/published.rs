//! The rows of the paper's tables that this project reproduces, as `docs/paper-tables.toml` has them, and the keys by which
//! a preset names its rows.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The paper's tables and recipes.
pub(crate) const TOML: &str = include_str!("../../docs/paper-tables.toml");

/// One published figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The table as the paper numbers it: `Table 3`.
    pub(crate) table: String,
    /// The data set, in the paper's words or, where it has none, in ours.
    pub(crate) dataset: String,
    /// The method; `LM-HT` where the table has no other.
    pub(crate) method: String,
    /// The network as the paper names it.
    pub(crate) arch: String,
    /// L, where the table states it.
    pub(crate) levels: Option<u32>,
    /// T; absent for ANNs.
    pub(crate) timesteps: Option<usize>,
    /// Whether the T-GIM is there, where the table says so.
    pub(crate) tgim: Option<bool>,
    /// Before or after reparameterization, where the table says so.
    pub(crate) stage: Option<String>,
    /// Levels of the QCFS network that it starts from.
    pub(crate) quant_levels: Option<u32>,
    /// Top-1, %.
    pub(crate) acc: f64,
}

/// Which rows a preset reproduces: all that have the values given here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Key {
    table: String,
    dataset: Option<String>,
    method: Option<String>,
    arch: String,
    levels: Option<u32>,
    timesteps: Option<usize>,
    tgim: Option<bool>,
    stage: Option<String>,
    quant_levels: Option<u32>,
}

impl Key {
    /// Whether every value that is given is the row's.
    pub(crate) fn matches(&self, row: &Row) -> bool {
        fn same<T: PartialEq>(given: &Option<T>, value: &T) -> bool {
            given.as_ref().is_none_or(|given| given == value)
        }
        fn some<T: PartialEq>(given: &Option<T>, value: &Option<T>) -> bool {
            given.is_none() || given == value
        }
        self.table == row.table
            && self.arch == row.arch
            && same(&self.dataset, &row.dataset)
            && same(&self.method, &row.method)
            && some(&self.levels, &row.levels)
            && some(&self.timesteps, &row.timesteps)
            && some(&self.tgim, &row.tgim)
            && some(&self.stage, &row.stage)
            && some(&self.quant_levels, &row.quant_levels)
    }

    /// The published accuracies, for people: `61.09 (Table 3)`; of a conversion that of its ANN.
    pub(crate) fn show(&self, rows: &[Row]) -> String {
        let Some(row) = rows.iter().find(|row| self.matches(row)) else { return "none".to_owned() };
        let mut what = vec![row.table.clone()];
        what.extend(row.stage.clone());
        if row.timesteps.is_none() {
            what.push(format!("ANN of {}", row.method));
        }
        format!("{:.2} ({})", row.acc, what.join(", "))
    }
}

#[derive(Deserialize)]
struct Document {
    table1: Table,
    table2: Table,
    table3: Table,
    table4: Table,
    table_s1: Table,
}

#[derive(Deserialize)]
struct Table {
    dataset: Option<String>,
    rows: Vec<Printed>,
}

/// One number or several.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Values<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Clone> Values<T> {
    fn list(&self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value.clone()],
            Self::Many(values) => values.clone(),
        }
    }
}

/// A row as it is printed; Table 4 has two networks in a row.
#[derive(Deserialize)]
struct Printed {
    #[serde(default)]
    ours: bool,
    dataset: Option<String>,
    method: Option<String>,
    arch: Option<String>,
    levels: Option<u32>,
    timesteps: Values<usize>,
    tgim: Option<bool>,
    stage: Option<String>,
    quant_levels: Option<u32>,
    acc: Option<Values<f64>>,
    vgg16: Option<Hybrid>,
    resnet20: Option<Hybrid>,
}

/// A network of Table 4.
#[derive(Deserialize)]
struct Hybrid {
    ann: Option<f64>,
    snn: Vec<f64>,
}

/// Every figure of the rows marked as ours, table by table; an ANN before the networks made of it.
pub(crate) fn rows() -> Result<Vec<Row>> {
    let document: Document = toml::from_str(TOML).context("docs/paper-tables.toml: expected the paper's tables")?;
    let tables = [
        ("Table 1", document.table1),
        ("Table 2", document.table2),
        ("Table 3", document.table3),
        ("Table 4", document.table4),
        ("Table S1", document.table_s1),
    ];
    let mut rows = Vec::new();
    for (table, Table { dataset, rows: printed }) in tables {
        for printed in printed.into_iter().filter(|row| row.ours) {
            let row = |arch: &str, timesteps, acc| Row {
                table: table.to_owned(),
                dataset: printed.dataset.clone().or(dataset.clone()).unwrap_or_default(),
                method: printed.method.clone().unwrap_or_else(|| "LM-HT".to_owned()),
                arch: arch.to_owned(),
                levels: printed.levels,
                timesteps,
                tgim: printed.tgim,
                stage: printed.stage.clone(),
                quant_levels: printed.quant_levels,
                acc,
            };
            let timesteps = printed.timesteps.list();
            if let (Some(arch), Some(acc)) = (&printed.arch, &printed.acc) {
                let accs = acc.list();
                anyhow::ensure!(accs.len() == timesteps.len(), "docs/paper-tables.toml, {table}, {arch}: uneven lists");
                rows.extend(timesteps.iter().zip(accs).map(|(t, acc)| row(arch, Some(*t), acc)));
            }
            for (arch, hybrid) in [("VGG-16", &printed.vgg16), ("ResNet-20", &printed.resnet20)] {
                let Some(hybrid) = hybrid else { continue };
                anyhow::ensure!(
                    hybrid.snn.len() == timesteps.len(),
                    "docs/paper-tables.toml, {table}, {arch}: uneven lists"
                );
                rows.extend(hybrid.ann.map(|acc| row(arch, None, acc)));
                rows.extend(timesteps.iter().zip(&hybrid.snn).map(|(t, acc)| row(arch, Some(*t), *acc)));
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_ours_is_read() {
        let rows = rows().unwrap();
        // By hand: 6, 4, 2 + 2 + 2 + 1 + 1 + 2 + 1, 4; Table 4: RMP 2 (1 + 3), SNM 1 + 3, SRP 2 (1 + 3), QCFS twice
        // 2 (1 + 3), LM-HT twice 2 (2 + 1).
        let count = |table: &str| rows.iter().filter(|row| row.table == table).count();
        assert_eq!(["Table 1", "Table 2", "Table 3", "Table S1"].map(count), [6, 4, 11, 4]);
        assert_eq!(count("Table 4"), 8 + 4 + 8 + 16 + 12);
        let key = Key {
            table: "Table 4".into(),
            method: Some("LM-HT".into()),
            arch: "ResNet-20".into(),
            quant_levels: Some(8),
            levels: Some(2),
            timesteps: Some(4),
            ..Key::default()
        };
        assert_eq!(rows.iter().filter(|row| key.matches(row)).map(|row| row.acc).collect::<Vec<_>>(), [69.00]);
        assert_eq!(key.show(&rows), "69.00 (Table 4)");
        let ann = Key { method: Some("QCFS".into()), levels: None, timesteps: None, ..key };
        assert_eq!(ann.show(&rows), "69.56 (Table 4, ANN of QCFS)");
    }
}
