//! The running means that an update rule keeps of a parameter.

use candle_core::{DType, Device, Shape, Tensor, Var};

/// The running means of one parameter.
#[derive(Debug)]
pub(super) enum Means {
    /// On the CPU: updated in place.
    F32(Vec<Vec<f32>>),
    /// On the CPU: updated in place.
    F64(Vec<Vec<f64>>),
    /// On another device: replaced at each update.
    Tensors(Vec<Tensor>),
}

impl Means {
    /// `count` means of zeros for a parameter, in the form that suits its device.
    pub(super) fn zeros(var: &Var, count: usize) -> candle_core::Result<Self> {
        let n = var.elem_count();
        Ok(match (var.device().is_cpu(), var.dtype()) {
            (true, DType::F32) => Self::F32(vec![vec![0.; n]; count]),
            (true, DType::F64) => Self::F64(vec![vec![0.; n]; count]),
            _ => Self::Tensors((0..count).map(|_| var.as_tensor().zeros_like()).collect::<candle_core::Result<_>>()?),
        })
    }

    /// Means for a parameter from tensors of its shape and type.
    pub(super) fn from_tensors(var: &Var, tensors: &[&Tensor]) -> candle_core::Result<Self> {
        let flat = || tensors.iter().map(|t| t.flatten_all());
        Ok(match (var.device().is_cpu(), var.dtype()) {
            (true, DType::F32) => Self::F32(flat().map(|t| t?.to_vec1()).collect::<candle_core::Result<_>>()?),
            (true, DType::F64) => Self::F64(flat().map(|t| t?.to_vec1()).collect::<candle_core::Result<_>>()?),
            _ => {
                let placed = tensors.iter().map(|t| t.to_device(var.device())?.copy());
                Self::Tensors(placed.collect::<candle_core::Result<_>>()?)
            }
        })
    }

    /// Copies for a checkpoint, on the CPU or the parameter's device.
    pub(super) fn to_tensors(&self, shape: &Shape) -> candle_core::Result<Vec<Tensor>> {
        let cpu = &Device::Cpu;
        match self {
            Self::F32(means) => means.iter().map(|m| Tensor::from_slice(m, shape, cpu)).collect(),
            Self::F64(means) => means.iter().map(|m| Tensor::from_slice(m, shape, cpu)).collect(),
            Self::Tensors(means) => Ok(means.clone()),
        }
    }
}

/// State of one parameter: how often it was updated, and from the first update on its means.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) updates: u64,
    pub(super) means: Option<Means>,
}
