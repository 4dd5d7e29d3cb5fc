//! The tensors that a network asked for when it was built, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::Init;
use candle_nn::var_builder::SimpleBackend;

use crate::Result;
use crate::lock::lock;
use crate::param_kind::ParamKind;

/// Shared by the clones of a network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tensors(Arc<Mutex<BTreeMap<String, Tensor>>>);

impl Tensors {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Tensor>> {
        lock(&self.0)
    }

    /// A builder that hands on what `vb` gives and notes it.
    pub(crate) fn noting<'a>(&self, vb: VarBuilder<'a>) -> VarBuilder<'a> {
        let (dtype, device, prefix) = (vb.dtype(), vb.device().clone(), vb.prefix());
        let noting = Noting { source: vb.root(), tensors: self.clone() };
        let noting = VarBuilder::from_backend(Box::new(noting), dtype, device);
        if prefix.is_empty() { noting } else { noting.pp(prefix) }
    }

    pub(crate) fn all(&self) -> Vec<(String, Tensor)> {
        self.lock().iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }

    /// The number type of the first tensor.
    pub(crate) fn dtype(&self) -> DType {
        self.lock().values().next().map_or(DType::F32, Tensor::dtype)
    }

    /// The device of the first tensor.
    pub(crate) fn device(&self) -> Device {
        self.lock().values().next().map_or(Device::Cpu, |tensor| tensor.device().clone())
    }
}

struct Noting<'a> {
    source: VarBuilder<'a>,
    tensors: Tensors,
}

impl SimpleBackend for Noting<'_> {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.source.get_with_hints_dtype(shape, name, init, dtype)?;
        // A running statistic that is no variable yet becomes one here, so that what the layer moves is what is noted.
        let tensor = if ParamKind::of(name) == ParamKind::Buffer && !tensor.is_variable() {
            Var::from_tensor(&tensor)?.into_inner()
        } else {
            tensor
        };
        self.tensors.lock().insert(name.to_string(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.source.get_unchecked_dtype(name, dtype)?;
        self.tensors.lock().insert(name.to_string(), tensor.clone());
        Ok(tensor)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.source.contains_tensor(name)
    }
}

/// A builder over copies of `tensors` that nobody else has.
pub(crate) fn copies(tensors: &Tensors) -> Result<VarBuilder<'static>> {
    let copy = |(name, tensor): (String, Tensor)| Ok((name, tensor.detach().copy()?));
    let copied = tensors.all().into_iter().map(copy).collect::<candle_core::Result<_>>()?;
    Ok(VarBuilder::from_tensors(copied, tensors.dtype(), &tensors.device()))
}
