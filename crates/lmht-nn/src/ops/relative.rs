//! Neurons of other conversion methods, as operations without a gradient.

use candle_core::{DType, Device, Result, Tensor, bail};
use lmht_core::relatives;

/// Which neuron, and what it has beside θ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Relative {
    /// [`lmht_core::relatives::snm`].
    Snm {
        /// v(0) as a fraction of θ.
        v_init: f64,
    },
    /// [`lmht_core::relatives::srp`].
    Srp {
        /// τ.
        tau: usize,
    },
    /// [`lmht_core::relatives::cos`].
    Cos {
        /// ρ.
        rho: usize,
    },
}

/// The output s(t)·θ of such a layer. It runs on the CPU, wherever the currents are, and has no gradient.
///
/// # Shapes
/// - `xs` `[T·B, ...]`, time outermost, both stages; output: the same
///
/// # Errors
/// If the first axis does not hold T timesteps, the first stage is longer than that, or the type is neither f32 nor f64.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::ops::{Relative, relative};
///
/// # fn main() -> candle_core::Result<()> {
/// let xs = Tensor::new(&[[2.5f32], [-2.5]], &Device::Cpu)?;
/// let ys = relative(&xs, 2, 1., Relative::Snm { v_init: 0. })?;
/// assert_eq!(ys.to_vec2::<f32>()?, [[1.], [-1.]]);
/// # Ok(()) }
/// ```
pub fn relative(xs: &Tensor, timesteps: usize, v_threshold: f64, neuron: Relative) -> Result<Tensor> {
    if xs.rank() == 0 || timesteps == 0 || !xs.dims()[0].is_multiple_of(timesteps) {
        bail!("expected {timesteps} timesteps, got an input of shape {:?}", xs.dims())
    }
    if let Relative::Srp { tau: stage } | Relative::Cos { rho: stage } = neuron
        && stage > timesteps
    {
        bail!("expected a first stage of at most {timesteps} timesteps, got {stage}")
    }
    let cpu = xs.to_device(&Device::Cpu)?.flatten_all()?;
    macro_rules! run {
        ($float:ty) => {{
            let xs = cpu.to_vec1::<$float>()?;
            let (theta, mut out) = (v_threshold as $float, vec![0.; xs.len()]);
            match neuron {
                Relative::Snm { v_init } => relatives::snm(timesteps, theta, v_init as $float, &xs, &mut out),
                Relative::Srp { tau } => relatives::srp(timesteps, tau, theta, &xs, &mut out),
                Relative::Cos { rho } => relatives::cos(timesteps, rho, theta, &xs, &mut out),
            }
            Tensor::from_vec(out, cpu.elem_count(), &Device::Cpu)?
        }};
    }
    let out = match xs.dtype() {
        DType::F32 => run!(f32),
        DType::F64 => run!(f64),
        dtype => bail!("expected f32 or f64 currents, got {dtype:?}; convert them with to_dtype"),
    };
    out.reshape(xs.shape())?.to_device(xs.device())
}
