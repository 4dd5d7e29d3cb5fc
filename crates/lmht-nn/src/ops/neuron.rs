//! A spiking neuron layer as one differentiable operation.
//!
//! On the CPU, in f32 and f64, the whole of T timesteps, T-GIM, leak and firing is one pass over the currents
//! ([`LmhtNeuron`]); the backward pass recomputes the potentials instead of keeping them. On a GPU it is one kernel each way.
//! Everywhere else the same layer is composed of tensor operations, [`neuron_composed`], which is also what the fused forms
//! are tested against.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use lmht_core::{GradientMode, LmhtConfig, LmhtNeuron, Real, Tgim};

use super::{as_real, is_fused};
use crate::gpu::{self, Kernel};

/// What a layer learns, or does not: the inputs of [`neuron`] beside the currents.
///
/// It must suit the layer's [`Tgim`]: [`Learned::TgimAndLeak`] for `Full` and `Causal`, the others for `Identity`.
#[derive(Debug, Clone)]
pub enum Learned {
    /// Nothing: no T-GIM, a fixed leak λ.
    Nothing {
        /// λ.
        leak: f64,
    },
    /// The leak only.
    Leak {
        /// Logit of λ, `[1]`.
        leak_logit: Tensor,
    },
    /// T-GIM and leak.
    TgimAndLeak {
        /// Logits of Ω, `[T, T]`, row = receiving timestep.
        tgim_logit: Tensor,
        /// Logit of λ, `[1]`.
        leak_logit: Tensor,
    },
}

/// The postsynaptic output s(t)·θ of a neuron layer (Hao et al. 2024, Eqs. 5-7).
///
/// m(t) = λ v(t-1) + Σ_j ω_tj x(j), s(t) = #{k in 1..=L : m(t) >= kθ}, v(t) = m(t) - s(t)θ. The gradient is that of
/// Eqs. 8-9 with [`GradientMode::Detached`], plain backpropagation through time with [`GradientMode::Full`].
///
/// # Shapes
/// - `xs` `[T, ...]` or `[T·B, ...]`, time outermost: the first axis must be a multiple of T
/// - output: the shape of `xs`, values in {0, θ, …, Lθ}
///
/// # Errors
/// If the first axis does not hold T timesteps, the input is empty or not floating point, the learned tensors have
/// another shape, type or device, `learned` does not suit the neuron's T-GIM, or a fixed leak is not finite.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{neuron, Learned};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Two levels at θ = 1: the first timestep crosses both and carries 0.5, which lifts the second over one.
/// let config = lmht_core::LmhtConfig { tgim: lmht_core::Tgim::Identity, ..lmht_core::LmhtConfig::lmht(2, 2) };
/// let xs = Tensor::new(&[[2.5f32], [0.5]], &Device::Cpu)?;
/// let ys = neuron(&xs, &config.check()?, &Learned::Nothing { leak: 1. })?;
/// assert_eq!(ys.to_vec2::<f32>()?, [[2.], [1.]]);
/// # Ok(()) }
/// ```
pub fn neuron(xs: &Tensor, neuron: &LmhtNeuron, learned: &Learned) -> Result<Tensor> {
    check(xs, &neuron.config(), learned)?;
    if gpu::takes(xs) {
        let learned = learned_numbers(xs, neuron, learned)?;
        return Ok(gpu::apply(Kernel::Neuron(*neuron), xs, &[&learned], &[], xs.shape())?.0);
    }
    if !is_fused(xs) {
        return compose(xs, neuron, learned);
    }
    let xs = xs.contiguous()?;
    let op = |fixed_leak| Fused { neuron: *neuron, fixed_leak };
    match learned {
        Learned::Nothing { leak } => xs.apply_op1(op(*leak)),
        Learned::Leak { leak_logit } => xs.apply_op2(&leak_logit.contiguous()?, op(f64::NAN)),
        Learned::TgimAndLeak { tgim_logit, leak_logit } => {
            xs.apply_op3(&tgim_logit.contiguous()?, &leak_logit.contiguous()?, op(f64::NAN))
        }
    }
}

