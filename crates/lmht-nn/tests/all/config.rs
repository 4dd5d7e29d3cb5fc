//! The description of a network: every field is checked, and JSON says what is wrong with it.

use crate::support::assert_error;
use lmht_nn::neurons;
use lmht_nn::{Backbone, FORMAT_VERSION, GradientMode, ModelConfig, NeuronConfig, QcfsGate, Result, Stem, Tgim};

fn resnet18() -> ModelConfig {
    ModelConfig::resnet18(10)
}

fn with(neuron: NeuronConfig) -> ModelConfig {
    let timesteps = if neuron.is_spiking() { 2 } else { 1 };
    ModelConfig { neuron, timesteps, ..resnet18() }
}

fn all_neurons() -> Vec<NeuronConfig> {
    let (tgim, gradient) = (Tgim::Causal, GradientMode::Full);
    vec![
        NeuronConfig::lmht(1),
        NeuronConfig::lmht(4),
        NeuronConfig::Lmht(neurons::Lmht { levels: 3, tgim, v_threshold: Some(0.1), v_init: 0.5, gradient }),
        NeuronConfig::mht(2),
        NeuronConfig::Mht(neurons::Mht { levels: 3, leak: 0.9, v_threshold: Some(1.7), v_init: 0.25, gradient }),
        NeuronConfig::integrate_and_fire(),
        NeuronConfig::If(neurons::If { v_threshold: 0.3, v_init: 0.5, gradient: GradientMode::Detached }),
        NeuronConfig::Lif(neurons::Lif { leak: 0.5, v_threshold: 1., v_init: 0., gradient }),
        NeuronConfig::qcfs(4),
        NeuronConfig::Qcfs(neurons::Qcfs { quant_levels: 7, scale: 0.1, gate: QcfsGate::BeforeFloor }),
        NeuronConfig::relu(),
    ]
}

#[test]
fn published_networks_are_valid() -> Result<()> {
    for (config, backbone, width) in [
        (ModelConfig::resnet18(10), Backbone::Resnet18, 64),
        (ModelConfig::resnet20(100), Backbone::Resnet20, 16),
        (ModelConfig::vgg13(10), Backbone::Vgg13, 64),
    ] {
        config.check()?;
        assert_eq!((config.backbone, config.width, config.in_channels), (backbone, width, 3));
        assert_eq!((config.timesteps, config.neuron), (2, NeuronConfig::lmht(2)));
    }
    Ok(())
}

