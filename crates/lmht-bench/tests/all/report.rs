//! What reports say, and that they say it of any network.

use candle_core::{DType, Device, Tensor};
use lmht_bench::report::{NOTE, Report, Subject, images_csv};
use lmht_bench::{EnergyModel, Footprint, Profiler};
use lmht_nn::neurons::{Equation, Ilif, Ternary};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pass};

fn report(config: &ModelConfig) -> (Report, Profiler) {
    let params = ParamStore::new(42);
    let network = Network::new(config, params.builder(DType::F32, &Device::Cpu)).unwrap();
    let mut profiler = Profiler::new();
    let images = Tensor::arange(0f32, 2. * 3. * 256., &Device::Cpu).unwrap();
    let images = ((images.sin().unwrap() * 2.).unwrap()).reshape((2, 3, 16, 16)).unwrap();
    network.forward(&images, &mut Pass::eval().observed_by(&mut profiler)).unwrap();
    let subject = Subject {
        model: config.clone(),
        data: "two waves <b> & \"quotes\"".into(),
        command: "test".into(),
        top1: Some(0.5),
    };
    (Report::new(subject, &profiler, Footprint::of(&params), &EnergyModel::all()), profiler)
}

fn resnet() -> ModelConfig {
    ModelConfig { width: 4, ..ModelConfig::resnet18(10) }
}

#[test]
fn json_survives_a_round_trip_and_names_its_version() {
    let (mut report, _) = report(&resnet());
    let json = report.to_json();
    let read = Report::from_json(&json).unwrap();
    report.rasters.clear();
    assert_eq!(read, report);
    let newer = json.replacen("\"version\": 1", "\"version\": 2", 1);
    assert!(Report::from_json(&newer).unwrap_err().to_string().contains("version 2"));
    assert!(Report::from_json("{}").unwrap_err().to_string().contains("cost report"));
    // Bars that no chart has room for; a sum that is not finite; a loop over timesteps that does not end.
    for (part, number, says) in
        [("activity", 1e300, "shares"), ("totals", 1e300, "totals."), ("subject", 1e15, "its model")]
    {
        let mut damaged: serde_json::Value = serde_json::from_str(&json).unwrap();
        match part {
            "activity" => damaged[part][0]["histogram"][0] = number.into(),
            "totals" => damaged[part]["sops"] = number.into(),
            _ => damaged[part]["model"]["timesteps"] = (number as u64).into(),
        }
        let error = Report::from_json(&damaged.to_string()).unwrap_err().to_string();
        assert!(error.contains("cost report") && error.contains(says), "{error}");
    }
}

#[test]
fn every_form_says_that_energy_is_estimated() {
    let (report, _) = report(&resnet());
    assert!(NOTE.contains("estimated"));
    for (form, text) in [("text", report.to_text()), ("markdown", report.to_markdown()), ("html", report.to_html())] {
        assert!(text.contains("not measured"), "{form}");
        for name in ["sop_exact", "sop_exact_nz", "sop_rate", "paper", "layer1.0.conv1.0", "float16-45nm", "ISSCC 2014"]
        {
            assert!(text.contains(name), "{form} lacks {name}");
        }
    }
    assert!(report.to_markdown().lines().any(|line| line.starts_with("| layer1.0.conv1.0")));
}

#[test]
fn csv_has_whole_numbers_that_add_up() {
    let (report, profiler) = report(&resnet());
    let layers = report.layers_csv();
    assert_eq!(layers.lines().count(), 1 + report.cost.layers.len());
    assert_eq!(report.neurons_csv().lines().count(), 1 + report.activity.len());
    let images = images_csv(&profiler.cost);
    let sum: u64 =
        images.lines().skip(1).flat_map(|line| line.split(',').skip(2)).map(|n| n.parse::<u64>().unwrap()).sum();
    assert_eq!(sum as f64, 2. * report.totals.sops);
    // Two images, two timesteps.
    assert_eq!(images.lines().count(), 1 + 4);
}

