//! The layer of neurons.

use candle_nn::VarBuilder;

use super::time::at_every_timestep;
use crate::neurons::{Equation, NeuronCell, NeuronConfig, Site};
use crate::observer::{CurrentEvent, NeuronEvent, Values};
use crate::trace::Op;
use crate::{Error, Mode, Pass, Result, Signal};

/// A layer of neurons, or of activations in an ANN. What tensors it has, its kind says ([`crate::neurons`]).
#[derive(Debug, Clone)]
pub struct Neuron {
    cell: NeuronCell,
}

impl Neuron {
    /// A layer of neurons of the kind `config` over so many timesteps.
    ///
    /// In a network, [`ModelConfig::neuron_layer`](crate::ModelConfig::neuron_layer) builds the layer that the network's configuration
    /// asks for, a converted one included.
    ///
    /// # Errors
    /// If the configuration is not valid, or the builder has a tensor of one of these names and another shape.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use lmht_nn::layers::{Neuron, Site};
    /// use lmht_nn::{NeuronConfig, ParamStore};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let params = ParamStore::new(42);
    /// let vb = params.builder(DType::F32, &Device::Cpu);
    /// Neuron::new(&NeuronConfig::lmht(2), 4, Site::Maps, vb.pp("sn1"))?;
    /// assert_eq!(params.all().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["sn1.alpha", "sn1.mask", "sn1.v_threshold"]);
    /// # Ok(()) }
    /// ```
    pub fn new(config: &NeuronConfig, timesteps: usize, site: Site, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { cell: NeuronCell::new(config, timesteps, site, &vb)? })
    }

    /// The same layer with a factor on its current, 1 unless set: the paper's hybrid start multiplies the first neuron's
    /// current by L.
    pub fn with_input_scale(mut self, input_scale: f64) -> Self {
        self.cell.set_input_scale(input_scale);
        self
    }

    /// The same layer sending s instead of s·θ, so that a spike is a 1: the weights of the next synapse stand for θ.
    pub fn with_unit_spikes(mut self, unit_spikes: bool) -> Self {
        self.cell.set_unit_spikes(unit_spikes);
        self
    }

    /// Its equations and tensors, without the pass.
    pub fn cell(&self) -> &NeuronCell {
        &self.cell
    }

    /// Currents `[T·B, ...]` to outputs s·θ of the same shape (Eqs. 5-7); activations a (Eq. 4) in an ANN.
    ///
    /// # Errors
    /// If the input does not hold T timesteps, or the stored threshold is not positive; the message names this layer.
    pub fn forward(&self, xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
        let cell = &self.cell;
        if pass.mode() == Mode::Train && cell.traits().equation == Equation::Inference {
            let what = "these neurons have no gradient; train an ANN or an LM-HT network and convert it";
            return Err(Error::Config(format!("{}: {what}", cell.name())));
        }
        let xs = at_every_timestep(xs, pass)?;
        if pass.wants_currents() {
            pass.show_current(&CurrentEvent::new(cell.name(), &cell.scaled(xs.values())?))?;
        }
        let signal = cell.signal()?;
        let ys = if pass.is_recording() {
            xs.values().clone()
        } else {
            cell.forward(xs.values(), &|tensor| pass.param(tensor))?
        };
        pass.show_neuron(&NeuronEvent::of(cell.name(), cell.observed(), Values::Tensor(&ys), signal))?;
        Ok(pass.give(cell.name(), || Op::Neuron(cell.clone()), &[&xs], ys, signal, None))
    }
}
