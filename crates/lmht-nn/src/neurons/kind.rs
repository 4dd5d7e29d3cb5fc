//! What every kind of neuron answers.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use lmht_core::{Dynamics, LmhtConfig, Tgim};

use crate::ops::storage::Element;
use crate::param_kind::ParamKind;
use crate::{Error, Result};

/// The tensors of a layer, by the last part of their names.
pub(super) type Tensors = Vec<(&'static str, Tensor)>;

/// Where a neuron layer sits: the published networks keep a T-GIM for each, under different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Feature maps `[T, B, C, H, W]`: the T-GIM is called `mask`.
    Maps,
    /// Tokens or features `[T, B, N, D]`, `[T, B, F]`: the T-GIM is called `mask_linear`.
    Features,
}

/// The tensors of a layer of neurons, with what its equations need beside them.
#[derive(Debug, Clone)]
pub(crate) struct LayerTensors {
    /// The path of the layer.
    pub(super) name: String,
    /// T.
    pub(super) timesteps: usize,
    pub(super) tensors: Tensors,
}

impl LayerTensors {
    /// A tensor by the last part of its name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(known, _)| *known == name).map(|(_, tensor)| tensor)
    }

    /// The tensor that every layer of this kind has.
    pub(super) fn required(&self, name: &str) -> Result<&Tensor> {
        let missing =
            || Error::Config(format!("{}.{name} is missing; this is a bug of lmht-nn, please report it", self.name));
        self.tensor(name).ok_or_else(missing)
    }

    /// The number of a tensor that every layer of this kind has.
    pub(super) fn number(&self, name: &str) -> Result<f64> {
        // Metal has no f64.
        let tensor = self.required(name)?.detach().to_device(&Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0])
    }

    /// The numbers of a tensor in the type asked for: that of the pass, or f64 for what the layer says of itself; none if the layer has none of that name.
    pub(super) fn numbers<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        match self.tensor(name) {
            Some(tensor) => {
                let tensor = tensor.detach().to_device(&Device::Cpu)?;
                Ok(tensor.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1::<T>()?)
            }
            None => Ok(Vec::new()),
        }
    }

    /// The stored θ, which a loaded checkpoint may have set to another value than the configuration's.
    pub(super) fn v_threshold(&self) -> Result<f64> {
        self.number("v_threshold")
    }

    /// Currents `[T·B, ...]` as T tensors `[B · ...]`.
    pub(super) fn by_timestep(&self, xs: &Tensor) -> Result<Vec<Tensor>> {
        let t = self.timesteps;
        if xs.rank() == 0 || !xs.dims()[0].is_multiple_of(t) || xs.elem_count() == 0 {
            return Err(self.wrong(format!("expected {t} timesteps, got an input of shape {:?}", xs.dims())));
        }
        let flat = xs.reshape((t, xs.elem_count() / t))?;
        Ok((0..t).map(|step| flat.get(step)).collect::<candle_core::Result<_>>()?)
    }

    /// Puts the layer's name before what is wrong.
    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::Config(format!("{}: {what}", self.name))
    }
}

/// A kind of neuron.
pub(super) trait Kind {
    /// What a layer may have, by the last part of the name: trained, or a buffer.
    const PARAMS: &'static [(&'static str, ParamKind)];

    /// What is worth knowing of it without knowing its kind.
    fn traits(&self) -> NeuronTraits;

    /// The numbers of a kind whose layers compute Eqs. 5-7 on their currents and nothing else: what one kernel takes together
    /// with the batch norm before it.
    fn multi_threshold(&self, _timesteps: usize) -> Option<LmhtConfig> {
        None
    }

    /// Checks every field.
    fn check(&self, timesteps: usize) -> Result<()>;

    /// The tensors of a layer, as they start.
    fn tensors(&self, timesteps: usize, site: Site, vb: &VarBuilder<'_>) -> Result<Tensors>;

    /// The equations as tensor operations: currents `[T·B, ...]` to outputs of the same shape. `param` gives a tensor of the
    /// layer as the pass uses it.
    fn output(&self, layer: &LayerTensors, xs: &Tensor, param: &dyn Fn(&Tensor) -> Tensor) -> Result<Tensor>;

    /// The equations for code that walks over units, with the layer's tensors as they are now.
    fn dynamics<T: Element>(&self, layer: &LayerTensors) -> Result<Box<dyn Dynamics<T>>>;

    /// The gradients of the layer's tensors from those of the numbers that [`Dynamics::backward`] shares among units.
    fn gradients<T: Element>(&self, layer: &LayerTensors, shared: &[f64]) -> Result<Vec<(Tensor, Vec<T>)>>;
}