/// Well-formed as far as this needs: every tag that opens closes, in order.
#[track_caller]
fn assert_balanced(markup: &str) {
    let void = ["!DOCTYPE", "meta", "?xml"];
    let mut open: Vec<&str> = Vec::new();
    for part in markup.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name = tag.split(|c: char| c.is_whitespace() || c == '/').find(|name| !name.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed in the wrong order");
        } else if !tag.ends_with('/') && !void.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_page_stands_alone() {
    let (report, _) = report(&resnet());
    let page = report.to_html();
    assert_balanced(&page);
    // The name of SVG is an address that nobody fetches.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for part in ["http", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(part), "the page refers to {part}");
    }
    // What a user wrote stays text.
    assert!(page.contains("&lt;b&gt; &amp;") && !page.contains("<b>"));
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn charts_take_the_colour_of_the_text() {
    let (report, _) = report(&resnet());
    let charts = report.charts();
    let names: Vec<_> = charts.iter().map(|chart| chart.name).collect();
    assert_eq!(names, ["energy", "levels", "raster", "rate", "surrogate"]);
    for chart in &charts {
        assert_balanced(&chart.file());
        assert!(chart.svg.contains("currentColor"), "{}", chart.name);
        for fixed in ["#000000", "#FFFFFF", "#010203"] {
            assert!(!chart.svg.contains(fixed), "{} has {fixed}", chart.name);
        }
        assert!(chart.file().contains("prefers-color-scheme"));
    }
    // Each layer has its bar and its name.
    assert!(charts[0].svg.contains("layer4.1.conv2.0") && charts[1].svg.contains("layer4.1.sn2"));
}

#[test]
fn any_neuron_can_be_drawn() {
    let levels = |levels, timesteps| ModelConfig { timesteps, neuron: NeuronConfig::lmht(levels), ..resnet() };
    for config in [
        levels(1, 1),
        levels(16, 3),
        ModelConfig { timesteps: 4, neuron: NeuronConfig::integrate_and_fire(), ..resnet() },
        ModelConfig { timesteps: 1, neuron: NeuronConfig::qcfs(4), ..resnet() },
        ModelConfig { timesteps: 1, neuron: NeuronConfig::relu(), ..resnet() },
        ModelConfig { timesteps: 4, neuron: Ternary::default().into(), ..resnet() },
        ModelConfig { timesteps: 2, neuron: Ilif::default().into(), ..resnet() },
        ModelConfig { width: 16, depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(10) },
    ] {
        let (report, _) = report(&config);
        assert_balanced(&report.to_html());
        // The curves of the neuron are those of Eqs. 5-8.
        let n_charts = match config.neuron.traits().equation {
            Equation::MultiThreshold => 5,
            Equation::Other | Equation::Inference => 3,
            Equation::Quantized | Equation::Analog => 1,
        };
        assert_eq!(report.charts().len(), n_charts, "{:?}", config.neuron);
        let has_attention = report.to_text().contains("block.0.attn.q_k");
        assert_eq!(has_attention, config.depth.is_some());
    }
}

#[test]
fn a_report_of_nothing_is_empty_and_whole() {
    let params = ParamStore::new(1);
    let subject = Subject { model: resnet(), data: "nothing".into(), command: String::new(), top1: None };
    let report = Report::new(subject, &Profiler::new(), Footprint::of(&params), &[]);
    assert_eq!((report.totals.sops, report.sops_by_image), (0., None));
    assert_balanced(&report.to_html());
    assert!(report.to_text().contains("0 images"));
}

#[test]
fn the_curve_without_a_tgim_leaves_the_quantized_activation() {
    // Seen: with all input in the first timestep the potential carries it over, and the three curves were one.
    let (report, _) = report(&ModelConfig { timesteps: 4, ..resnet() });
    let rate = report.charts().into_iter().find(|chart| chart.name == "rate").unwrap();
    let lines: Vec<_> = rate.svg.lines().filter(|line| line.contains("<polyline")).collect();
    let points = |line: &str| line.split("points=\"").nth(1).unwrap().split('"').next().unwrap().to_string();
    let curves: Vec<_> = lines.iter().map(|line| points(line)).filter(|points| points.len() > 5000).collect();
    assert_eq!(curves.len(), 3);
    assert_eq!(curves[0], curves[1], "LM-HT with 1/T is QCFS");
    assert_ne!(curves[1], curves[2]);
}

#[test]
fn nothing_is_a_plain_zero() {
    let (report, _) = report(&resnet());
    assert!(report.totals.attention_acs.is_sign_positive());
    assert!(!report.to_text().contains("-0.0") && !report.to_json().contains("-0.0"));
}
