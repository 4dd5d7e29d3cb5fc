//! The result: JSON, and a section of Markdown between two markers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use lmht_nn::markdown;
use serde::Serialize;

use super::measure::{Row, Times};
use super::protocol::Memory;

/// The line before the section.
const BEGIN: &str = "<!-- compare:begin -->";
/// The line after it.
const END: &str = "<!-- compare:end -->";

/// Everything that a run measured, and under which conditions.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    /// Year, month, day.
    pub(crate) date: String,
    /// The command line.
    pub(crate) command: String,
    /// The commit of the working tree.
    pub(crate) commit: String,
    /// Processor.
    pub(crate) machine: String,
    /// Threads of each side, and where they run.
    pub(crate) threads: String,
    /// Load average before and after.
    pub(crate) load: [Option<f64>; 2],
    /// Share of all processor time during the measurements that went to other processes, 0..1.
    pub(crate) others: Option<f64>,
    /// Of every side.
    pub(crate) versions: BTreeMap<String, String>,
    /// Why SpikingJelly is not in the tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<String>,
    /// The network in words.
    pub(crate) network: String,
    /// Where its weights came from.
    pub(crate) weights: String,
    /// Where the images came from.
    pub(crate) data: String,
    /// Rounds.
    pub(crate) rounds: usize,
    /// What the sides agreed in before anything was timed.
    pub(crate) agreement: Agreement,
    /// The training step, a row for each batch size.
    pub(crate) train: Vec<Row>,
    /// Evaluation.
    pub(crate) eval: Vec<Row>,
    /// Evaluation of one image.
    pub(crate) latency: Vec<Row>,
    /// Peak memory.
    pub(crate) memory: Vec<MemoryRow>,
    /// The neuron; the first side is the copy.
    pub(crate) neuron: Vec<Row>,
    /// Convolutions.
    pub(crate) conv: Vec<Row>,
    /// Matrix products of the same run.
    pub(crate) matmul: Vec<Row>,
    /// The training step over batch size, T and L.
    pub(crate) scaling: Vec<Row>,
}

/// How well both LM-HT implementations agree, and how their neurons fire.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Agreement {
    /// Relative errors in float64: logits (root mean square), training loss, gradients' norm.
    pub(crate) float64: [f64; 3],
    /// The same in float32.
    pub(crate) float32: [f64; 3],
    /// Share of outputs other than 0: smallest of a layer, mean over units, largest of a layer.
    pub(crate) nonzero: [f64; 3],
    /// Mean of s / L over units.
    pub(crate) rate: f64,
}

/// Memory of a case.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MemoryRow {
    /// What was run.
    pub(crate) case: String,
    /// Each side, ours first.
    pub(crate) sides: Vec<(String, Memory)>,
}

