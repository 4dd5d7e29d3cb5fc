//! I-LIF: integer spikes (Luo et al., "Integer-Valued Training and Spike-Driven Inference Spiking Neural Network", ECCV 2024).
//!
//! ```text
//! m(t) = λ v(t-1) + x(t),  s(t) = #{ k in 1..=D : m(t) >= k - 1/2 } = floor(clip(m, 0, D) + 1/2),  v(t) = m(t) - s(t)
//! ds/dm = 1 for 0 <= m <= D, else 0; s in the reset is a constant for the gradient
//! ```
//!
//! A tie goes up; the published code sends it to the even number. A spike of level k stands for k binary spikes in D slots.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, GradientMode, IlifConfig, IlifNeuron};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, Leak, NeuronTraits, Site, Tensors};
use super::spiking::{check_leak, neuron_error};
use crate::Result;
use crate::gpu::{self, Kernel};
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// Integer spikes clip(round(m), 0, D) (Luo et al. 2024). No conversion knows it. It has no tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ilif {
    /// D, the largest spike, at least 1.
    pub levels: u32,
    /// λ, the factor on v(t-1).
    #[serde(default = "quarter")]
    pub leak: f64,
    /// Whether the gradient passes through λ v(t-1).
    #[serde(default = "full")]
    pub gradient: GradientMode,
}

fn quarter() -> f64 {
    0.25
}
fn full() -> GradientMode {
    GradientMode::Full
}

impl Default for Ilif {
    /// As published: D = 4, λ = 1/4.
    fn default() -> Self {
        Self { levels: 4, leak: quarter(), gradient: full() }
    }
}

impl Ilif {
    fn neuron(&self, timesteps: usize) -> Result<IlifNeuron> {
        check_leak(self.leak)?;
        let Self { levels, leak, gradient } = *self;
        IlifConfig { timesteps, levels, leak, gradient }.check().map_err(neuron_error)
    }
}

impl Kind for Ilif {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[];

    fn traits(&self) -> NeuronTraits {
        let traits = NeuronTraits::new("I-LIF", Equation::Other, Some(1.));
        NeuronTraits { levels: self.levels, leak: Leak::Fixed(self.leak), ..traits }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        self.neuron(timesteps).map(|_| ())
    }

    fn tensors(&self, _: usize, _: Site, _: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(Vec::new())
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, _: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        let currents = layer.by_timestep(xs)?;
        if gpu::takes(xs) {
            let neuron = self.neuron(layer.timesteps)?;
            return Ok(gpu::apply(Kernel::Ilif(neuron), xs, &[], &[], xs.shape())?.0);
        }
        let mut v = currents[0].zeros_like()?;
        let mut outputs = Vec::with_capacity(currents.len());
        for current in currents {
            let m = ((v * self.leak)? + current)?;
            let mut spikes = m.zeros_like()?;
            for level in 1..=self.levels {
                spikes = (spikes + m.ge(f64::from(level) - 0.5)?.to_dtype(xs.dtype())?)?;
            }
            let inside = (m.ge(0.)?.to_dtype(xs.dtype())? * m.le(f64::from(self.levels))?.to_dtype(xs.dtype())?)?;
            // Straight through: exactly 0 is added, and it carries the gradient of the gate.
            let passed = m.mul(&inside.detach())?;
            outputs.push((spikes.detach() + (&passed - passed.detach())?)?);
            v = (m - spikes.detach())?;
            if self.gradient == GradientMode::Detached {
                v = v.detach();
            }
        }
        Ok(Tensor::stack(&outputs, 0)?.reshape(xs.shape())?)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        Ok(Box::new(lmht_core::Ilif::new(self.neuron(layer.timesteps)?)))
    }

    fn gradients<T: Element>(&self, _: &LayerTensors, _: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(Vec::new())
    }
}
