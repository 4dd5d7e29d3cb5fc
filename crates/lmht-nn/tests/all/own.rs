//! Bodies of one's own: in one program as layer by layer, whatever they are put together from; on any input.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use lmht_nn::layers::{ConvNorm, Linear, Neuron, Site, add, apply, flatten, global_avg_pool};
use lmht_nn::ops::Conv2dParams;
use lmht_nn::{
    Architecture, Body, InputShape, Mode, ModelConfig, Network, NeuronConfig, ParamStore, Pass, Result, Signal,
    neurons, readout,
};
use lmht_train::loss;

use crate::engine::assert_program_equals_layers;
use crate::support::{assert_close, assert_error, tensor, values};

const CPU: Device = Device::Cpu;

/// A depthwise, a grouped and a pointwise convolution; a layer that is gone through twice; a linear head of two layers.
#[derive(Debug)]
struct Mixed;

#[derive(Debug)]
struct MixedLayers {
    stem: (ConvNorm, Neuron),
    depthwise: (ConvNorm, Neuron),
    twice: (ConvNorm, Neuron),
    grouped: (ConvNorm, Neuron),
    head: (Linear, Neuron),
    readout: Linear,
}

impl Architecture for Mixed {
    fn name(&self) -> &str {
        "mixed"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn input(&self) -> InputShape {
        InputShape::images()
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        let layer = |name: &str, (c_in, c_out, kernel), (stride, groups), bias| -> Result<(ConvNorm, Neuron)> {
            let params = Conv2dParams { stride, padding: kernel / 2, groups };
            let parts = (vb.pp(format!("{name}.conv")), vb.pp(format!("{name}.bn")));
            let conv = config.conv_norm((c_in, c_out, kernel), params, bias, parts)?;
            Ok((conv, config.neuron_layer(Site::Maps, vb.pp(format!("{name}.sn")))?))
        };
        Ok(Box::new(MixedLayers {
            stem: layer("stem", (config.in_channels, 6, 3), (1, 1), true)?,
            depthwise: layer("depthwise", (6, 6, 3), (2, 6), false)?,
            twice: layer("twice", (6, 6, 1), (1, 1), false)?,
            grouped: layer("grouped", (6, 9, 3), (1, 3), true)?,
            head: (Linear::new(9, 7, vb.pp("head"))?, config.neuron_layer(Site::Features, vb.pp("head_sn"))?),
            readout: config.readout_layer(7, vb.pp("readout"))?,
        }))
    }
}

impl Body for MixedLayers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let step = |(conv, neuron): &(ConvNorm, Neuron), xs: &Signal, pass: &mut Pass<'_>| {
            neuron.forward(&conv.forward(xs, pass)?, pass)
        };
        let xs = step(&self.stem, xs, pass)?;
        let xs = step(&self.depthwise, &xs, pass)?;
        let once = step(&self.twice, &xs, pass)?;
        let again = self.twice.0.forward(&once, pass)?;
        let xs = self.grouped.1.forward(
            &self.grouped.0.forward(&self.depthwise.1.forward(&add("residual", &again, &xs, pass)?, pass)?, pass)?,
            pass,
        )?;
        let xs = global_avg_pool(&xs, pass)?;
        let xs = self.head.1.forward(&self.head.0.forward(&xs, pass)?, pass)?;
        self.readout.forward(&xs, pass)
    }
}

/// Linear layers over features, or over the pixels of an image.
#[derive(Debug)]
struct Perceptron(InputShape);

#[derive(Debug)]
struct PerceptronLayers(Vec<(Linear, Neuron)>, Linear);

impl Architecture for Perceptron {
    fn name(&self) -> &str {
        "perceptron"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn input(&self) -> InputShape {
        self.0.clone()
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        let pixels = if self.0 == InputShape::Features { 1 } else { 16 };
        let layer = |i: usize, f_in| -> Result<(Linear, Neuron)> {
            let neuron = config.neuron_layer(Site::Features, vb.pp(format!("sn{i}")))?;
            Ok((Linear::new(f_in, 8, vb.pp(format!("fc{i}")))?, neuron))
        };
        let hidden = vec![layer(0, config.in_channels * pixels)?, layer(1, 8)?];
        Ok(Box::new(PerceptronLayers(hidden, config.readout_layer(8, vb.pp("readout"))?)))
    }
}

impl Body for PerceptronLayers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let mut xs = if xs.values().rank() > 2 { flatten(xs, pass)? } else { xs.clone() };
        for (linear, neuron) in &self.0 {
            xs = neuron.forward(&linear.forward(&xs, pass)?, pass)?;
        }
        self.1.forward(&xs, pass)
    }
}

/// Every neuron kind that trains, with its timesteps.
fn kinds() -> Vec<(NeuronConfig, usize)> {
    vec![
        (NeuronConfig::lmht(2), 2),
        (NeuronConfig::lmht(200), 2),
        (NeuronConfig::integrate_and_fire(), 3),
        (neurons::Ilif::default().into(), 3),
        (neurons::Ternary { v_threshold: 0.3, ..Default::default() }.into(), 3),
        (NeuronConfig::qcfs(4), 1),
        (NeuronConfig::relu(), 1),
    ]
}

