//! What an update rule is, and how one is applied to a parameter: fused on the CPU, composed of tensor operations on a device
//! without kernels. With kernels all parameters are updated at once (`at_once.rs`).

use std::cell::RefCell;

use candle_core::{CpuStorage, FloatDType, InplaceOp2, Layout, Tensor, Var, bail};
use lmht_nn::gpu;

use super::means::{Means, Slot};

/// Numbers that one task handles: large enough to hide the cost of a task, small enough to stay in the cache.
pub(super) const CHUNK: usize = 1 << 14;

/// The numbers that the fused loops work on.
pub(super) trait Real: FloatDType {
    fn root(self) -> Self;
}

impl Real for f32 {
    fn root(self) -> Self {
        self.sqrt()
    }
}

impl Real for f64 {
    fn root(self) -> Self {
        self.sqrt()
    }
}

/// An update rule: how one parameter, its gradient and its running means become the next.
pub(super) trait Rule {
    /// Names of the running means, tensors in the parameter's shape that start at zero.
    fn means(&self) -> &'static [&'static str];

    /// The rule on slices of equal lengths, in place; `n` is the number of this update, from 1.
    fn fused<T: Real>(&self, n: u64, p: &mut [T], g: &[T], means: &mut [Vec<T>]);

    /// The rule of update `n` for a GPU's kernel, and its weight decay.
    fn kernel(&self, n: u64) -> (gpu::Rule, f64);

    /// The rule as tensor operations: returns the next parameter and replaces the running means.
    fn composed(&self, n: u64, p: &Tensor, g: &Tensor, means: &mut [Tensor]) -> candle_core::Result<Tensor>;
}

/// Applies a rule to one parameter, in the form in which its means are kept.
pub(super) fn update<R: Rule>(rule: &R, slot: &mut Slot, var: &Var, grad: &Tensor) -> candle_core::Result<()> {
    let n = slot.updates + 1;
    let means = match &mut slot.means {
        Some(means) => means,
        empty => empty.insert(Means::zeros(var, rule.means().len())?),
    };
    if let Means::Tensors(means) = means {
        // Detached: the variable would make the operations build a graph that nobody needs.
        let mut next_means = means.clone();
        var.set(&rule.composed(n, &var.as_detached_tensor(), grad, &mut next_means)?)?;
        *means = next_means;
    } else {
        var.inplace_op2(grad, &Fused { rule, n, means: RefCell::new(means) })?;
    }
    slot.updates = n;
    Ok(())
}

/// The fused rule as Candle's in-place operation, which alone can reach the numbers of a variable. It writes one tensor,
/// but an update also writes the means: these are no tensors, but slices that come along.
struct Fused<'a, R> {
    rule: &'a R,
    n: u64,
    means: RefCell<&'a mut Means>,
}

impl<R: Rule> InplaceOp2 for Fused<'_, R> {
    fn name(&self) -> &'static str {
        "optimizer-update"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (Some((p_start, p_end)), Some((g_start, g_end))) =
            (p_layout.contiguous_offsets(), g_layout.contiguous_offsets())
        else {
            bail!("optimizer: expected a contiguous parameter and gradient")
        };
        match (p, g, &mut **self.means.borrow_mut()) {
            (CpuStorage::F32(p), CpuStorage::F32(g), Means::F32(means)) => {
                self.rule.fused(self.n, &mut p[p_start..p_end], &g[g_start..g_end], means);
            }
            (CpuStorage::F64(p), CpuStorage::F64(g), Means::F64(means)) => {
                self.rule.fused(self.n, &mut p[p_start..p_end], &g[g_start..g_end], means);
            }
            _ => bail!("optimizer: parameter, gradient and state differ in type; this is a bug"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! The two forms of the rules agree. A GPU takes the composed form; here it runs on the CPU, beside the fused one,
    //! which no public call can bring about.

    use candle_core::{DType, Device};

    use super::*;
    use crate::optim::{AdamWConfig, SgdConfig};

    /// Steps two optimizers over equal parameters and gradients, one of them with its means held as tensors.
    fn largest_difference(rule: &impl Rule, dtype: DType) -> candle_core::Result<f64> {
        let n = 2 * CHUNK + 17;
        let numbers = |seed: usize| -> candle_core::Result<Tensor> {
            let values: Vec<f64> = (0..n).map(|i| ((i * 7 + seed * 13) as f64 * 0.37).sin()).collect();
            Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)
        };
        let fused = Var::from_tensor(&numbers(1)?)?;
        let composed = Var::from_tensor(&numbers(1)?)?;
        let (mut fused_slot, mut composed_slot) = (Slot::default(), Slot::default());
        let zeros = vec![composed.as_tensor().zeros_like()?; rule.means().len()];
        composed_slot.means = Some(Means::Tensors(zeros));
        for step in 2..8 {
            let grad = numbers(step)?;
            update(rule, &mut fused_slot, &fused, &grad)?;
            update(rule, &mut composed_slot, &composed, &grad)?;
        }
        assert!(matches!(fused_slot.means, Some(Means::F32(_) | Means::F64(_))));
        assert!(matches!(composed_slot.means, Some(Means::Tensors(_))));
        (fused.as_tensor() - composed.as_tensor())?.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()
    }

    #[test]
    fn fused_and_composed_updates_agree() -> candle_core::Result<()> {
        // The parameters are of size 1, so these are a few units in the last place.
        for (dtype, tolerance) in [(DType::F64, 4e-15), (DType::F32, 2e-6)] {
            for (momentum, nesterov, weight_decay) in
                [(0., false, 0.), (0., false, 0.1), (0.9, false, 0.1), (0.9, true, 0.)]
            {
                let rule = SgdConfig { lr: 0.1, momentum, nesterov, weight_decay };
                let difference = largest_difference(&rule, dtype)?;
                assert!(difference <= tolerance, "{rule:?} in {dtype:?}: {difference:e}");
            }
            let rule = AdamWConfig { lr: 0.1, weight_decay: 0.1, ..AdamWConfig::default() };
            let difference = largest_difference(&rule, dtype)?;
            assert!(difference <= tolerance, "{rule:?} in {dtype:?}: {difference:e}");
        }
        Ok(())
    }

    #[test]
    fn restored_tensor_means_go_on_as_the_saved_ones() -> candle_core::Result<()> {
        let rule = SgdConfig { lr: 0.1, momentum: 0.9, ..SgdConfig::default() };
        let var = Var::new(&[1f64, 2.], &Device::Cpu)?;
        let grad = Tensor::new(&[0.5f64, -1.], &Device::Cpu)?;
        let mut slot = Slot { updates: 0, means: Some(Means::Tensors(vec![var.as_tensor().zeros_like()?])) };
        update(&rule, &mut slot, &var, &grad)?;
        let Some(means) = &slot.means else { panic!("an update leaves means") };
        let saved = means.to_tensors(var.shape())?;
        let mut restored = Slot { updates: 1, means: Some(Means::Tensors(saved)) };
        let other = Var::from_tensor(&var.as_detached_tensor().copy()?)?;
        update(&rule, &mut slot, &var, &grad)?;
        update(&rule, &mut restored, &other, &grad)?;
        assert_eq!(var.to_vec1::<f64>()?, other.to_vec1::<f64>()?);
        // p = 1 - 0.1 (0.5) - 0.1 (0.9 · 0.5 + 0.5)
        assert!((var.to_vec1::<f64>()?[0] - 0.855).abs() < 1e-15);
        Ok(())
    }
}