fn check(xs: &Tensor, config: &LmhtConfig, learned: &Learned) -> Result<()> {
    let t = config.timesteps;
    if xs.rank() == 0 || !xs.dims()[0].is_multiple_of(t) || xs.elem_count() == 0 {
        bail!(
            "neuron: expected {t} timesteps (from the config), got an input of shape {:?}; its first axis must be a \
             multiple of {t} and no axis empty",
            xs.dims()
        )
    }
    if !xs.dtype().is_float() {
        bail!("neuron: expected floating-point currents, got {:?}; convert them with to_dtype", xs.dtype())
    }
    let same = |name: &str, tensor: &Tensor, dims: &[usize]| {
        if tensor.dims() != dims || tensor.dtype() != xs.dtype() || !tensor.device().same_device(xs.device()) {
            bail!(
                "neuron: expected {name} of shape {dims:?}, {:?} on {:?} like the input, got {:?}, {:?} on {:?}",
                xs.dtype(),
                xs.device().location(),
                tensor.dims(),
                tensor.dtype(),
                tensor.device().location()
            )
        }
        Ok(())
    };
    match (learned, config.tgim) {
        (Learned::TgimAndLeak { tgim_logit, leak_logit }, Tgim::Full | Tgim::Causal) => {
            same("T-GIM logits", tgim_logit, &[t, t])?;
            same("a leak logit", leak_logit, &[1])
        }
        (Learned::Leak { leak_logit }, Tgim::Identity) => same("a leak logit", leak_logit, &[1]),
        (Learned::Nothing { leak }, Tgim::Identity) if leak.is_finite() => Ok(()),
        (Learned::Nothing { leak }, Tgim::Identity) => bail!("neuron: expected a finite leak, got {leak}"),
        (Learned::TgimAndLeak { .. }, Tgim::Identity) => bail!(
            "neuron: got T-GIM logits, but the config says Tgim::Identity, which has none; pass Learned::Leak or \
             Learned::Nothing, or configure Tgim::Full or Tgim::Causal"
        ),
        (Learned::Leak { .. } | Learned::Nothing { .. }, tgim) => bail!(
            "neuron: got no T-GIM logits, but the config says Tgim::{tgim:?}, which needs them; pass \
             Learned::TgimAndLeak, or configure Tgim::Identity"
        ),
    }
}

/// Ω row by row and λ as one tensor for a kernel on such currents, differentiable.
pub(crate) fn learned_numbers(xs: &Tensor, neuron: &LmhtNeuron, learned: &Learned) -> Result<Tensor> {
    let leak = |logit: &Tensor| sigmoid(&as_real(logit)?)? + 0.5;
    match learned {
        Learned::Nothing { leak } => {
            let real = if xs.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            Tensor::new(&[*leak], &Device::Cpu)?.to_dtype(real)?.to_device(xs.device())
        }
        Learned::Leak { leak_logit } => leak(leak_logit),
        Learned::TgimAndLeak { tgim_logit, leak_logit } => {
            Tensor::cat(&[tgim(&as_real(tgim_logit)?, neuron.tgim())?.flatten_all()?, leak(leak_logit)?], 0)
        }
    }
}

/// The layer as tensor operations: right on any device, slow on all of them.
///
/// Same contract as [`neuron`].
///
/// # Errors
/// As [`neuron`].
pub fn neuron_composed(xs: &Tensor, neuron: &LmhtNeuron, learned: &Learned) -> Result<Tensor> {
    check(xs, &neuron.config(), learned)?;
    compose(xs, neuron, learned)
}

