//! What IF, LIF, M-HT and LM-HT have in common: numbers of one equation (Eqs. 5-9).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use lmht_core::{LmhtConfig, LmhtNeuron, Tgim};

use super::kind::{LayerTensors, Leak, Site, Tensors};
use crate::ops::storage::Element;
use crate::ops::{self, Learned};
use crate::param_kind::ParamKind;
use crate::{Error, Result};

/// Logits of Ω under both of its published names, the logit of λ, θ.
pub(super) const PARAMS: &[(&str, ParamKind)] = &[
    ("mask", ParamKind::Neuron),
    ("mask_linear", ParamKind::Neuron),
    ("alpha", ParamKind::Neuron),
    ("v_threshold", ParamKind::Buffer),
];

/// A neuron of Eqs. 5-7 by its numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spiking {
    pub(super) config: LmhtConfig,
    pub(super) leak: Leak,
}

/// Says where in a configuration the field of `error` is.
pub(super) fn neuron_error(error: lmht_core::ConfigError) -> Error {
    Error::Config(format!("neuron.{error}"))
}

/// Checks a leak that is not learned.
pub(super) fn check_leak(leak: f64) -> Result<()> {
    if !(leak.is_finite() && leak >= 0.) {
        return Err(Error::Config(format!("neuron.leak is {leak}; expected a finite number of at least 0")));
    }
    Ok(())
}

/// θ as it starts, never trained.
pub(super) fn threshold_tensor(v_threshold: f64, vb: &VarBuilder<'_>) -> Result<(&'static str, Tensor)> {
    Ok(("v_threshold", vb.get_with_hints(1, "v_threshold", Init::Const(v_threshold))?))
}

/// Logits of an Ω between `t` timesteps, 0 as they start.
pub(super) fn tgim_tensor(t: usize, site: Site, vb: &VarBuilder<'_>) -> Result<(&'static str, Tensor)> {
    Ok(match site {
        Site::Maps => ("mask", vb.get_with_hints((t, t, 1, 1, 1, 1), "mask", Init::Const(0.))?),
        Site::Features => ("mask_linear", vb.get_with_hints((t, t, 1, 1, 1), "mask_linear", Init::Const(0.))?),
    })
}

/// The logit of λ, 0 as it starts.
pub(super) fn leak_tensor(vb: &VarBuilder<'_>) -> Result<(&'static str, Tensor)> {
    Ok(("alpha", vb.get_with_hints(1, "alpha", Init::Const(0.))?))
}

/// The name that a layer's T-GIM has, if it has one.
fn tgim_name(layer: &LayerTensors) -> Option<&'static str> {
    ["mask", "mask_linear"].into_iter().find(|name| layer.tensor(name).is_some())
}

/// Ω of a layer and the name of its logits; empty without a T-GIM.
pub(super) fn omega<T: Element>(layer: &LayerTensors, tgim: Tgim, t: usize) -> Result<Vec<T>> {
    match tgim_name(layer) {
        Some(name) => Ok(lmht_core::tgim_from_logits(tgim, t, &layer.numbers::<T>(name)?)),
        None => Ok(Vec::new()),
    }
}

/// λ of a layer.
pub(super) fn leak<T: Element>(layer: &LayerTensors, leak: Leak) -> Result<T> {
    Ok(match leak {
        Leak::Learned => lmht_core::leak_from_logit(layer.numbers::<T>("alpha")?[0]),
        Leak::Fixed(leak) => T::of(leak),
    })
}

/// The gradients of the logits from those of Ω, row by row, and λ.
pub(super) fn logit_gradients<T: Element>(
    layer: &LayerTensors,
    (tgim, t): (Tgim, usize),
    shared: &[f64],
) -> Result<Vec<(Tensor, Vec<T>)>> {
    let mut gradients = Vec::new();
    let (of_omega, of_leak) = shared.split_at(shared.len() - 1);
    if let Some(name) = tgim_name(layer) {
        let logits = layer.numbers::<T>(name)?;
        let of_omega: Vec<T> = of_omega.iter().map(|&g| T::of(g)).collect();
        let of_logits = lmht_core::tgim_logit_gradient(tgim, t, &logits, &of_omega);
        gradients.push((layer.required(name)?.clone(), of_logits));
    }
    if let Some(logit) = layer.tensor("alpha") {
        let value = layer.numbers::<T>("alpha")?[0];
        gradients.push((logit.clone(), vec![lmht_core::leak_logit_gradient(value, T::of(of_leak[0]))]));
    }
    Ok(gradients)
}