/// Each wrong value, the name of its field, and what the message says beside it.
#[test]
fn every_invalid_field_is_named_with_its_value_and_what_is_allowed() {
    let zero: &[(ModelConfig, &str)] = &[
        (ModelConfig { width: 0, ..resnet18() }, "width is 0"),
        (ModelConfig { in_channels: 0, ..resnet18() }, "in_channels is 0"),
        (ModelConfig { n_classes: 0, ..resnet18() }, "n_classes is 0"),
        (ModelConfig { width: usize::MAX / 4, ..resnet18() }, "width is 4611686018427387903"),
    ];
    for (config, says) in zero {
        assert_error(config.check(), &["configuration: ", says, "1..=65536"]);
    }
    for timesteps in [0, 40_000] {
        let config = ModelConfig { timesteps, ..resnet18() };
        assert_error(config.check(), &[&format!("timesteps is {timesteps}"), "1..=32768"]);
    }
    for version in [0, FORMAT_VERSION + 1] {
        let config = ModelConfig { format_version: version, ..resnet18() };
        assert_error(config.check(), &[&format!("format_version is {version}")]);
    }
    for input_scale in [0., -1., f64::NAN, f64::INFINITY] {
        let config = ModelConfig { input_scale, ..resnet18() };
        assert_error(config.check(), &[&format!("input_scale is {input_scale}"), "a number above 0"]);
    }
    for config in [ModelConfig::resnet20(10), ModelConfig::vgg13(10)] {
        let title = config.backbone.title().to_string();
        assert_error(ModelConfig { stem: Stem::Imagenet, ..config }.check(), &["stem is imagenet", "cifar", &title]);
    }

    let detached = GradientMode::Detached;
    let lmht = |levels, v_threshold, v_init| {
        with(NeuronConfig::Lmht(neurons::Lmht { levels, tgim: Tgim::Full, v_threshold, v_init, gradient: detached }))
    };
    let mht = |levels, leak, v_threshold, v_init| {
        with(NeuronConfig::Mht(neurons::Mht { levels, leak, v_threshold, v_init, gradient: detached }))
    };
    let integrate =
        |v_threshold, v_init| with(NeuronConfig::If(neurons::If { v_threshold, v_init, gradient: detached }));
    let leaky = |leak, v_threshold, v_init| {
        with(NeuronConfig::Lif(neurons::Lif { leak, v_threshold, v_init, gradient: detached }))
    };
    let qcfs = |quant_levels, scale| {
        with(NeuronConfig::Qcfs(neurons::Qcfs { quant_levels, scale, gate: QcfsGate::default() }))
    };
    let levels: &[&str] = &["neuron.levels", "1..=65536"];
    let threshold: &[&str] = &["neuron.v_threshold", "a finite number above 0"];
    let init: &[&str] = &["neuron.v_init", "0 <= v_init < 1"];
    let leak: &[&str] = &["neuron.leak", "a finite number of at least 0"];
    for (config, parts, value) in [
        (lmht(0, None, 0.), levels, "got 0"),
        (lmht(65537, None, 0.), levels, "got 65537"),
        (lmht(2, Some(0.), 0.), threshold, "got 0"),
        (lmht(2, Some(-1.), 0.), threshold, "got -1"),
        (lmht(2, Some(f64::NAN), 0.), threshold, "got NaN"),
        (lmht(2, None, 1.), init, "got 1"),
        (lmht(2, None, -0.5), init, "got -0.5"),
        (mht(0, 1., None, 0.), levels, "got 0"),
        (mht(2, -0.5, None, 0.), leak, "is -0.5"),
        (mht(2, f64::INFINITY, None, 0.), leak, "is inf"),
        (mht(2, 1., Some(f64::INFINITY), 0.), threshold, "got inf"),
        (mht(2, 1., None, f64::NAN), init, "got NaN"),
        (integrate(0., 0.), threshold, "got 0"),
        (integrate(1., 1.5), init, "got 1.5"),
        (leaky(f64::NAN, 1., 0.), leak, "is NaN"),
        (leaky(0.5, -2., 0.), threshold, "got -2"),
        (leaky(0.5, 1., 2.), init, "got 2"),
        (qcfs(0, 8.), &["neuron.quant_levels", "1..=65536"], "got 0"),
        (qcfs(4, 0.), &["neuron.scale", "above 0"], "got 0"),
        (qcfs(4, f64::NAN), &["neuron.scale", "above 0"], "got NaN"),
    ] {
        assert_error(config.check(), &[&["configuration: ", value], parts].concat());
    }
    for neuron in [NeuronConfig::qcfs(4), NeuronConfig::relu()] {
        let config = ModelConfig { timesteps: 2, neuron, ..resnet18() };
        assert_error(config.check(), &["timesteps is 2", "does not spike", "timesteps = 1"]);
    }
}

#[test]
fn json_comes_back_as_it_was() -> Result<()> {
    for neuron in all_neurons() {
        for backbone in [Backbone::Resnet18, Backbone::Resnet20, Backbone::Vgg13] {
            let stem = if backbone == Backbone::Resnet18 { Stem::Imagenet } else { Stem::Cifar };
            let sizes = ModelConfig { width: 7, in_channels: 1, n_classes: 3, input_scale: 0.1 + 0.2, ..resnet18() };
            let config = ModelConfig { backbone, stem, ..sizes };
            let config = ModelConfig { timesteps: with(neuron.clone()).timesteps, neuron: neuron.clone(), ..config };
            let json = config.to_json();
            assert_eq!(ModelConfig::from_json(&json)?, config, "{json}");
            assert!(json.ends_with("}\n"));
        }
    }
    Ok(())
}