fn compose(xs: &Tensor, neuron: &LmhtNeuron, learned: &Learned) -> Result<Tensor> {
    let config = neuron.config();
    let (t, theta) = (config.timesteps, config.v_threshold);
    let shape = xs.shape().clone();
    let flat = xs.reshape((t, shape.elem_count() / t))?;
    let current = match learned {
        Learned::TgimAndLeak { tgim_logit, .. } => tgim(tgim_logit, config.tgim)?.matmul(&flat)?,
        _ => flat,
    };
    let leak = match learned {
        Learned::Nothing { leak } => Tensor::new(&[*leak], xs.device())?.to_dtype(xs.dtype())?,
        Learned::Leak { leak_logit } | Learned::TgimAndLeak { leak_logit, .. } => (sigmoid(leak_logit)? + 0.5)?,
    };
    let zeros = current.get(0)?.zeros_like()?;
    let mut v = (&zeros + config.v_init * theta)?;
    // What was added since a window was entered, and the spikes sent since: m = total - count θ. Comparing the total with
    // (count + k)θ rounds like the thresholds of the timesteps that a window stands for.
    let (mut total, mut count) = (zeros.clone(), zeros.clone());
    // Exactly 0, and the gradient of what those spikes took away.
    let mut taken = zeros.clone();
    let mut outputs = Vec::with_capacity(t);
    for step in 0..t {
        let current = current.get(step)?;
        if step % config.window == 0 {
            total = (v.broadcast_mul(&leak)? + current)?;
            (count, taken) = (zeros.clone(), zeros.clone());
        } else {
            total = (total + current)?;
        }
        let v_charged = ((&total - (&count * theta)?)? - &taken)?;
        let mut spikes = zeros.clone();
        for level in 1..=config.levels {
            let threshold = ((&count + f64::from(level))? * theta)?;
            spikes = (spikes + total.ge(&threshold)?.to_dtype(xs.dtype())?)?;
        }
        count = (count + &spikes)?;
        let low = v_charged.ge(theta / 2.)?.to_dtype(xs.dtype())?;
        let high = v_charged.le((f64::from(config.levels) + 0.5) * theta)?.to_dtype(xs.dtype())?;
        // Straight through: exactly 0 is added, and it carries the gradient of the gate.
        let passed = v_charged.mul(&(low * high)?.detach())?;
        let straight = (&passed - passed.detach())?;
        outputs.push(((spikes * theta)?.detach() + &straight)?);
        taken = (taken + straight)?;
        v = ((&total - (&count * theta)?)? - &taken)?;
        if config.gradient == GradientMode::Detached {
            (v, total, taken) = (v.detach(), total.detach(), zeros.clone());
        }
    }
    Tensor::stack(&outputs, 0)?.reshape(shape)
}

fn sigmoid(logit: &Tensor) -> Result<Tensor> {
    logit.neg()?.exp()?.affine(1., 1.)?.recip()
}

/// Ω `[T, T]` from its logits: ω = 2σ(logit)/T, and 0 above the diagonal of a causal one (Eq. 7).
///
/// # Errors
/// If `logit` is not a square matrix, or `kind` is [`Tgim::Identity`], which has no logits.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::{Tgim, ops};
///
/// # fn main() -> candle_core::Result<()> {
/// let omega = ops::tgim(&Tensor::zeros((2, 2), DType::F64, &Device::Cpu)?, Tgim::Causal)?;
/// assert_eq!(omega.to_vec2::<f64>()?, [[0.5, 0.], [0.5, 0.5]]);
/// # Ok(()) }
/// ```
pub fn tgim(logit: &Tensor, kind: Tgim) -> Result<Tensor> {
    let (t, columns) = logit.dims2()?;
    if t != columns || t == 0 || kind == Tgim::Identity {
        bail!("tgim: expected logits [T, T] of a full or causal T-GIM, got {:?} and Tgim::{kind:?}", logit.dims())
    }
    let omega = (sigmoid(logit)? * (2. / t as f64))?;
    if kind == Tgim::Causal { omega.mul(&Tensor::tril2(t, logit.dtype(), logit.device())?) } else { Ok(omega) }
}

/// The fused layer. One type for one, two or three inputs, as Candle has a trait for each number.
struct Fused {
    neuron: LmhtNeuron,
    /// λ where it is not learned.
    fixed_leak: f64,
}

/// The contiguous values of a CPU tensor.
pub(super) fn values<'a, R: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [R]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<R>()?[start..end]),
        None => bail!("the neuron needs contiguous tensors"),
    }
}

/// Ω and λ from the layer's other inputs: `[leak]` or `[tgim, leak]` or nothing.
fn mix<R: Real>(config: &LmhtConfig, fixed_leak: f64, learned: &[&[R]]) -> (Vec<R>, R) {
    match learned {
        [] => (Vec::new(), R::from_f64(fixed_leak)),
        [leak] => (Vec::new(), lmht_core::leak_from_logit(leak[0])),
        [tgim, leak, ..] => {
            (lmht_core::tgim_from_logits(config.tgim, config.timesteps, tgim), lmht_core::leak_from_logit(leak[0]))
        }
    }
}

impl Fused {
    fn forward<R: Real + WithDType>(&self, xs: &[R], learned: &[&[R]]) -> CpuStorage {
        let (omega, leak) = mix(&self.neuron.config(), self.fixed_leak, learned);
        R::to_cpu_storage_owned(self.neuron.output(&omega, leak, xs))
    }