#[test]
fn networks_of_ones_own_run_as_one_program() -> Result<()> {
    for (neuron, timesteps) in kinds() {
        let config = ModelConfig { timesteps, neuron: neuron.clone(), ..ModelConfig::own(Mixed, 5) };
        assert_program_equals_layers(&format!("mixed, {neuron:?}"), &config, &[3, 3, 8, 10])?;
        let own = ModelConfig::own(Perceptron(InputShape::Features), 5);
        let features = ModelConfig { timesteps, neuron: neuron.clone(), in_channels: 12, ..own };
        assert_program_equals_layers(&format!("features, {neuron:?}"), &features, &[3, 12])?;
        let pixels = ModelConfig { timesteps, neuron, ..ModelConfig::own(Perceptron(InputShape::images()), 5) };
        assert_program_equals_layers("pixels", &pixels, &[3, 3, 4, 4])?;
    }
    Ok(())
}

/// What the layers do not have, a body does with Candle, and says so to whoever asks for the plan.
#[derive(Debug)]
struct Squashed;

#[derive(Debug)]
struct SquashedLayers(Linear, Neuron, Linear);

impl Architecture for Squashed {
    fn name(&self) -> &str {
        "squashed"
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn input(&self) -> InputShape {
        InputShape::Features
    }

    fn build(&self, config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Box<dyn Body>> {
        let neuron = config.neuron_layer(Site::Features, vb.pp("sn"))?;
        Ok(Box::new(SquashedLayers(
            Linear::new(4, 6, vb.pp("fc"))?,
            neuron,
            config.readout_layer(6, vb.pp("readout"))?,
        )))
    }
}

impl Body for SquashedLayers {
    fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let current = self.0.forward(xs, pass)?;
        let current = apply("tanh", &current, pass, |values| values.tanh())?;
        self.2.forward(&self.1.forward(&current, pass)?, pass)
    }
}

#[test]
fn an_operation_of_ones_own_is_said_to_be_slow_and_computes_the_same() -> Result<()> {
    let config = ModelConfig { in_channels: 4, ..ModelConfig::own(Squashed, 3) };
    let params = ParamStore::new(1);
    let network = Network::new(&config, params.builder(DType::F64, &CPU))?;
    let features = tensor(2, &[5, 4], DType::F64, &CPU)?;
    for mode in [Mode::Eval, Mode::Train] {
        let plan = network.plan(mode)?.to_string();
        assert!(plan.contains("tanh"), "the plan does not name what is slow: {plan}");
    }
    let got = network.forward(&features, &mut Pass::eval())?;
    assert_close("logits", &got, &network.forward(&features, &mut Pass::eval().layer_by_layer())?, 1e-12)?;
    let labels = Tensor::new(&[0u32, 1, 2, 0, 1], &CPU)?;
    let logits = network.forward(&features, &mut Pass::train())?;
    let gradients = loss::cross_entropy(&readout(&logits)?, &labels, 0.)?.backward()?;
    for (name, var) in params.trainable() {
        assert!(gradients.get(&var).is_some(), "no gradient for {name}");
    }
    Ok(())
}

/// An attribution method asks for the gradient of the images, of a trained network and of one in training.
#[test]
fn images_have_gradients_in_both_modes() -> Result<()> {
    for config in [
        ModelConfig { width: 3, n_classes: 5, ..ModelConfig::resnet20(5) },
        ModelConfig { width: 8, depth: Some(1), heads: Some(2), ..ModelConfig::spikformer(5) },
        ModelConfig::own(Mixed, 5),
    ] {
        let what = config.backbone.title().to_string();
        let run = |mode: Mode, by_layer: bool| -> Result<Tensor> {
            let (network, _) = crate::engine::build(&config, DType::F64)?;
            let images = Var::from_tensor(&tensor(3, &[2, 3, 8, 8], DType::F64, &CPU)?)?;
            let pass = Pass::new(mode);
            let mut pass = if by_layer { pass.layer_by_layer() } else { pass };
            let gradients = network.forward(&images, &mut pass)?.sqr()?.sum_all()?.backward()?;
            Ok(gradients.get(&images).unwrap_or_else(|| panic!("{what}: no gradient in {mode:?}")).clone())
        };
        for mode in [Mode::Train, Mode::Eval] {
            let (got, expected) = (run(mode, false)?, run(mode, true)?);
            assert!(values(&expected)?.iter().any(|&g| g != 0.), "{what}: the test must see something");
            assert_close(&format!("{what}, {mode:?}"), &got, &expected, 1e-9)?;
        }
    }
    Ok(())
}

#[test]
fn an_input_of_another_shape_is_refused_with_what_was_expected() -> Result<()> {
    let config = ModelConfig { in_channels: 12, ..ModelConfig::own(Perceptron(InputShape::Features), 5) };
    let network = Network::new(&config, ParamStore::new(1).builder(DType::F64, &CPU))?;
    for shape in [&[3, 11][..], &[3, 12, 2, 2], &[3, 3, 12], &[12]] {
        let wrong = Tensor::zeros(shape, DType::F64, &CPU)?;
        assert_error(network.forward(&wrong, &mut Pass::eval()), &["12", &format!("{shape:?}")]);
    }
    Ok(())
}
