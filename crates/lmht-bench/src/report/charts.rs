//! Charts as SVG. Lines and text take the colour of the text around them, so that they read on light and on dark.

use std::error::Error;

use lmht_core::{GradientMode, LmhtConfig, Tgim, fire, in_gate, qcfs};
use lmht_nn::neurons::Equation;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Report;
use crate::{InputKind, Raster};

/// A picture and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// The name of its file, without the ending.
    pub name: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// How to read it.
    pub caption: String,
    /// The picture, to stand in a page: `currentColor` is the page's.
    pub svg: String,
}

impl Chart {
    /// The picture as a file of its own, with a colour for light and one for dark surroundings.
    pub fn file(&self) -> String {
        let style = "<style>svg{color-scheme:light dark;color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d0d7de}}</style>";
        match self.svg.split_once('>') {
            Some((tag, rest)) => format!("{tag}>\n{style}{rest}"),
            None => self.svg.clone(),
        }
    }
}

/// Stands for the colour of text until the picture is finished: plotters knows numbers only.
const INK: RGBColor = RGBColor(1, 2, 3);
/// Colours that stand out from white and from black alike.
const BLUE: RGBColor = RGBColor(76, 141, 214);
const ORANGE: RGBColor = RGBColor(217, 130, 43);
const GREEN: RGBColor = RGBColor(46, 158, 107);
const PURPLE: RGBColor = RGBColor(165, 94, 196);

/// Width of every picture, in pixels.
const WIDTH: u32 = 760;
/// Space for the names of layers.
const NAMES: u32 = 200;
/// Height of a bar with the space around it.
const BAR: u32 = 19;

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A picture of that height.
fn draw(height: u32, what: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // A string takes everything, and the ranges below are never empty.
        let drawn = what(&area).and_then(|()| Ok(area.present()?));
        drawn.unwrap_or_else(|error| unreachable!("a chart cannot fail to be drawn into a string: {error}"));
    }
    svg.replace("#010203", "currentColor")
}

fn text(size: u32, h: HPos, v: VPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).color(&INK).pos(Pos::new(h, v))
}

/// What a colour stands for, side by side from `x` on.
fn legend(area: &Area<'_>, mut x: i32, y: i32, entries: &[(String, RGBAColor)]) -> Drawn {
    for (name, color) in entries {
        area.draw(&Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()))?;
        area.draw(&Text::new(name.clone(), (x + 15, y), text(13, HPos::Left, VPos::Center)))?;
        // Without fonts plotters guesses; 7 pixels a letter are enough for any sans-serif at 13.
        x += 34 + 7 * name.chars().count() as i32;
    }
    Ok(())
}

fn input_color(input: InputKind) -> RGBColor {
    match input {
        InputKind::Spikes => BLUE,
        InputKind::Image => ORANGE,
        InputKind::Averaged => GREEN,
        InputKind::Analog => PURPLE,
    }
}

/// Level `level` of 0..=`levels`: nothing is nearly invisible, one spike is blue, L spikes are orange.
fn level_color(level: usize, levels: usize) -> RGBAColor {
    if level == 0 {
        return INK.mix(0.12);
    }
    let share = if levels > 1 { (level - 1) as f64 / (levels - 1) as f64 } else { 0. };
    let mix = |from: u8, to: u8| (f64::from(from) + share * (f64::from(to) - f64::from(from))).round() as u8;
    RGBColor(mix(BLUE.0, ORANGE.0), mix(BLUE.1, ORANGE.1), mix(BLUE.2, ORANGE.2)).to_rgba()
}

fn level_legend(levels: usize) -> Vec<(String, RGBAColor)> {
    // All of a few levels, or the ends and the middle of many.
    let shown: Vec<usize> = if levels <= 6 { (0..=levels).collect() } else { vec![0, 1, levels / 2, levels] };
    let plural = |level| if level == 1 { "spike" } else { "spikes" };
    shown.into_iter().map(|level| (format!("{level} {}", plural(level)), level_color(level, levels))).collect()
}