#[test]
fn what_is_left_out_has_the_published_value() -> Result<()> {
    let sizes = r#""backbone": "resnet18", "width": 64, "n_classes": 10"#;
    let read = |timesteps: usize, neuron: &str| {
        ModelConfig::from_json(&format!(r#"{{ {sizes}, "timesteps": {timesteps}, "neuron": {neuron} }}"#))
    };
    assert_eq!(read(2, r#"{ "kind": "lmht", "levels": 2 }"#)?, resnet18());
    for (neuron, expected) in [
        (r#"{ "kind": "mht", "levels": 3 }"#, NeuronConfig::mht(3)),
        (r#"{ "kind": "if" }"#, NeuronConfig::integrate_and_fire()),
        (
            r#"{ "kind": "lif", "leak": 0.5 }"#,
            NeuronConfig::Lif(neurons::Lif { leak: 0.5, v_threshold: 1., v_init: 0., gradient: GradientMode::Full }),
        ),
        (r#"{ "kind": "qcfs", "quant_levels": 4 }"#, NeuronConfig::qcfs(4)),
        (r#"{ "kind": "relu" }"#, NeuronConfig::relu()),
    ] {
        assert_eq!(read(with(expected.clone()).timesteps, neuron)?.neuron, expected);
    }
    Ok(())
}

#[test]
fn an_unknown_key_or_value_is_named() {
    let json = resnet18().to_json();
    let changed = |from: &str, to: &str| {
        assert!(json.contains(from), "{from} in {json}");
        ModelConfig::from_json(&json.replacen(from, to, 1))
    };
    assert_error(changed(r#""width""#, r#""widht""#), &["configuration: ", "unknown field `widht`", "`width`", "line"]);
    assert_error(changed(r#""levels""#, r#""level""#), &["unknown field `level`", "`levels`"]);
    assert_error(changed(r#""resnet18""#, r#""resnet50""#), &["unknown variant `resnet50`", "`resnet18`"]);
    assert_error(changed(r#""lmht""#, r#""lhmt""#), &["unknown variant `lhmt`", "`lmht`"]);
    assert_error(changed(r#""full""#, r#""upper""#), &["unknown variant `upper`", "`causal`"]);
    assert_error(changed(r#""width": 64,"#, ""), &["missing field `width`"]);
    assert_error(changed(r#""width": 64"#, r#""width": -64"#), &["invalid value", "-64"]);
    assert_error(changed(r#""width": 64"#, r#""width": 0"#), &["width is 0"]);
    assert_error(ModelConfig::from_json("{"), &["configuration: ", "EOF"]);
    assert_error(ModelConfig::from_json("[]"), &["configuration: "]);
    // Seen once: serde ignored whatever stood beside `"kind": "relu"`.
    let relu = with(NeuronConfig::relu()).to_json();
    assert_error(
        ModelConfig::from_json(&relu.replacen(r#""kind": "relu""#, r#""kind": "relu", "levels": 4"#, 1)),
        &["unknown field `levels`"],
    );
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let newer = FORMAT_VERSION + 1;
    let json = resnet18().to_json().replacen(
        &format!(r#""format_version": {FORMAT_VERSION}"#),
        &format!(r#""format_version": {newer}, "of_the_future": true"#),
        1,
    );
    // Not "unknown field `of_the_future`", although that is the one thing this program cannot read.
    let says = format!("format_version is {newer}; this program reads up to {FORMAT_VERSION}: use a newer one");
    assert_error(ModelConfig::from_json(&json), &[&says]);
}