impl Report {
    /// The section.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        self.head(&mut text);
        network_table(&mut text, "Training step, images/s", &self.train, rate);
        network_table(&mut text, "Evaluation, images/s", &self.eval, rate);
        network_table(&mut text, "One image, ms", &self.latency, |row, times| {
            format!("{:.1}", 1e3 * per_image(row, times))
        });
        self.memory_table(&mut text);
        self.neuron_table(&mut text);
        self.conv_table(&mut text);
        network_table(&mut text, "Scaling of the training step, images/s", &self.scaling, rate);
        self.notes(&mut text);
        text.trim_end().to_string()
    }

    fn head(&self, text: &mut String) {
        let load = self.load.map(|load| load.map_or("unknown".into(), |load| format!("{load:.2}")));
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let Agreement { float64, float32, nonzero, rate } = self.agreement;
        let [low, mean, high] = nonzero.map(|share| 100. * share);
        line(text, "## Beside PyTorch and SpikingJelly\n");
        line(text, &format!("- {}, commit `{}`: {}", self.date, self.commit, markdown::code(&self.command)));
        let others = self.others.map_or("an unknown share".into(), |others| format!("{:.1} %", 100. * others));
        line(
            text,
            &format!(
                "- {}; {}. Load {} before, {} after; other processes had {others} of the processors' time.",
                self.machine, self.threads, load[0], load[1]
            ),
        );
        line(text, &format!("- {}.", versions.join(", ")));
        if let Some(missing) = &self.missing {
            line(text, &format!("- SpikingJelly was not there: {missing}."));
        }
        line(
            text,
            &format!(
                "- {}. Weights: {}. Images: {}, test.",
                self.network,
                markdown::text(&self.weights),
                markdown::text(&self.data)
            ),
        );
        line(
            text,
            &format!(
                "- Agreement of ours and PyTorch's before timing, relative: float64 logits {:.0e}, loss {:.0e}, gradients' \
                 norm {:.0e}; float32 {:.0e}, {:.0e}, {:.0e}.",
                float64[0], float64[1], float64[2], float32[0], float32[1], float32[2]
            ),
        );
        line(
            text,
            &format!(
                "- Firing: {mean:.1} % of the neurons' outputs are not 0 (layers {low:.1} to {high:.1} %); mean s/L {:.1} %.\n",
                100. * rate
            ),
        );
        line(
            text,
            &format!(
                "Absolute values are medians of {} rounds. A factor such as 1.50x says that ours is 1.5 times as fast (for \
                 memory: that the other takes 1.5 times as much); it is the median of the quotients within rounds, in \
                 brackets their quartiles.\n",
                self.rounds
            ),
        );
    }

    fn memory_table(&self, text: &mut String) {
        if self.memory.is_empty() {
            return;
        }
        line(text, "### Peak memory, MiB\n");
        line(
            text,
            "Peak resident memory over three steps in a fresh process, less what was resident before the network was \
             built: program, images, and what the libraries had loaded for a step of a network of width 4. In brackets the \
             plain peak. \"Recomputing\" is `Pass::recomputing()`.\n",
        );
        line(text, "| | side | MiB | factor |\n|---|---|---|---|");
        for row in &self.memory {
            let net = |memory: &Memory| (memory.peak_kib - memory.before_kib) / 1024.;
            let ours = row.sides.first().map_or(f64::NAN, |(_, memory)| net(memory));
            for (number, (side, memory)) in row.sides.iter().enumerate() {
                let case = if number == 0 { &row.case } else { "" };
                let factor = if number == 0 { String::new() } else { format!("{:.2}x", net(memory) / ours) };
                let plain = memory.peak_kib / 1024.;
                line(text, &format!("| {case} | {side} | {:.0} ({plain:.0}) | {factor} |", net(memory)));
            }
        }
        line(text, "");
    }

    fn neuron_table(&self, text: &mut String) {
        if self.neuron.is_empty() {
            return;
        }
        line(text, "### The neuron alone: forward and backward, in copies of its bytes\n");
        line(
            text,
            "L = 2, full T-GIM, float32. The copy (ours) makes three reads and two writes of the tensor, which no neuron \
             can avoid; less is better.\n",
        );
        line(text, "| | side | ms | copies |\n|---|---|---|---|");
        for row in &self.neuron {
            for (number, times) in row.sides.iter().enumerate() {
                let case = if number == 0 { &row.case } else { "" };
                let [low, ratio, high] = times.ratio;
                let ms = 1e3 * times.quartiles[1];
                line(text, &format!("| {case} | {} | {ms:.2} | {ratio:.2} ({low:.2} .. {high:.2}) |", times.side));
            }
        }
        line(text, "");
    }

    fn conv_table(&self, text: &mut String) {
        if self.conv.is_empty() {
            return;
        }
        line(text, "### The convolution alone, GFLOP/s\n");
        line(
            text,
            "3x3 kernels, random dense input; a multiply-accumulate is two operations, padding counts, forward and backward \
             is three forward passes. Ours are the kernels of `lmht-kernels` on slices, results in memory at hand; PyTorch's \
             are its operation as a user calls it, and for the gradients alone `convolution_backward`. The share is that of the same side's faster matrix product in this run.\n",
        );
        let rate = |row: &Row, times: &Times| row.work / times.quartiles[1] / 1e9;
        let fastest = |side: &str| {
            let rates = self.matmul.iter().filter_map(|row| Some(rate(row, row.side(side)?)));
            rates.fold(0., f64::max)
        };
        line(text, "| | ours | share | PyTorch | share | factor |\n|---|---|---|---|---|---|");
        for row in self.matmul.iter().chain(&self.conv) {
            let mut cells = vec![if self.matmul.contains(row) {
                format!("matrix product, {}", row.case)
            } else {
                row.case.clone()
            }];
            for times in &row.sides {
                let gflops = rate(row, times);
                cells.push(format!("{gflops:.1}"));
                cells.push(format!("{:.0} %", 100. * gflops / fastest(&times.side)));
            }
            cells.extend(row.sides.iter().skip(1).map(factor));
            line(text, &format!("| {} |", cells.join(" | ")));
        }
        line(text, "");
    }

    /// What the sides chose.
    fn notes(&self, text: &mut String) {
        let rows = [&self.train, &self.eval, &self.latency, &self.conv, &self.scaling];
        let mut formats: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for times in rows.into_iter().flatten().flat_map(|row| &row.sides) {
            if let Some(note) = &times.note {
                *formats.entry((&times.side, note)).or_default() += 1;
            }
        }
        if !formats.is_empty() {
            let chosen: Vec<String> =
                formats.iter().map(|((side, note), count)| format!("{side} {note} {count} times")).collect();
            line(text, &format!("Memory format, the faster one of each case: {}.", chosen.join(", ")));
        }
    }
}