impl Report {
    /// Every picture: energy per layer, levels per layer, a raster of one image, the neuron's curves.
    pub fn charts(&self) -> Vec<Chart> {
        let mut charts = vec![self.energy_chart()];
        let spiking: Vec<_> = self.activity.iter().filter(|layer| layer.is_spiking).collect();
        if !spiking.is_empty() {
            charts.push(self.level_chart());
        }
        if !self.rasters.is_empty() {
            charts.push(raster_chart(&self.rasters));
        }
        if let Some(neuron) = self.neuron() {
            charts.push(rate_chart(&neuron));
            charts.push(surrogate_chart(&neuron));
        }
        charts
    }

    /// The network's neuron, in units of its own threshold: without T-GIM, with the whole leak. Nothing if the curves, which
    /// are those of Eqs. 5-8, are not its own.
    fn neuron(&self) -> Option<LmhtConfig> {
        let traits = self.subject.model.neuron.traits();
        match traits.equation {
            Equation::MultiThreshold => {}
            Equation::Other | Equation::Inference | Equation::Quantized | Equation::Analog => return None,
        }
        let config = LmhtConfig {
            timesteps: self.subject.model.timesteps,
            levels: traits.levels,
            v_threshold: traits.v_threshold?,
            v_init: 0.5,
            tgim: Tgim::Identity,
            gradient: GradientMode::Detached,
            window: 1,
        };
        config.check().is_ok().then_some(config)
    }

    fn energy_chart(&self) -> Chart {
        let model = self.energy_models.first().cloned().unwrap_or_default();
        // Microjoule: a layer is far below a millijoule.
        let bars: Vec<_> = self.cost.layers.iter().map(|layer| (layer, 1e3 * model.layer_mj(layer))).collect();
        let largest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        let n = bars.len().max(1);
        let svg = draw(BAR * n as u32 + 86, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin_top(28)
                .margin_right(70)
                .x_label_area_size(50)
                .set_label_area_size(LabelAreaPosition::Left, NAMES)
                .build_cartesian_2d(0f64..largest, n as f64..0f64)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .disable_y_axis()
                .light_line_style(TRANSPARENT)
                .bold_line_style(INK.mix(0.15))
                .axis_style(INK.mix(0.5))
                .x_labels(6)
                .x_label_formatter(&|value| short(*value))
                .x_desc("estimated energy, µJ an image")
                .label_style(text(12, HPos::Center, VPos::Center))
                .axis_desc_style(text(13, HPos::Center, VPos::Center))
                .draw()?;
            for (i, (layer, value)) in bars.iter().enumerate() {
                let (top, middle) = (i as f64 + 0.15, i as f64 + 0.5);
                let color = input_color(layer.input);
                chart.draw_series([Rectangle::new([(0., top), (*value, top + 0.7)], color.filled())])?;
                let at = |x| EmptyElement::at((x, middle));
                let name = Text::new(layer.name.clone(), (-8, 0), text(12, HPos::Right, VPos::Center));
                let label = Text::new(short(*value), (6, 0), text(12, HPos::Left, VPos::Center));
                chart.draw_series([at(0.) + name])?;
                chart.draw_series([at(*value) + label])?;
            }
            let mut kinds: Vec<InputKind> = Vec::new();
            for layer in &self.cost.layers {
                if !kinds.contains(&layer.input) {
                    kinds.push(layer.input);
                }
            }
            let name = |kind: InputKind| {
                let price = if kind == InputKind::Spikes { "accumulates" } else { "MACs" };
                (format!("{}: {price}", kind.name()), input_color(kind).to_rgba())
            };
            legend(area, NAMES as i32, 14, &kinds.into_iter().map(name).collect::<Vec<_>>())
        });
        let caption = format!(
            "Synapses in the order of the network, {} pJ an accumulate and {} pJ a multiply-accumulate ({}). Estimated from \
             counted operations.",
            model.ac_pj, model.mac_pj, model.name
        );
        Chart { name: "energy", title: "Energy of each layer", caption, svg }
    }

    fn level_chart(&self) -> Chart {
        let layers: Vec<_> = self.activity.iter().filter(|layer| layer.is_spiking).collect();
        let most = layers.iter().map(|layer| layer.levels as usize).max().unwrap_or(1);
        let svg = draw(BAR * layers.len() as u32 + 86, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin_top(28)
                .margin_right(70)
                .x_label_area_size(50)
                .set_label_area_size(LabelAreaPosition::Left, NAMES)
                .build_cartesian_2d(0f64..100., layers.len() as f64..0f64)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .disable_y_axis()
                .light_line_style(TRANSPARENT)
                .bold_line_style(INK.mix(0.15))
                .axis_style(INK.mix(0.5))
                .x_labels(6)
                .x_label_formatter(&|value| format!("{value:.0}"))
                .x_desc("share of units and timesteps, %")
                .label_style(text(12, HPos::Center, VPos::Center))
                .axis_desc_style(text(13, HPos::Center, VPos::Center))
                .draw()?;
            for (i, layer) in layers.iter().enumerate() {
                let (top, middle) = (i as f64 + 0.15, i as f64 + 0.5);
                let mut from = 0.;
                for (level, share) in layer.histogram.iter().enumerate() {
                    let to = from + 100. * share;
                    let color = level_color(level, layer.levels as usize).filled();
                    chart.draw_series([Rectangle::new([(from, top), (to, top + 0.7)], color)])?;
                    from = to;
                }
                let name = Text::new(layer.name.clone(), (-8, 0), text(12, HPos::Right, VPos::Center));
                chart.draw_series([EmptyElement::at((0., middle)) + name])?;
                let rate = format!("{:.1} %", 100. * layer.rate_eq);
                let rate = Text::new(rate, (6, 0), text(12, HPos::Left, VPos::Center));
                chart.draw_series([EmptyElement::at((100., middle)) + rate])?;
            }
            legend(area, NAMES as i32, 14, &level_legend(most))
        });
        let caption =
            "How many spikes a timestep has, in each neuron layer. On the right the equivalent binary rate, spikes \
                       over L."
                .into();
        Chart { name: "levels", title: "Levels of each layer", caption, svg }
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    if value <= 0. {
        return "0".into();
    }
    let digits = (2. - value.log10().floor()).clamp(0., 6.) as usize;
    format!("{value:.digits$}")
}

