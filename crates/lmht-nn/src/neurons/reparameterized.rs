//! The single-threshold twin of a neuron with L levels (Hao et al. 2024, §4.5): a window of L timesteps for each of its own.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, GradientMode, LmhtConfig, Schedule, Tgim};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, Leak, NeuronTraits, Site, Tensors};
use super::spiking::{PARAMS, Spiking, leak, leak_tensor, logit_gradients, omega, tgim_tensor, threshold_tensor};
use crate::ops::storage::Element;
use crate::ops::{self, Learned};
use crate::param_kind::ParamKind;
use crate::{Error, Result};

/// The single-threshold twin of a neuron with L levels (§4.5): a window of L timesteps for each of its timesteps. λ acts
/// on entering a window and is 1 inside it; Ω mixes what whole windows delivered. Made by a conversion.
///
/// Tensors of a layer: as of an LM-HT neuron, T counts windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reparameterized {
    /// L, the timesteps of a window: a divisor of the network's timesteps.
    pub window: usize,
    /// When a window receives its current.
    #[serde(default)]
    pub schedule: Schedule,
    /// Which entries of the Ω between windows are free.
    #[serde(default)]
    pub tgim: Tgim,
    /// λ where it is fixed, as in an M-HT neuron; absent: learned, as in an LM-HT neuron. Only with [`Tgim::Identity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak: Option<f64>,
    /// θ.
    pub v_threshold: f64,
    /// v(0) as a fraction of θ, in [0, 1).
    #[serde(default)]
    pub v_init: f64,
}

impl Reparameterized {
    /// The neuron inside a window: Ω is between windows and applied before.
    fn spiking(&self, timesteps: usize) -> Spiking {
        let Self { window, v_threshold, v_init, .. } = *self;
        let (levels, tgim, gradient) = (1, Tgim::Identity, GradientMode::Detached);
        Spiking {
            config: LmhtConfig { timesteps, levels, v_threshold, v_init, tgim, gradient, window },
            leak: self.leak(),
        }
    }

    fn leak(&self) -> Leak {
        self.leak.map_or(Leak::Learned, Leak::Fixed)
    }

    fn windows(&self, timesteps: usize) -> usize {
        timesteps / self.window.max(1)
    }
}

impl Kind for Reparameterized {
    const PARAMS: &'static [(&'static str, ParamKind)] = PARAMS;

    fn traits(&self) -> NeuronTraits {
        NeuronTraits {
            v_init: self.v_init,
            tgim: self.tgim,
            leak: self.leak(),
            window: self.window,
            ..NeuronTraits::new("reparameterized", Equation::MultiThreshold, Some(self.v_threshold))
        }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        if self.leak.is_some() && self.tgim != Tgim::Identity {
            return Err(Error::Config(
                "neuron.leak is fixed beside a T-GIM, which no neuron has; leave it out, or set tgim to identity"
                    .into(),
            ));
        }
        self.spiking(timesteps).check().map(|_| ())
    }

    fn tensors(&self, timesteps: usize, site: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        let mut tensors = Vec::new();
        if self.leak.is_none() {
            tensors.push(leak_tensor(vb)?);
        }
        if self.tgim != Tgim::Identity {
            tensors.push(tgim_tensor(self.windows(timesteps), site, vb)?);
        }
        tensors.push(threshold_tensor(self.v_threshold, vb)?);
        Ok(tensors)
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        let windows = self.windows(layer.timesteps);
        let logit = layer.tensor("mask").or(layer.tensor("mask_linear"));
        let logit = logit.map(|logit| param(logit).reshape((windows, windows))).transpose()?;
        let omega = logit.map(|logit| ops::tgim(&logit, self.tgim)).transpose()?;
        let current = ops::mix_windows(xs, omega.as_ref(), windows, self.window, self.schedule)?;
        let learned = match self.leak() {
            Leak::Learned => Learned::Leak { leak_logit: param(layer.required("alpha")?) },
            Leak::Fixed(leak) => Learned::Nothing { leak },
        };
        Ok(ops::neuron(&current, &self.spiking(layer.timesteps).stored(layer)?, &learned)?)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        let neuron = self.spiking(layer.timesteps).stored(layer)?;
        let omega = omega(layer, self.tgim, self.windows(layer.timesteps))?;
        Ok(Box::new(lmht_core::Windowed::new(neuron, self.schedule, omega, leak(layer, self.leak())?)))
    }

    fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        logit_gradients(layer, (self.tgim, self.windows(layer.timesteps)), shared)
    }
}
