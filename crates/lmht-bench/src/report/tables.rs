//! The report's tables, for a terminal and as Markdown. The page uses them too.

use comfy_table::{CellAlignment, Table as Grid, TableStyle, presets};

use lmht_nn::markdown;
use lmht_nn::neurons::Equation;

use super::Report;
use crate::EnergyModel;

/// A table: the first column is text, the others are numbers.
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// How many columns from the left are text.
    pub(super) n_text: usize,
    /// Columns that a narrow terminal goes without, the first of them first.
    pub(super) extra: &'static [usize],
    pub(super) note: String,
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn millions(value: f64) -> String {
    format!("{:.3}", value / 1e6)
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100. * share)
}

/// Four digits that matter: energies differ by orders of magnitude.
fn mj(value: f64) -> String {
    let digits = if value > 0. { (3. - value.log10().floor()).clamp(0., 9.) as usize } else { 0 };
    format!("{value:.digits$}")
}

/// The text without what moves a terminal.
fn terminal(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// The text in lines of at most `width` characters, as far as its words allow it.
fn wrapped(text: &str, width: usize) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines.join("\n")
}

impl Table {
    /// At most `width` characters wide, if its extra columns are all that is too much.
    fn within(&self, width: usize) -> String {
        let longest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let word = |text: &str| text.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
        // What can be broken needs room for its words.
        let is_text = |column: usize| column > 0 && column < self.n_text;
        let cells = |column: usize| {
            let needs =
                self.rows.iter().map(|row| if is_text(column) { word(&row[column]) } else { longest(&row[column]) });
            needs.max().unwrap_or(0)
        };
        let needed = |column: usize| cells(column).max(word(&self.head[column]));
        // A space at both sides, and one between columns.
        let total = |shown: &[usize]| 1 + shown.iter().map(|&column| 3 + needed(column)).sum::<usize>();
        let mut shown: Vec<usize> = (0..self.head.len()).collect();
        let mut left_out = Vec::new();
        for &column in self.extra {
            if total(&shown) > width {
                shown.retain(|other| *other != column);
                left_out.push(self.head[column].as_str());
            }
        }
        // Text gets what the others leave.
        let n_broken = shown.iter().filter(|&&column| is_text(column)).count().max(1);
        let more = width.saturating_sub(total(&shown)) / n_broken;
        let room = |column: usize| needed(column) + if is_text(column) { more } else { 0 };
        let head = shown.iter().map(|&column| wrapped(&self.head[column], room(column)));
        let rows = self.rows.iter().map(|row| {
            let cell = |&column: &usize| {
                let text = terminal(&row[column]);
                if is_text(column) { wrapped(&text, room(column)) } else { text }
            };
            shown.iter().map(cell).collect::<Vec<_>>()
        });
        let mut grid = Grid::new();
        grid.load_style(presets::UTF8_BORDERS_ONLY).set_header(head).add_rows(rows);
        for (column, &at) in grid.column_iter_mut().zip(&shown) {
            if at >= self.n_text {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = grid.trim_fmt();
        if !left_out.is_empty() {
            text += &format!(
                "\n{}",
                wrapped(&format!("Not shown: {}; every other form has all.", left_out.join(", ")), width)
            );
        }
        text
    }
}

impl Report {
    /// The report for a terminal.
    pub fn to_text(&self) -> String {
        self.render(presets::UTF8_BORDERS_ONLY, |title| format!("{title}\n"), terminal)
    }

    /// The report for a terminal of `width` columns: heads and the text of cells are broken into lines, and of what does not
    /// fit then, columns are left out and named.
    pub fn to_text_within(&self, width: usize) -> String {
        let wrapped = |text: &str, width| wrapped(&terminal(text), width);
        let mut text = wrapped(&format!("Cost of {}", self.title()), width) + "\n";
        for line in self.summary() {
            text += &format!("{}\n\n", wrapped(&line, width));
        }
        for table in self.tables() {
            text += &format!("{}\n{}\n\n", table.title, table.within(width));
            table.note.split("\n\n").for_each(|note| text += &format!("{}\n\n", wrapped(note, width)));
        }
        text.trim_end().to_string() + "\n"
    }

    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let paragraphs = |note: &str| note.split("\n\n").map(markdown::text).collect::<Vec<_>>().join("\n\n");
        self.render(presets::ASCII_MARKDOWN, |title| format!("## {title}\n\n"), paragraphs)
    }

    /// `plain` makes text of what came from elsewhere: names, paths, sources.
    fn render(&self, style: TableStyle, title: impl Fn(&str) -> String, plain: impl Fn(&str) -> String) -> String {
        let mut text = title(&plain(&format!("Cost of {}", self.title()))).replacen("## ", "# ", 1);
        for line in self.summary() {
            text += &format!("{}\n\n", plain(&line));
        }
        for table in self.tables() {
            text += &title(table.title);
            let mut grid = Grid::new();
            let rows = table.rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
            grid.load_style(style).set_header(&table.head).add_rows(rows);
            for (at, column) in grid.column_iter_mut().enumerate() {
                if at >= table.n_text {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            text += &format!("{}\n\n{}\n\n", grid.trim_fmt(), plain(&table.note));
        }
        text.trim_end().to_string() + "\n"
    }

    /// What was run, and the figures to remember.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut data = format!("{} images: {}.", self.cost.n_images, self.subject.data);
        if let Some(top1) = self.subject.top1 {
            data += &format!(" Top-1 {:.2} %.", 100. * top1);
        }
        let mut lines = vec![data];
        if let Some(sops) = &self.sops_by_image {
            let [min, low, median, high, max] =
                [sops.min, sops.lower_quartile, sops.median, sops.upper_quartile, sops.max].map(|n| millions(n as f64));
            lines
                .push(format!("SOPs of an image: median {median} M, quartiles {low} and {high}, from {min} to {max}."));
        }
        let footprint = &self.footprint;
        lines.push(format!(
            "{} parameters ({} of them of neurons) and {} buffers, {:.2} MB. Training keeps at least {:.2} MB of \
             activations for each image (estimated, 32-bit float).",
            footprint.n_params,
            footprint.n_neuron_params,
            footprint.n_buffers,
            footprint.bytes as f64 / 1e6,
            self.training_bytes_per_image / 1e6
        ));
        lines.push(self.note.clone());
        lines
    }

    /// Every table.
    pub(super) fn tables(&self) -> Vec<Table> {
        let mut tables = vec![self.operations(), self.energies(), self.comparison(), self.layers()];
        if !self.cost.products.is_empty() {
            tables.push(self.attention());
        }
        tables.push(self.neurons());
        tables
    }

    fn operations(&self) -> Table {
        let totals = &self.totals;
        let row = |name: &str, what: &str, value| vec![name.to_string(), what.to_string(), millions(value)];
        Table {
            title: "Operations per image, by definition",
            head: head(&["definition", "what it counts", "millions"]),
            rows: vec![
                row("sop_exact", "spikes · connections, level k counts k, no padding", totals.sops),
                row("sop_exact_nz", "level k counts 1, weights of 0 left out (NeuroBench)", totals.sops_nz),
                row("sop_rate", "mean spikes · T · dense operations with padding (syops)", totals.sop_rate),
                row("paper", "sop_exact, and averages of spikes as if spikes; no stem", totals.paper_sops),
                row("MACs, image", "connections of the synapse that reads the image", totals.macs_image),
                row("MACs, averages", "connections of inputs after average pooling", totals.macs_averaged),
                row("MACs, analog", "connections of other real values (residual streams)", totals.macs_analog),
                row("MACs, effective", "all MACs without zeros of input and weight (NeuroBench)", totals.macs_nz),
                row("attention", "accumulates of spikes that meet in products", totals.attention_acs),
                row("attention, MACs", "products where no side is spikes", totals.attention_macs),
                row("neuron updates", "potentials computed", totals.neuron_updates),
                row("T-GIM", "multiply-accumulates by entries of Ω", totals.tgim_macs),
                row("leak", "multiplications by λ", totals.leak_muls),
                row("bias", "one addition for each output of a synapse", totals.bias_adds),
                row("dense ANN", "MACs of the same structure without spikes", totals.ann_macs),
            ],
            n_text: 2,
            extra: &[],
            note: "Sums over all timesteps. A static image's current is computed once.".into(),
        }
    }

    fn energies(&self) -> Table {
        let rows = self.energy.iter().map(|energy| {
            vec![
                energy.model.clone(),
                mj(energy.sops_mj),
                mj(energy.macs_mj),
                mj(energy.attention_mj),
                mj(energy.neurons_mj),
                energy.memory_mj.map_or("–".into(), mj),
                mj(energy.total_mj),
                mj(energy.paper_mj),
            ]
        });
        let sources = self.energy_models.iter().map(|model| {
            let memory = model.memory.as_ref().map_or(String::new(), |memory| format!("; memory: {}", memory.source));
            format!(
                "{}: {} pJ a MAC, {} pJ an accumulate, {}{memory}.",
                model.name, model.mac_pj, model.ac_pj, model.source
            )
        });
        Table {
            title: "Estimated energy per image, mJ",
            head: head(&["model", "SOPs", "MACs", "attention", "neurons", "memory", "total", "paper's rule"]),
            rows: rows.collect(),
            n_text: 1,
            extra: &[3, 7, 4, 5],
            note: sources.collect::<Vec<_>>().join("\n\n"),
        }
    }

    fn comparison(&self) -> Table {
        let Some((model, energy)) = self.energy_models.first().zip(self.energy.first()) else {
            return Table {
                title: "Comparison",
                head: Vec::new(),
                rows: Vec::new(),
                n_text: 0,
                extra: &[],
                note: String::new(),
            };
        };
        let int8 = EnergyModel::named("int8-45nm").unwrap_or_default();
        let dense = self.totals.ann_macs;
        let ours_int8 = int8.estimate(&self.cost);
        let quantized_mj = ours_int8.ann_mj;
        let ours = energy.sops_mj + energy.macs_mj + energy.attention_mj;
        let relative = |value: f64| {
            if ours > 0. { format!("{:.2}", value / ours) } else { "–".into() }
        };
        let row = |name: String, acs: f64, macs: f64, price: &str, value: f64| {
            vec![name, price.to_string(), millions(acs), millions(macs), mj(value), relative(value)]
        };
        let traits = self.subject.model.neuron.traits();
        let quantized = match traits.equation {
            Equation::Analog => "quantized ANN".to_string(),
            Equation::Quantized => format!("quantized ANN, {} levels", traits.levels),
            Equation::MultiThreshold | Equation::Other | Equation::Inference => {
                let answering = self.cost.timesteps.saturating_sub(traits.first_stage);
                format!("quantized ANN, {} levels", traits.levels as usize * answering)
            }
        };
        let totals = &self.totals;
        Table {
            title: "Beside an ANN of the same structure, estimated",
            head: head(&["network", "prices", "accumulates M", "MACs M", "mJ", "relative"]),
            rows: vec![
                row(
                    "this one: synapses and attention".into(),
                    totals.sops + totals.attention_acs,
                    totals.macs + totals.attention_macs,
                    &model.name,
                    ours,
                ),
                row(
                    "the same at 8 bits".into(),
                    totals.sops + totals.attention_acs,
                    totals.macs + totals.attention_macs,
                    &int8.name,
                    ours_int8.sops_mj + ours_int8.macs_mj + ours_int8.attention_mj,
                ),
                row("this one by the paper's rule".into(), totals.paper_sops, 0., &model.name, energy.paper_mj),
                row("dense ANN".into(), 0., dense, &model.name, energy.ann_mj),
                row(quantized, 0., dense, &int8.name, quantized_mj),
            ],
            n_text: 2,
            extra: &[2, 3, 1],
            note: "The ANNs multiply every connection once and skip no zeros. Eight bits hold activations of up to 255 \
                   levels; the weights are assumed to have eight bits too. Neurons, memory and biases are in none of these \
                   rows."
                .into(),
        }
    }

    fn layers(&self) -> Table {
        let model = self.energy_models.first().cloned().unwrap_or_default();
        let rows = self.cost.layers.iter().map(|layer| {
            vec![
                layer.name.clone(),
                layer.input.name().to_string(),
                millions(layer.sops),
                millions(layer.sops_nz),
                millions(layer.sop_rate),
                millions(layer.paper_sops),
                millions(layer.macs),
                millions(layer.dense),
                mj(model.layer_mj(layer)),
            ]
        });
        Table {
            title: "Synapses, millions of operations per image",
            head: head(&[
                "synapse",
                "input",
                "sop_exact",
                "sop_exact_nz",
                "sop_rate",
                "paper",
                "MACs",
                "dense",
                "mJ (estimated)",
            ]),
            rows: rows.collect(),
            n_text: 2,
            extra: &[3, 4, 5, 7],
            note: format!(
                "Dense: multiplications of all runs without padding. Energy at the prices of {}, synapses alone.",
                model.name
            ),
        }
    }

    fn attention(&self) -> Table {
        let rows = self.cost.products.iter().map(|product| {
            vec![
                product.name.clone(),
                millions(product.acs),
                millions(product.macs),
                millions(product.effective),
                millions(product.dense),
            ]
        });
        Table {
            title: "Attention, millions of operations per image",
            head: head(&["product", "accumulates", "MACs", "pairs other than 0", "dense"]),
            rows: rows.collect(),
            n_text: 1,
            extra: &[4, 3],
            note: "Spikes times spikes: pairs that meet. Spikes times real values: each spike adds every value of its row \
                   or column."
                .into(),
        }
    }

    fn neurons(&self) -> Table {
        let rows = self.activity.iter().map(|layer| {
            let spiking = |text: String| if layer.is_spiking { text } else { "–".into() };
            vec![
                layer.name.clone(),
                layer.n_units.to_string(),
                percent(layer.rate_nz),
                spiking(percent(layer.rate_eq)),
                percent(layer.silent),
                spiking(percent(layer.saturated)),
                percent(layer.uniform),
                layer.uniform_firing.map_or("–".into(), percent),
                spiking(layer.histogram.iter().map(|share| percent(*share)).collect::<Vec<_>>().join(" / ")),
            ]
        });
        Table {
            title: "Neurons, %",
            head: head(&[
                "layer",
                "units",
                "values not 0",
                "binary rate",
                "silent",
                "saturated",
                "uniform",
                "uniform of firing",
                "at level 0 / 1 / … / L",
            ]),
            rows: rows.collect(),
            n_text: 1,
            extra: &[7, 3, 1, 6, 5, 8],
            note: "Binary rate: spikes over L, what single-threshold hardware sees in L·T timesteps. Silent, saturated: \
                   units at 0, or at L, at every timestep of every image. Uniform: units and images whose s(t) is the same at \
                   all t (Corollary 4.3)."
                .into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_table_fits_the_width() {
        let rows = vec![["conv1", "what it counts in some words", "1.234", "5.678"].map(String::from).to_vec()];
        let head = super::head(&["synapse", "meaning", "a number", "another number"]);
        let table = super::Table { title: "x", head, rows, n_text: 2, extra: &[2], note: String::new() };
        for (width, n_columns) in [(80, 4), (40, 4), (36, 3)] {
            let text = table.within(width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
            assert_eq!(text.contains("1.234"), n_columns == 4, "{width}: {text}");
            assert_eq!(text.contains("Not shown: a number"), n_columns == 3, "{width}: {text}");
        }
    }

    #[test]
    fn energies_keep_four_digits() {
        assert_eq!([0., 12345.6, 0.66, 0.000123456].map(super::mj), ["0", "12346", "0.6600", "0.0001235"]);
    }
}