/// Rows of cases, columns of sides.
fn network_table(text: &mut String, title: &str, rows: &[Row], show: fn(&Row, &Times) -> String) {
    let Some(first) = rows.first() else { return };
    line(text, &format!("### {title}\n"));
    let names: Vec<&str> = first.sides.iter().map(|times| times.side.as_str()).collect();
    let mut head = vec![String::new()];
    head.extend(names.iter().enumerate().flat_map(|(number, name)| {
        let factor = (number > 0).then(|| "factor".to_string());
        std::iter::once(name.to_string()).chain(factor)
    }));
    line(text, &format!("| {} |", head.join(" | ")));
    line(text, &format!("|{}", "---|".repeat(head.len())));
    for row in rows {
        let mut cells = vec![row.case.clone()];
        for (number, times) in row.sides.iter().enumerate() {
            cells.push(show(row, times));
            if number > 0 {
                cells.push(factor(times));
            }
        }
        line(text, &format!("| {} |", cells.join(" | ")));
    }
    line(text, "");
}

fn factor(times: &Times) -> String {
    let [low, ratio, high] = times.ratio;
    format!("{ratio:.2}x ({low:.2} .. {high:.2})")
}

fn per_image(row: &Row, times: &Times) -> f64 {
    times.quartiles[1] / row.work
}

fn rate(row: &Row, times: &Times) -> String {
    format!("{:.1}", 1. / per_image(row, times))
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Seconds for a person.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 1. { format!("{:.2} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

/// `document` with what is between the markers replaced.
///
/// # Errors
/// Unless each marker is there once, in this order: a file without them is not a place to write to.
pub(crate) fn replace_section(document: &str, section: &str) -> Result<String> {
    let count = |marker: &str| document.matches(marker).count();
    ensure!(
        count(BEGIN) == 1 && count(END) == 1,
        "expected the lines {BEGIN} and {END} once each, found them {} and {} times; add them where the section is to be, \
         or use --no-docs",
        count(BEGIN),
        count(END)
    );
    let begin = document.find(BEGIN).unwrap_or_default() + BEGIN.len();
    let end = document.find(END).unwrap_or_default();
    ensure!(begin <= end, "expected {BEGIN} before {END}, found it after; exchange them");
    let (before, after) = (&document[..begin], &document[end..]);
    Ok(format!("{before}\n\n{section}\n\n{after}"))
}

/// Today's date, UTC.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds / 86_400)
}

/// Year-month-day of the days since 1970-01-01. Years are counted from March, so that a leap day is a year's last.
fn date(days: u64) -> String {
    // 1970-01-01 is the 719 468th day after 0000-03-01; an era is 400 years of 146 097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, sides: &[(&str, &[f64])]) -> Row {
        let sides = sides.iter().map(|(side, seconds)| Times {
            side: side.to_string(),
            steps: 1,
            note: Some("contiguous".into()),
            seconds: seconds.to_vec(),
            quartiles: [0.; 3],
            ratio: [0.; 3],
        });
        Row::new(case, 64., sides.collect()).unwrap()
    }

    #[test]
    fn the_section_is_replaced_whole_or_not_at_all() {
        let document = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nAfter.\n");
        let replaced = replace_section(&document, "new").unwrap();
        assert_eq!(replaced, format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nAfter.\n"));
        // Twice is the same as once.
        assert_eq!(replace_section(&replaced, "new").unwrap(), replaced);
        for (wrong, says) in [
            ("no markers".to_string(), "0 and 0 times"),
            (format!("{BEGIN} {BEGIN} {END}"), "2 and 1 times"),
            (BEGIN.to_string(), "1 and 0 times"),
            (format!("{END} {BEGIN}"), "exchange them"),
        ] {
            let error = replace_section(&wrong, "new").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(59), "1970-03-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(11_017), "2000-03-01");
        assert_eq!(date(19_723), "2024-01-01");
        assert_eq!(date(20_088), "2024-12-31");
    }

    #[test]
    fn tables_show_rates_and_factors() {
        let report = Report {
            train: vec![row("batch 64", &[("ours", &[4., 4.]), ("PyTorch", &[6., 8.])])],
            memory: vec![MemoryRow {
                case: "training".into(),
                sides: vec![
                    ("ours".into(), Memory { before_kib: 1024., peak_kib: 3072. }),
                    ("PyTorch".into(), Memory { before_kib: 2048., peak_kib: 8192. }),
                ],
            }],
            matmul: vec![row("8 x 8", &[("ours", &[1.]), ("PyTorch", &[1.])])],
            conv: vec![row("3 to 3", &[("ours", &[2.]), ("PyTorch", &[4.])])],
            ..Report::default()
        };
        let text = report.markdown();
        for expected in [
            "| | ours | PyTorch | factor |".replace("| |", "|  |"),
            "| batch 64 | 16.0 | 9.1 | 1.75x (1.62 .. 1.88) |".into(),
            "| training | ours | 2 (3) |  |".into(),
            "|  | PyTorch | 6 (8) | 3.00x |".into(),
            "| 50 % |".into(),
            "| 25 % | 2.00x (2.00 .. 2.00) |".into(),
            "ours contiguous 2 times".into(),
        ] {
            assert!(text.contains(&expected), "expected {expected:?} in:\n{text}");
        }
        // A part that was not measured has no table.
        assert!(!text.contains("One image"), "{text}");
        assert!(serde_json::to_string(&report).unwrap().contains("\"quartiles\":[4.0,4.0,4.0]"));
    }
}
