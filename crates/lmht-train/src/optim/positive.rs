//! Parameters that mean nothing at or below 0 stay above: an update at most halves them.

use candle_core::{DType, Tensor, Var};
use lmht_nn::ParamKind;

use super::Optimizer;
use crate::Result;

/// The parameters of [`ParamKind::Positive`] and where they stood before an update.
///
/// A gradient step can carry the ceiling ϑ of QCFS across 0, where the activation is no longer one. Half of what it was is
/// the smallest that it can become in one step, in whatever unit it is measured. Its momentum ends there: it would halve ϑ in
/// each of the next steps, too, against the gradients that bring it back.
pub(crate) struct Positive(Vec<(String, Var, Tensor)>);

impl Positive {
    pub(crate) fn of(params: &[(String, Var)]) -> Result<Self> {
        let positive = params.iter().filter(|(name, _)| ParamKind::of(name) == ParamKind::Positive);
        let with_values = positive.map(|(name, var)| Ok((name.clone(), var.clone(), before(var)?)));
        Ok(Self(with_values.collect::<Result<_>>()?))
    }

    /// After an update by `optimizer`: halves what fell further. Gives the names of those.
    pub(crate) fn keep(&mut self, optimizer: &mut dyn Optimizer) -> Result<Vec<String>> {
        let mut halved = Vec::new();
        for (name, var, before) in &mut self.0 {
            let least = (&*before * 0.5)?;
            let fell = var.as_detached_tensor().lt(&least)?;
            if fell.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? > 0. {
                var.set(&var.as_detached_tensor().maximum(&least)?)?;
                optimizer.end_momentum(name, &fell)?;
                halved.push(name.clone());
            }
            *before = self::before(var)?;
        }
        Ok(halved)
    }
}

/// A copy: the update works in the memory of the variable.
fn before(var: &Var) -> Result<Tensor> {
    Ok(var.as_detached_tensor().copy()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::optim::{AdamWConfig, OptimizerConfig, SgdConfig};

    #[test]
    fn an_update_at_most_halves() -> Result<()> {
        let scale = Var::new(&[8f32], &Device::Cpu)?;
        let weight = Var::new(&[8f32], &Device::Cpu)?;
        let params = [("sn.thresh".to_string(), scale.clone()), ("fc.weight".to_string(), weight.clone())];
        let mut optimizer = OptimizerConfig::Sgd(SgdConfig::default()).build(params.to_vec())?;
        let mut positive = Positive::of(&params)?;
        // Where it went, and where it is then.
        for (to, kept) in [(7.5, 7.5), (3.75, 3.75), (1., 1.875), (-4., 0.9375), (2., 2.)] {
            for var in [&scale, &weight] {
                var.set(&Tensor::new(&[to as f32], &Device::Cpu)?)?;
            }
            let halved = positive.keep(optimizer.as_mut())?;
            assert_eq!(halved.len(), usize::from(to != kept), "{halved:?}");
            assert_eq!(scale.to_vec1::<f32>()?, [kept as f32]);
            assert_eq!(weight.to_vec1::<f32>()?, [to as f32], "any other parameter goes where it likes");
        }
        Ok(())
    }

    /// One gradient that is far too large, then small ones the other way.
    #[test]
    fn a_scale_recovers_from_one_gradient() -> Result<()> {
        let sgd = SgdConfig { lr: 0.1, momentum: 0.9, ..SgdConfig::default() };
        for rule in [
            OptimizerConfig::Sgd(sgd),
            OptimizerConfig::Sgd(SgdConfig { nesterov: true, ..sgd }),
            OptimizerConfig::AdamW(AdamWConfig { lr: 6., weight_decay: 0., ..AdamWConfig::default() }),
        ] {
            let scale = Var::new(&[8f64, 8.], &Device::Cpu)?;
            let params = [("sn.thresh".to_string(), scale.clone())];
            let mut optimizer = rule.build(params.to_vec())?;
            let mut positive = Positive::of(&params)?;
            let mut lowest = f64::INFINITY;
            for step in 0..20 {
                let slope = if step == 0 { [500f64, 0.] } else { [-1., 0.] };
                let loss = (scale.as_tensor() * Tensor::new(&slope, &Device::Cpu)?)?.sum_all()?;
                optimizer.step(&loss.backward()?)?;
                let halved = positive.keep(optimizer.as_mut())?;
                assert_eq!(!halved.is_empty(), step == 0, "{rule:?}, step {step}");
                lowest = lowest.min(scale.to_vec1::<f64>()?[0]);
            }
            let values = scale.to_vec1::<f64>()?;
            assert!(lowest == 4. && values[0] > 4.0001, "{rule:?}: {lowest}, {values:?}");
        }
        Ok(())
    }
}