fn raster_chart(rasters: &[Raster]) -> Chart {
    // A row for each timestep, a gap after each layer.
    let row = 9i32;
    let gap = 6i32;
    let height_of = |raster: &Raster| raster.spikes.len().max(2) as i32 * row + gap;
    let height = rasters.iter().map(height_of).sum::<i32>() + 40;
    let most = rasters.iter().map(|raster| raster.levels as usize).max().unwrap_or(1);
    let svg = draw(height as u32, |area| {
        legend(area, NAMES as i32, 14, &level_legend(most))?;
        let (left, width) = (NAMES as i32, WIDTH as i32 - NAMES as i32 - 10);
        let mut top = 34;
        for raster in rasters {
            let steps = raster.spikes.len() as i32;
            let middle = top + steps * row / 2;
            area.draw(&Text::new(raster.name.clone(), (left - 8, middle), text(12, HPos::Right, VPos::Center)))?;
            for (t, spikes) in raster.spikes.iter().enumerate() {
                let y = top + t as i32 * row;
                area.draw(&Rectangle::new([(left, y), (left + width, y + row - 1)], INK.mix(0.06).filled()))?;
                for (unit, level) in spikes.iter().enumerate().filter(|(_, level)| **level > 0) {
                    let x = |unit: usize| left + (unit as i32 * width) / spikes.len() as i32;
                    let color = level_color(*level as usize, raster.levels as usize);
                    let cell = [(x(unit), y), ((x(unit + 1) - 1).max(x(unit) + 1), y + row - 1)];
                    area.draw(&Rectangle::new(cell, color.filled()))?;
                }
            }
            top += height_of(raster);
        }
        Ok(())
    });
    let steps = rasters.first().map_or(0, |raster| raster.spikes.len());
    let caption = format!(
        "The first image: up to 96 evenly chosen neurons of each layer from left to right, its {steps} timesteps from top to \
         bottom. A colour is a number of spikes."
    );
    Chart { name: "raster", title: "Spikes of one image", caption, svg }
}

/// A line of a chart: its name, colour, width in pixels, points.
type Curve = (&'static str, RGBAColor, u32, Vec<(f64, f64)>);

/// A chart of lines over a range.
fn lines(
    (x_range, y_range): (std::ops::Range<f64>, std::ops::Range<f64>),
    (x_name, y_name): (&str, &str),
    series: &[Curve],
) -> String {
    draw(360, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(34)
            .margin_right(20)
            .x_label_area_size(50)
            .y_label_area_size(60)
            .build_cartesian_2d(x_range, y_range)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.15))
            .axis_style(INK.mix(0.5))
            .x_labels(8)
            .y_labels(6)
            .x_desc(x_name)
            .y_desc(y_name)
            .label_style(text(12, HPos::Center, VPos::Center))
            .axis_desc_style(text(13, HPos::Center, VPos::Center))
            .draw()?;
        for (_, color, width, points) in series {
            chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(*width)))?;
        }
        let entries: Vec<_> = series.iter().map(|(name, color, ..)| (name.to_string(), *color)).collect();
        legend(area, 60, 14, &entries)
    })
}