impl Spiking {
    /// Checks the numbers.
    pub(super) fn check(&self) -> Result<LmhtNeuron> {
        if let Leak::Fixed(leak) = self.leak {
            check_leak(leak)?;
        }
        self.config.check().map_err(neuron_error)
    }

    pub(super) fn tensors(&self, site: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
        let mut tensors = Vec::new();
        if self.leak == Leak::Learned {
            tensors.push(leak_tensor(vb)?);
        }
        if self.config.tgim != Tgim::Identity {
            tensors.push(tgim_tensor(self.config.timesteps, site, vb)?);
        }
        tensors.push(threshold_tensor(self.config.v_threshold, vb)?);
        Ok(tensors)
    }

    /// The neuron at the stored threshold.
    pub(super) fn stored(&self, layer: &LayerTensors) -> Result<LmhtNeuron> {
        let config = LmhtConfig { v_threshold: layer.v_threshold()?, ..self.config };
        config.check().map_err(|error| layer.wrong(error))
    }

    pub(super) fn output(
        &self,
        layer: &LayerTensors,
        xs: &Tensor,
        param: &dyn Fn(&Tensor) -> Tensor,
    ) -> Result<Tensor> {
        Ok(ops::neuron(xs, &self.stored(layer)?, &self.learned(layer, param)?)?)
    }

    /// What a layer learns, as a pass uses it.
    fn learned(&self, layer: &LayerTensors, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Learned> {
        let t = self.config.timesteps;
        Ok(match (tgim_name(layer), self.leak) {
            (Some(name), _) => Learned::TgimAndLeak {
                tgim_logit: param(layer.required(name)?).reshape((t, t))?,
                leak_logit: param(layer.required("alpha")?),
            },
            (None, Leak::Learned) => Learned::Leak { leak_logit: param(layer.required("alpha")?) },
            (None, Leak::Fixed(leak)) => Learned::Nothing { leak },
        })
    }

    /// For a kernel on currents like `xs`: the neuron, and Ω row by row unless it is the identity, then λ, differentiable.
    pub(super) fn kernel_numbers(
        &self,
        layer: &LayerTensors,
        xs: &Tensor,
        param: &dyn Fn(&Tensor) -> Tensor,
    ) -> Result<(LmhtNeuron, Tensor)> {
        let neuron = self.config.check().map_err(|error| layer.wrong(error))?;
        Ok((neuron, ops::learned_numbers(xs, &neuron, &self.learned(layer, param)?)?))
    }

    pub(super) fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn lmht_core::Dynamics<T>>> {
        let neuron = self.stored(layer)?;
        let omega = omega(layer, self.config.tgim, self.config.timesteps)?;
        Ok(Box::new(lmht_core::Lmht::new(neuron, omega, leak(layer, self.leak)?)))
    }

    pub(super) fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
        logit_gradients(layer, (self.config.tgim, self.config.timesteps), shared)
    }
}

/// The answers of a kind whose `spiking(timesteps)` says what it is.
macro_rules! answers {
    () => {
        fn multi_threshold(&self, timesteps: usize) -> Option<lmht_core::LmhtConfig> {
            Some(self.spiking(timesteps).config)
        }

        fn check(&self, timesteps: usize) -> Result<()> {
            self.spiking(timesteps).check().map(|_| ())
        }

        fn tensors(&self, timesteps: usize, site: Site, vb: &VarBuilder<'_>) -> Result<Tensors> {
            self.spiking(timesteps).tensors(site, vb)
        }

        fn output(&self, layer: &LayerTensors, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor> {
            self.spiking(layer.timesteps).output(layer, xs, param)
        }

        fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>> {
            self.spiking(layer.timesteps).dynamics(layer)
        }

        fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>> {
            self.spiking(layer.timesteps).gradients(layer, shared)
        }
    };
}
pub(super) use answers;
