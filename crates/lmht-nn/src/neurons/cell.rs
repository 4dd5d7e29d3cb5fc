//! A layer of neurons as a value: its kind, its tensors, and what the network adds to both.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Code, Dynamics, LmhtConfig, LmhtNeuron};

use super::kind::{LayerTensors, Leak, NeuronTraits, Site};
use super::list::{NeuronConfig, param_kind};
use super::spiking;
use crate::observer;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;
use crate::signal::SignalKind;
use crate::{Error, Result};

/// A layer of neurons, or of activations in an ANN, without knowledge of passes: what a [`Trace`](crate::trace::Trace) holds
/// of it.
#[derive(Debug, Clone)]
pub struct NeuronCell {
    layer: LayerTensors,
    config: NeuronConfig,
    input_scale: f64,
    unit_spikes: bool,
}

impl NeuronCell {
    pub(crate) fn new(config: &NeuronConfig, timesteps: usize, site: Site, vb: &VarBuilder<'_>) -> Result<Self> {
        let named = |error: Error| match error {
            Error::Config(what) if !vb.prefix().is_empty() => Error::Config(format!("{}: {what}", vb.prefix())),
            error => error,
        };
        config.check(timesteps).map_err(named)?;
        let tensors = config.tensors(timesteps, site, vb)?;
        let layer = LayerTensors { name: vb.prefix(), timesteps, tensors };
        Ok(Self { layer, config: config.clone(), input_scale: 1., unit_spikes: false })
    }

    pub(crate) fn set_input_scale(&mut self, input_scale: f64) {
        self.input_scale = input_scale;
    }

    pub(crate) fn set_unit_spikes(&mut self, unit_spikes: bool) {
        self.unit_spikes = unit_spikes;
    }

    /// The path of its parameters.
    pub fn name(&self) -> &str {
        &self.layer.name
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.layer.timesteps
    }

    /// The factor on its current.
    pub fn input_scale(&self) -> f64 {
        self.input_scale
    }

    /// Whether it sends s instead of s·θ.
    pub fn has_unit_spikes(&self) -> bool {
        self.unit_spikes
    }

    /// Its kind.
    pub fn config(&self) -> &NeuronConfig {
        &self.config
    }

    /// What is worth knowing of it without knowing its kind.
    pub fn traits(&self) -> NeuronTraits {
        self.config.traits()
    }

    /// Its trained tensors.
    pub(crate) fn learned(&self) -> Vec<&Tensor> {
        let is_trained = |name: &str| param_kind(name).is_some_and(|kind| kind != ParamKind::Buffer);
        self.layer.tensors.iter().filter(|(name, _)| is_trained(name)).map(|(_, tensor)| tensor).collect()
    }

    /// The numbers that its units share and training moves, as its equations have them: `omega[t,j]` from 1, `lambda`, and
    /// others by the name of their tensor.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use lmht_nn::layers::{Neuron, Site};
    /// use lmht_nn::{NeuronConfig, ParamStore};
    ///
    /// # fn main() -> lmht_nn::Result<()> {
    /// let vb = ParamStore::new(42).builder(DType::F32, &Device::Cpu);
    /// let sn = Neuron::new(&NeuronConfig::lmht(2), 2, Site::Maps, vb.pp("sn"))?;
    /// let shared = sn.cell().shared()?;
    /// assert_eq!(shared[1], ("omega[1,2]".to_string(), 0.5)); // 1/T as it starts
    /// assert_eq!(shared[4], ("lambda".to_string(), 1.));
    /// # Ok(()) }
    /// ```
    pub fn shared(&self) -> Result<Vec<(String, f64)>> {
        let (layer, traits) = (&self.layer, self.traits());
        let mut shared = Vec::new();
        // Of a reparameterized neuron Ω mixes windows.
        let windows = layer.timesteps / traits.window.max(1);
        for (i, omega) in spiking::omega::<f64>(layer, traits.tgim, windows)?.into_iter().enumerate() {
            shared.push((format!("omega[{},{}]", i / windows + 1, i % windows + 1), omega));
        }
        if traits.leak == Leak::Learned {
            shared.push(("lambda".to_string(), spiking::leak(layer, traits.leak)?));
        }
        for (name, _) in &layer.tensors {
            let is_logit = ["mask", "mask_linear", "alpha"].contains(name);
            if !is_logit && param_kind(name).is_some_and(|kind| kind != ParamKind::Buffer) {
                shared.push((name.to_string(), layer.number(name)?));
            }
        }
        Ok(shared)
    }

