//! The report as one HTML file that needs no other.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;
use super::tables::Table;

const STYLE: &str = include_str!("page.css");

impl Report {
    /// The report as a page: tables and charts, for light and for dark, without anything from elsewhere.
    pub fn to_html(&self) -> String {
        let title = format!("Cost of {}", self.title());
        let tables = self.tables();
        let charts = self.charts();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (title) }
                        (self.cards())
                        @for line in self.summary() { p { (line) } }
                        @for table in tables.iter().take(3) { (section(table)) }
                        @for chart in &charts {
                            section {
                                h2 { (chart.title) }
                                figure {
                                    div.scroll { (PreEscaped(&chart.svg)) }
                                    figcaption { (chart.caption) }
                                }
                            }
                        }
                        @for table in tables.iter().skip(3) { (section(table)) }
                        @if !self.subject.command.is_empty() {
                            footer { "Made by " code { (self.subject.command) } }
                        }
                    }
                }
            }
        };
        page.into_string()
    }

    /// The figures to remember.
    fn cards(&self) -> Markup {
        let energy = self.energy.first();
        let card = |name: &str, value: String, unit: &str| {
            html! { div.card { div.name { (name) } div.value { (value) " " span.unit { (unit) } } } }
        };
        let rate = {
            let spiking = || self.activity.iter().filter(|layer| layer.is_spiking);
            let values = |layer: &crate::LayerActivity| (layer.n_units * layer.timesteps) as f64;
            let all: f64 = spiking().map(values).sum();
            let fired: f64 = spiking().map(|layer| layer.rate_eq * values(layer)).sum();
            if all > 0. { Some(100. * fired / all) } else { None }
        };
        html! {
            div.cards {
                (card("synaptic operations", format!("{:.2}", self.totals.sops / 1e6), "M an image"))
                (card("MACs of analog inputs", format!("{:.2}", self.totals.macs / 1e6), "M an image"))
                @if let Some(energy) = energy {
                    (card("energy, all parts", format!("{:.4}", energy.total_mj), "mJ, estimated"))
                    (card("dense ANN", format!("{:.4}", energy.ann_mj), "mJ, estimated"))
                }
                @if let Some(rate) = rate { (card("binary firing rate", format!("{rate:.1}"), "%")) }
            }
        }
    }
}

fn section(table: &Table) -> Markup {
    html! {
        section {
            h2 { (table.title) }
            div.scroll {
                table {
                    thead {
                        tr { @for (at, name) in table.head.iter().enumerate() { th.number[at >= table.n_text] { (name) } } }
                    }
                    tbody {
                        @for row in &table.rows {
                            tr { @for (at, cell) in row.iter().enumerate() { td.number[at >= table.n_text] { (cell) } } }
                        }
                    }
                }
            }
            @for paragraph in table.note.split("\n\n") { p.note { (paragraph) } }
        }
    }
}