/// The points of a staircase at so many places.
fn sampled(from: f64, to: f64, mut f: impl FnMut(f64) -> f64) -> Vec<(f64, f64)> {
    const POINTS: u32 = 1200;
    (0..=POINTS).map(|i| from + (to - from) * f64::from(i) / f64::from(POINTS)).map(|x| (x, f(x))).collect()
}

/// Mean output over mean input (in the manner of the paper's Fig. 2): QCFS, and the neuron with all of its input in the
/// last timestep, with and without a T-GIM that spreads it.
fn rate_chart(config: &LmhtConfig) -> Chart {
    let (t, theta, levels) = (config.timesteps, config.v_threshold, config.levels);
    let quant_levels = levels.saturating_mul(t as u32);
    let ceiling = f64::from(levels) * theta;
    let mean_output = |omega: &[f64], tgim: Tgim, x: f64| {
        let mut current = vec![0.; t];
        current[t - 1] = x * t as f64;
        let neuron = LmhtConfig { tgim, ..*config }.check().ok();
        neuron.map_or(0., |neuron| neuron.output(omega, 1., &current).iter().sum::<f64>() / t as f64)
    };
    let uniform = vec![1. / t as f64; t * t];
    let (from, to) = (-0.15 * ceiling, 1.25 * ceiling);
    let activation = sampled(from, to, |x| {
        let mut out = [0.];
        qcfs::forward(&[x], ceiling, quant_levels, &mut out);
        out[0]
    });
    let spread = sampled(from, to, |x| mean_output(&uniform, Tgim::Full, x));
    let uneven = sampled(from, to, |x| mean_output(&[], Tgim::Identity, x));
    let series = [
        ("QCFS with L·T levels", BLUE.mix(0.45), 7, activation),
        ("LM-HT, Ω = 1/T", ORANGE.to_rgba(), 2, spread),
        ("M-HT without T-GIM", PURPLE.to_rgba(), 2, uneven),
    ];
    let ranges = (from..to, -0.05 * ceiling..1.1 * ceiling);
    let svg = lines(ranges, ("mean input current", "mean output s·θ"), &series);
    let caption = format!(
        "L = {levels}, T = {t}, θ = {theta}, v(0) = θ/2, λ = 1, the whole input in the last timestep. A T-GIM of 1/T spreads \
         it: the neuron's mean output is then the quantized activation with L·T = {quant_levels} levels (Theorem 4.2), step \
         for step. Without a T-GIM the last timestep sends all there is, L spikes at most."
    );
    Chart { name: "rate", title: "Output over input: LM-HT and QCFS", caption, svg }
}

/// Spikes of one timestep and the surrogate's window (in the manner of the paper's Fig. 1).
fn surrogate_chart(config: &LmhtConfig) -> Chart {
    let (theta, levels) = (config.v_threshold, config.levels);
    let top = f64::from(levels) * theta;
    let (from, to) = (-0.25 * theta, top + 1.25 * theta);
    let output = sampled(from, to, |m| f64::from(fire(m, theta, levels).0) * theta);
    let window = sampled(from, to, |m| f64::from(u8::from(in_gate(m, theta, levels))));
    let series = [("output s·θ", BLUE.to_rgba(), 2, output), ("surrogate d(s·θ)/dm", ORANGE.to_rgba(), 2, window)];
    let ranges = (from..to, -0.1..(1.1 * top).max(1.15));
    let svg = lines(ranges, ("potential before firing, m", "output; derivative"), &series);
    let caption = format!(
        "L = {levels}, θ = {theta}. The output rises by θ at every threshold kθ; the gradient passes where θ/2 ≤ m ≤ (L + ½)θ \
         (Eq. 8)."
    );
    Chart { name: "surrogate", title: "Firing and its surrogate", caption, svg }
}
