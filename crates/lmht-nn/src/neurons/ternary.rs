//! Ternary spikes with a learnable amplitude (Guo et al., "Ternary Spike: Learning Ternary Spikes for Spiking Neural
//! Networks", AAAI 2024).
//!
//! ```text
//! m(t) = λ v(t-1) + x(t),  s(t) = sign(m) if |m(t)| >= θ, else 0,  v(t) = m(t) (1 - |s(t)|),  output a s(t)
//! ds/dm = 1 for -1 <= m <= 1, else 0, also in the reset
//! ```

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use lmht_core::{Dynamics, GradientMode, TernaryConfig, TernaryNeuron};
use serde::{Deserialize, Serialize};

use super::kind::{Equation, Kind, LayerTensors, Leak, NeuronTraits, Site, Tensors};
use super::spiking::{check_leak, neuron_error};
use crate::Result;
use crate::gpu::{self, Kernel};
use crate::ops;
use crate::ops::storage::Element;
use crate::param_kind::ParamKind;

/// Spikes in {-1, 0, 1} with a learnable amplitude (Guo et al. 2024). No conversion knows it.
///
/// Tensor of a layer: `fire_ratio` `[1]`, the amplitude a, starts at 1, trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ternary {
    /// θ.
    #[serde(default = "half")]
    pub v_threshold: f64,
    /// λ, the factor on v(t-1).
    #[serde(default = "quarter")]
    pub leak: f64,
    /// Whether the gradient passes through v(t-1) and the reset.
    #[serde(default = "full")]
    pub gradient: GradientMode,
}

fn half() -> f64 {
    0.5
}
fn quarter() -> f64 {
    0.25
}
fn full() -> GradientMode {
    GradientMode::Full
}

impl Default for Ternary {
    /// As published: θ = 1/2, λ = 1/4.
    fn default() -> Self {
        Self { v_threshold: half(), leak: quarter(), gradient: full() }
    }
}

/// a.
const AMPLITUDE: &str = "fire_ratio";

impl Ternary {
    fn neuron(&self, timesteps: usize) -> Result<TernaryNeuron> {
        check_leak(self.leak)?;
        let Self { v_threshold, leak, gradient } = *self;
        TernaryConfig { timesteps, v_threshold, leak, gradient }.check().map_err(neuron_error)
    }
}

impl Kind for Ternary {
    const PARAMS: &'static [(&'static str, ParamKind)] = &[(AMPLITUDE, ParamKind::Neuron)];

    fn traits(&self) -> NeuronTraits {
        let traits = NeuronTraits::new("ternary", Equation::Other, Some(self.v_threshold));
        NeuronTraits { leak: Leak::Fixed(self.leak), ..traits }
    }

    fn check(&self, timesteps: usize) -> Result<()> {
        self.neuron(timesteps).map(|_| ())
    }

    fn tensors(&self, _: usize, _: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        Ok(vec![(AMPLITUDE, vb.get_with_hints(1, AMPLITUDE, Init::Const(1.))?)])
    }

    fn output(&self, layer: &LayerTensors, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
        let amplitude = param(layer.required(AMPLITUDE)?);
        let currents = layer.by_timestep(xs)?;
        if gpu::takes(xs) {
            let (neuron, amplitude) = (self.neuron(layer.timesteps)?, ops::as_real(&amplitude)?);
            return Ok(gpu::apply(Kernel::Ternary(neuron), xs, &[&amplitude], &[], xs.shape())?.0);
        }
        let mut v = currents[0].zeros_like()?;
        let mut outputs = Vec::with_capacity(currents.len());
        for current in currents {
            let m = ((v * self.leak)? + current)?;
            let is = |reached: Tensor| reached.to_dtype(xs.dtype());
            let spikes = (is(m.ge(self.v_threshold)?)? - is(m.le(-self.v_threshold)?)?)?;
            let inside = (is(m.ge(-1.)?)? * is(m.le(1.)?)?)?;
            // Straight through: exactly 0 is added, and it carries the gradient of the gate.
            let passed = m.mul(&inside.detach())?;
            let spikes = (spikes.detach() + (&passed - passed.detach())?)?;
            outputs.push(spikes.broadcast_mul(&amplitude)?);
            // |s| as s·s with one s held: the derivative is then s·ds/dm, 0 for a silent unit, where Candle's `abs` has 1.
            v = m.mul(&(1. - spikes.mul(&spikes.detach())?)?)?;
            if self.gradient == GradientMode::Detached {
                v = v.detach();
            }
        }
        Ok(Tensor::stack(&outputs, 0)?.reshape(xs.shape())?)
    }

    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
        let amplitude = layer.numbers::<T>(AMPLITUDE)?[0];
        Ok(Box::new(lmht_core::Ternary::new(self.neuron(layer.timesteps)?, amplitude)))
    }

    fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        Ok(vec![(layer.required(AMPLITUDE)?.clone(), vec![T::of(shared[0])])])
    }
}
