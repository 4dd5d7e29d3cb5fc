//! Between Candle's CPU tensors and the host's buffers of `lmht-gpu`.

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};
use lmht_gpu::{Dtype, HostBuffer};

pub(super) fn dtype_of(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        other => bail!("no kernel takes {other:?}; convert it with to_dtype"),
    })
}

pub(super) fn candle_dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        Dtype::U8 => DType::U8,
        Dtype::U32 => DType::U32,
    }
}

/// The numbers of a CPU tensor: every type fits into f64.
pub(super) fn to_host(tensor: &Tensor) -> Result<HostBuffer> {
    let numbers = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(HostBuffer::new(dtype_of(tensor.dtype())?, &numbers))
}

pub(super) fn from_host(buffer: &HostBuffer) -> Result<Tensor> {
    Tensor::from_vec(buffer.to_f64(), buffer.len(), &Device::Cpu)?.to_dtype(candle_dtype(buffer.dtype()))
}

/// The elements of a storage from `start`, as a tensor `[len]`.
pub(super) fn part(storage: CpuStorage, start: usize, len: usize) -> Result<Tensor> {
    Tensor::from_storage(Storage::Cpu(storage), start + len, BackpropOp::none(), false).narrow(0, start, len)
}