    /// The numbers of a layer that computes Eqs. 5-7 on its currents and nothing else ([`Kind::multi_threshold`]), at the θ of
    /// its configuration.
    ///
    /// [`Kind::multi_threshold`]: super::kind::Kind::multi_threshold
    pub(crate) fn multi_threshold(&self) -> Option<LmhtConfig> {
        let is_plain = self.input_scale == 1. && !self.unit_spikes;
        self.config.multi_threshold(self.layer.timesteps).filter(|_| is_plain)
    }

    /// The tensor of θ, if it has one.
    pub(crate) fn threshold(&self) -> Option<&Tensor> {
        self.layer.tensor("v_threshold")
    }

    /// For a kernel on currents like `xs`: the neuron of [`Self::multi_threshold`] at the stored θ, and Ω row by row unless it
    /// is the identity, then λ, differentiable.
    pub(crate) fn kernel_numbers(
        &self,
        v_threshold: f64,
        xs: &Tensor,
        param: &dyn Fn(&Tensor) -> Tensor,
    ) -> Result<(LmhtNeuron, Tensor)> {
        let Some(config) = self.multi_threshold() else {
            return Err(self
                .layer
                .wrong("has other equations than 5 to 7; this is a bug of lmht-nn, please report it"));
        };
        let config = LmhtConfig { v_threshold, ..config };
        spiking::Spiking { config, leak: self.traits().leak }.kernel_numbers(&self.layer, xs, param)
    }

    /// Currents `[T·B, ...]` to what the layer sends, as tensor operations.
    pub(crate) fn forward(&self, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        let named = |error: candle_core::Error| Error::Candle(error.context(self.layer.name.clone()));
        let ys = self.config.output(&self.layer, &self.scaled(xs)?, param).map_err(|error| match error {
            Error::Candle(error) => named(error),
            error => error,
        })?;
        if self.unit_spikes { Ok(counts(&ys, self.layer.v_threshold()?)?) } else { Ok(ys) }
    }

    /// Its currents times their factor.
    pub(crate) fn scaled(&self, xs: &Tensor) -> Result<Tensor> {
        if self.input_scale == 1. {
            return Ok(xs.clone());
        }
        (xs * self.input_scale).map_err(|error| Error::Candle(error.context(self.layer.name.clone())))
    }

    /// Whether each unit has a θ of its own.
    pub(crate) fn has_unit_thresholds(&self) -> bool {
        self.layer.tensor("v_threshold").is_some_and(|v_threshold| v_threshold.elem_count() > 1)
    }

    /// What leaves the layer. Where a spike counts differently from unit to unit, that is no matter of adding weights up.
    pub(crate) fn signal(&self) -> Result<SignalKind> {
        Ok(match self.traits().is_spiking() && !self.has_unit_thresholds() {
            true => SignalKind::Spikes { v_threshold: self.amplitude()? },
            false => SignalKind::Analog,
        })
    }

    /// What one spike counts for in the next layer.
    fn amplitude(&self) -> Result<f64> {
        if self.unit_spikes {
            return Ok(1.);
        }
        match self.dynamics::<f64>()?.code() {
            Code::Counts { amplitude, .. } | Code::Signed { amplitude, .. } => Ok(amplitude),
            Code::Real => Ok(1.),
        }
    }

    /// The layer for code that walks over units, with its tensors as they are now.
    pub(crate) fn dynamics<T: Element>(&self) -> Result<Box<dyn Dynamics<T>>> {
        self.config.dynamics(&self.layer)
    }

    /// What one spike counts for where spikes are sent as ones: θ of the dynamics over 1, else 1. A gradient of what is sent
    /// times this is one of s·θ.
    pub(crate) fn unit(&self) -> Result<Option<f64>> {
        if self.unit_spikes { Ok(Some(self.layer.v_threshold()?)) } else { Ok(None) }
    }

    /// The gradients of the layer's tensors from those of what [`Dynamics::backward`] shares among units.
    pub(crate) fn gradients<T: Element>(&self, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        self.config.gradients(&self.layer, shared)
    }

    /// What an observer is told beside the spikes.
    pub(crate) fn observed(&self) -> observer::NeuronTraits {
        let traits = self.traits();
        observer::NeuronTraits {
            timesteps: self.layer.timesteps,
            levels: traits.levels,
            tgim: traits.tgim,
            window: traits.window,
            has_leak: traits.leak != Leak::Fixed(1.),
        }
    }
}

/// s from s·θ. The quotient may miss the whole number by a rounding; the gradient is that of the quotient.
fn counts(ys: &Tensor, theta: f64) -> candle_core::Result<Tensor> {
    let quotient = (ys / theta)?;
    let rounding = (quotient.round()? - &quotient)?;
    &quotient + rounding.detach()
}