    fn cpu(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        fn run<R: Real + WithDType>(op: &Fused, inputs: &[(&CpuStorage, &Layout)]) -> Result<CpuStorage> {
            let slices = inputs.iter().map(|(s, l)| values::<R>(s, l)).collect::<Result<Vec<_>>>()?;
            Ok(op.forward(slices[0], &slices[1..]))
        }
        let out = match inputs[0].0.dtype() {
            DType::F32 => run::<f32>(self, inputs)?,
            DType::F64 => run::<f64>(self, inputs)?,
            dtype => bail!("the fused neuron takes f32 or f64, got {dtype:?}"),
        };
        Ok((out, inputs[0].1.shape().clone()))
    }

    /// The gradients of all inputs, in their order; nothing for those that are not tracked, which Candle would keep.
    fn gradients(&self, inputs: &[&Tensor], grad_out: &Tensor) -> Result<impl Iterator<Item = Option<Tensor>> + use<>> {
        let gradients = match inputs[0].dtype() {
            DType::F32 => self.backward::<f32>(inputs, grad_out)?,
            _ => self.backward::<f64>(inputs, grad_out)?,
        };
        let tracked: Vec<bool> = inputs.iter().map(|input| input.track_op()).collect();
        Ok(gradients.into_iter().zip(tracked).map(|(gradient, tracked)| tracked.then_some(gradient)))
    }

    fn backward<R: Real + WithDType>(&self, inputs: &[&Tensor], grad_out: &Tensor) -> Result<Vec<Tensor>> {
        let config = self.neuron.config();
        let (t, xs) = (config.timesteps, inputs[0]);
        let grad_out = grad_out.contiguous()?;
        let (logit_gradients, grad_xs) = {
            let guards: Vec<_> = inputs.iter().copied().chain([&grad_out]).map(|x| x.storage_and_layout()).collect();
            let mut slices = Vec::with_capacity(guards.len());
            for (storage, layout) in &guards {
                let candle_core::Storage::Cpu(storage) = &**storage else { bail!("the fused neuron runs on the CPU") };
                slices.push(values::<R>(storage, layout)?);
            }
            let (learned, grad_out) = (&slices[1..inputs.len()], slices[inputs.len()]);
            let (omega, leak) = mix(&config, self.fixed_leak, learned);
            let mut grad_omega = vec![R::ZERO; omega.len()];
            let (grad_leak, grad_xs) = self.neuron.gradients(&omega, leak, slices[0], grad_out, &mut grad_omega);
            let gradients = match learned {
                [] => Vec::new(),
                [leak] => vec![(vec![lmht_core::leak_logit_gradient(leak[0], grad_leak)], Shape::from(1))],
                [tgim, leak, ..] => vec![
                    (lmht_core::tgim_logit_gradient(config.tgim, t, tgim, &grad_omega), Shape::from((t, t))),
                    (vec![lmht_core::leak_logit_gradient(leak[0], grad_leak)], Shape::from(1)),
                ],
            };
            (gradients, grad_xs)
        };
        let mut gradients = vec![Tensor::from_vec(grad_xs, xs.shape(), xs.device())?];
        for (values, shape) in logit_gradients {
            gradients.push(Tensor::from_vec(values, shape, xs.device())?);
        }
        Ok(gradients)
    }
}

const NAME: &str = "spiking-neuron";

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu(&[(s1, l1)])
    }
    fn bwd(&self, xs: &Tensor, _res: &Tensor, grad_out: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.gradients(&[xs], grad_out)?.next().flatten())
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu(&[(s1, l1), (s2, l2)])
    }
    fn bwd(
        &self,
        xs: &Tensor,
        leak: &Tensor,
        _res: &Tensor,
        grad_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients(&[xs, leak], grad_out)?;
        Ok((gradients.next().flatten(), gradients.next().flatten()))
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu(&[(s1, l1), (s2, l2), (s3, l3)])
    }
    fn bwd(
        &self,
        xs: &Tensor,
        tgim: &Tensor,
        leak: &Tensor,
        _res: &Tensor,
        grad_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients(&[xs, tgim, leak], grad_out)?;
        Ok((gradients.next().flatten(), gradients.next().flatten(), gradients.next().flatten()))
    }
}
