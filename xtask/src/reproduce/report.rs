//! The tables as Markdown and JSON.

use std::fmt::Write;

use lmht_nn::{Schedule, Stem};
use serde::Serialize;

use super::conversions::{QUANT_LEVELS, Reparameterized, Table4, published_acc};
use super::paper::PaperRow;
use super::plan::{Preset, Row};
use super::runs::Outcome;
use crate::experiment::Experiment;
use crate::{provenance, published};

/// Every row with its runs.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    preset: Preset,
    machine: String,
    commit: String,
    note: &'static str,
    rows: Vec<ReportRow>,
    table2: Vec<Reparameterized>,
    table4: Table4,
}

/// The published figure and ours, side by side.
#[derive(Debug, Serialize)]
struct ReportRow {
    published: PaperRow,
    /// True: another data set and a smaller network than the published row's.
    stand_in: bool,
    experiment: Experiment,
    top1_percent: Spread,
    best_top1_percent: Spread,
    sops_m: Spread,
    macs_m: Spread,
    energy_mj: Spread,
    paper_sops_m: Spread,
    paper_energy_mj: Spread,
    runs: Vec<Outcome>,
}

/// Mean and sample standard deviation over the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Spread {
    mean: f64,
    /// Absent with a single run.
    std: Option<f64>,
    n: usize,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, std: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n }
    }

    fn show(self, digits: usize) -> String {
        match self.std {
            Some(std) => format!("{:.digits$} ± {std:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        }
    }
}

const NOTE: &str = "Ours are stand-ins: the published network at a smaller width, on the Fashion-MNIST sample of this \
                    repository. They compare with each other, not with the published column.";

impl Report {
    /// Gathers the rows.
    pub(crate) fn new(
        preset: Preset,
        results: &[(Row, Vec<Outcome>)],
        table2: Vec<Reparameterized>,
        table4: Table4,
    ) -> Self {
        let rows = results
            .iter()
            .map(|(row, outcomes)| {
                let spread = |value: fn(&Outcome) -> f64| Spread::of(outcomes.iter().map(value));
                ReportRow {
                    published: row.paper.clone(),
                    stand_in: true,
                    experiment: row.experiment.clone(),
                    top1_percent: spread(|outcome| 100. * outcome.metrics.top1),
                    best_top1_percent: spread(|outcome| 100. * outcome.metrics.best_top1),
                    sops_m: spread(|outcome| outcome.sops / 1e6),
                    macs_m: spread(|outcome| outcome.macs / 1e6),
                    energy_mj: spread(|outcome| outcome.energy_mj),
                    paper_sops_m: spread(|outcome| outcome.paper_sops / 1e6),
                    paper_energy_mj: spread(|outcome| outcome.paper_energy_mj),
                    runs: outcomes.clone(),
                }
            })
            .collect();
        let (machine, commit) = (provenance::machine(), provenance::commit());
        Self { preset, machine, commit, note: NOTE, rows, table2, table4 }
    }

    /// The tables as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        self.write(&mut text).expect("a string takes all text");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# Tables of the paper, preset `{}`\n", self.preset.name())?;
        writeln!(text, "{NOTE}")?;
        if self.preset == Preset::Smoke {
            writeln!(text, "**Smoke preset: a few images, one epoch. These accuracies mean nothing.**")?;
        }
        writeln!(text, "\nMachine: {}. Commit: {}.", self.machine, self.commit)?;
        self.table1(text)?;
        self.table2(text)?;
        self.table3(text)?;
        self.table4(text)?;
        writeln!(
            text,
            "\nTop-1 is that of the last epoch on all test images, mean ± sample standard deviation over the seeds; \"best\" \
             is the best epoch, chosen on the test set as the paper does. SOPs count the spikes of every synapse that \
             receives spikes, a level-k spike k times, padding not at all; MACs are those of analog inputs (stem, pooled \
             averages). Energies are estimated from operations at 45 nm float32 prices (4.6 pJ a MAC, 0.9 pJ an AC, \
             Horowitz 2014); \"by the paper's rule\" is 0.9 pJ for every operation but the stem's."
        )
    }

    fn of_table<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a ReportRow> {
        self.rows.iter().filter(move |row| row.published.table == table)
    }

    fn table1(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n## Table 1: threshold levels and T-GIM\n")?;
        writeln!(
            text,
            "| network | L | T | T-GIM | published top-1 % | published SOPs G | published mJ | ours (stand-in) top-1 % | \
             best % | SOPs M | MACs M | mJ | SOPs M by the paper's rule | mJ by the paper's rule |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for row in self.of_table("Table 1") {
            let paper = &row.published;
            writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {} | {} | {} | {} |",
                paper.arch,
                paper.levels,
                paper.timesteps,
                if paper.tgim == Some(true) { "yes" } else { "no" },
                paper.acc,
                paper.sops_g.unwrap_or(f64::NAN),
                paper.energy_mj.unwrap_or(f64::NAN),
                row.top1_percent.show(2),
                row.best_top1_percent.show(2),
                row.sops_m.show(3),
                row.macs_m.show(3),
                row.energy_mj.show(5),
                row.paper_sops_m.show(3),
                row.paper_energy_mj.show(5),
            )?;
        }
        self.stand_ins(text, "Table 1")
    }

    fn table2(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n## Table 2: reparameterization to a single-threshold network\n")?;
        writeln!(
            text,
            "| network | L, T before | T after | schedule | published top-1 % before | after | ours (stand-in) top-1 % before | \
             after | images in another class | spike counts that differ | of | SOPs M before | after |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.table2 {
            let published = |stage: &str| {
                let of = |other: &published::Row| {
                    other.table == "Table 2" && other.arch == row.arch && other.stage.as_deref() == Some(stage)
                };
                published_acc(of).unwrap_or_default()
            };
            // The paper has the uniform schedule only.
            let (schedule, before, after) = match row.schedule {
                Schedule::Uniform => ("uniform (the paper's)", published("before"), published("after")),
                Schedule::FrontLoaded => ("front-loaded (ours)", published("before"), "-".to_string()),
            };
            writeln!(
                text,
                "| {} | 2, 2 | 4 | {schedule} | {before} | {after} | {:.2} | {:.2} | {} of {} | {} | {} | {:.4} | {:.4} |",
                row.arch,
                row.top1_before,
                row.top1_after,
                row.class_differs,
                row.n_images,
                row.differing,
                row.n_counts,
                row.sops_before_m,
                row.sops_after_m,
            )?;
        }
        writeln!(
            text,
            "\nThe first seeds of the same networks as in Tables 1 and 3, in float32. A spike count is that of one unit in one \
             window for one image; with the front-loaded schedule only a tie that float32 rounds the other way can differ."
        )
    }

    fn table4(&self, text: &mut String) -> std::fmt::Result {
        let table = &self.table4;
        writeln!(text, "\n## Table 4: hybrid training, ResNet-20\n")?;
        writeln!(text, "| method | Q | L | T | published top-1 % (CIFAR-100) | ours (stand-in) top-1 % | |")?;
        writeln!(text, "|---|---|---|---|---|---|---|")?;
        let published = |method: &str, quant: Option<u32>, levels: Option<u32>, timesteps: Option<usize>| {
            let of = |row: &published::Row| {
                row.table == "Table 4"
                    && row.arch == "ResNet-20"
                    && (row.method.as_str(), row.quant_levels, row.levels, row.timesteps)
                        == (method, quant, levels, timesteps)
            };
            published_acc(of).unwrap_or_default()
        };
        let q = Some(QUANT_LEVELS);
        let top1 = |outcome: &Outcome| 100. * outcome.metrics.top1;
        writeln!(
            text,
            "| ReLU (ANN of RMP) | - | - | - | {} | {:.2} | |",
            published("RMP", None, None, None),
            top1(&table.relu)
        )?;
        writeln!(
            text,
            "| QCFS (ANN) | {QUANT_LEVELS} | - | - | {} | {:.2} | |",
            published("QCFS", q, None, None),
            top1(&table.qcfs)
        )?;
        for row in &table.inference {
            let quant = (row.method == "QCFS").then_some(QUANT_LEVELS);
            writeln!(
                text,
                "| {} | {} | 1 | {} | {} | {:.2} | no training |",
                row.method,
                if row.method == "RMP" { "-".into() } else { QUANT_LEVELS.to_string() },
                row.timesteps,
                published(&row.method, quant, None, Some(row.timesteps)),
                row.top1
            )?;
        }
        for row in &table.hybrid {
            writeln!(
                text,
                "| LM-HT | {QUANT_LEVELS} | {} | {} | {} | {:.2} | {:.2} before fine-tuning |",
                row.levels,
                row.timesteps,
                published("LM-HT", q, Some(row.levels), Some(row.timesteps)),
                top1(&row.outcome),
                row.top1_start
            )?;
        }
        let Experiment { model, train, .. } = &table.ann;
        writeln!(
            text,
            "\nStand-in: width {} (published 16), Fashion-MNIST sample at 14x14 (published: CIFAR-100 at 32x32), ANNs trained {} epochs \
             (published 300), fine-tuned {} (published 30), batch {}, seed {}. SRP: τ = 4 timesteps of its T are the first \
             stage. RMP: thresholds balanced layer by layer on the spikes of 500 training images. Not run here: VGG-16, Q = 8, SNM, RMP at more timesteps; `cargo xtask convert` and the presets have them.",
            model.width, train.epochs, table.fine_tuning_epochs, train.batch_size, train.seed
        )
    }

    fn table3(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n## Table 3: direct training, LM-HT rows\n")?;
        writeln!(
            text,
            "| published data set | network | L | T | published top-1 % | ours (stand-in) top-1 % | best % | SOPs M | mJ |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
        for row in self.of_table("Table 3") {
            let paper = &row.published;
            writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} | {} | {} | {} | {} |",
                paper.dataset,
                paper.arch,
                paper.levels,
                paper.timesteps,
                paper.acc,
                row.top1_percent.show(2),
                row.best_top1_percent.show(2),
                row.sops_m.show(3),
                row.energy_mj.show(5),
            )?;
        }
        self.stand_ins(text, "Table 3")
    }

    /// What was run in place of the published networks.
    fn stand_ins(&self, text: &mut String, table: &str) -> std::fmt::Result {
        let mut said = Vec::new();
        for row in self.of_table(table) {
            let Experiment { model, train, data, .. } = &row.experiment;
            let seeds: Vec<String> = row.runs.iter().map(|run| run.seed.to_string()).collect();
            let images = match data.parquet.max_per_class {
                Some(n) => format!("{n} images of each class"),
                None => "10,000 images".to_string(),
            };
            let sentence = format!(
                "Stand-in for {}: {}width {} (published 64), Fashion-MNIST sample, 28x28 gray, trained on {images}, tested \
                 on 2,000, {} epochs, batch {}, seeds {}.",
                row.published.arch,
                if model.stem == Stem::Imagenet { "stem of 7x7 stride 2 and max-pooling, " } else { "" },
                model.width,
                train.epochs,
                train.batch_size,
                seeds.join(", ")
            );
            if !said.contains(&sentence) {
                writeln!(text, "\n{sentence}")?;
                said.push(sentence);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_the_sample_standard_deviation() {
        // Deviations -1 and 1: (1 + 1) / (2 - 1) = 2.
        let spread = Spread::of([88., 90.].into_iter());
        assert_eq!((spread.mean, spread.std, spread.n), (89., Some(2f64.sqrt()), 2));
        assert_eq!(spread.show(2), "89.00 ± 1.41");
    }

    #[test]
    fn one_run_has_no_spread() {
        assert_eq!(Spread::of([88.].into_iter()).show(1), "88.0");
    }
}