/// What is worth knowing of a neuron without knowing its kind: for reports, counters, conversions, exports.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NeuronTraits {
    /// As papers call it.
    pub title: &'static str,
    /// Its equations, as far as a conversion must tell them apart.
    pub equation: Equation,
    /// The largest number of spikes a timestep can have; the steps of a quantized activation, 1 of any other.
    pub levels: u32,
    /// θ before training; `None` for activations that do not spike.
    pub v_threshold: Option<f64>,
    /// v(0) as a fraction of θ.
    pub v_init: f64,
    /// Which entries of Ω mix the timesteps.
    pub tgim: Tgim,
    /// λ.
    pub leak: Leak,
    /// Timesteps that stand for one timestep of the network before reparameterization.
    pub window: usize,
    /// Timesteps that only prepare the answer and have no logits.
    pub first_stage: usize,
}

/// The equations of a neuron, as far as a conversion must tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Equation {
    /// m = λv + I, s = #{k : m >= kθ}, v = m - sθ (Eqs. 5-7): IF, LIF, M-HT, LM-HT, and their single-threshold twin.
    MultiThreshold,
    /// Spikes by other equations, which the conversions of this workspace do not know.
    Other,
    /// Spikes of a conversion method, for inference alone.
    Inference,
    /// A quantized activation of an ANN.
    Quantized,
    /// A real-valued activation of an ANN.
    Analog,
}

/// The factor λ on v(t-1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Leak {
    /// Learned: the tensor `alpha` of the layer is its logit.
    Learned,
    /// This number.
    Fixed(f64),
}

impl NeuronTraits {
    /// A neuron of one level, without T-GIM, leak and windows.
    pub(super) fn new(title: &'static str, equation: Equation, v_threshold: Option<f64>) -> Self {
        Self {
            title,
            equation,
            levels: 1,
            v_threshold,
            v_init: 0.,
            tgim: Tgim::Identity,
            leak: Leak::Fixed(1.),
            window: 1,
            first_stage: 0,
        }
    }

    /// Whether it sends spikes.
    pub fn is_spiking(&self) -> bool {
        match self.equation {
            Equation::MultiThreshold | Equation::Other | Equation::Inference => true,
            Equation::Quantized | Equation::Analog => false,
        }
    }
}

/// Refuses more than one timestep for an activation that does not spike.
pub(super) fn check_ann(timesteps: usize) -> Result<()> {
    if timesteps != 1 {
        return Err(Error::Config(format!(
            "timesteps is {timesteps}, but the neuron does not spike; an ANN has timesteps = 1"
        )));
    }
    Ok(())
}

/// The outputs of a layer that has no gradient, computed on the CPU wherever the currents are.
pub(super) fn without_gradient(kind: &impl Kind, layer: &LayerTensors, xs: &Tensor) -> Result<Tensor> {
    layer.by_timestep(xs)?;
    let flat = xs.to_device(&Device::Cpu)?.flatten_all()?;
    fn run<T: Element>(kind: &impl Kind, layer: &LayerTensors, xs: &[T]) -> Result<Vec<T>> {
        let mut out = vec![T::default(); xs.len()];
        kind.dynamics::<T>(layer)?.forward(xs, &mut out);
        Ok(out)
    }
    let n = flat.elem_count();
    let out = match xs.dtype() {
        DType::F32 => Tensor::from_vec(run::<f32>(kind, layer, &flat.to_vec1()?)?, n, &Device::Cpu)?,
        DType::F64 => Tensor::from_vec(run::<f64>(kind, layer, &flat.to_vec1()?)?, n, &Device::Cpu)?,
        dtype => {
            return Err(layer.wrong(format!("expected f32 or f64 currents, got {dtype:?}; convert them with to_dtype")));
        }
    };
    Ok(out.reshape(xs.shape())?.to_device(xs.device())?)
}

/// Refuses a first stage that leaves nothing to the second.
pub(super) fn check_stages(field: &str, stage: usize, timesteps: usize) -> Result<()> {
    if stage == 0 || stage >= timesteps {
        return Err(Error::Config(format!(
            "the first stage (neuron.{field}) has {stage} of {timesteps} timesteps; expected at least 1, and at least 1 left \
             for the second"
        )));
    }
    Ok(())
}
