//! Convolution through cuDNN, channels last: forward pass and both gradients.
// A launch is unsafe by nature.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda::cudarc::cudnn::safe::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnDataType, FilterDescriptor,
    TensorDescriptor,
};
use candle_core::cuda::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t, cudnnConvolutionMode_t,
    cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::cuda::cudarc::driver::{CudaSlice, CudaView, DeviceRepr};
use candle_core::cuda::{CudaDType, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Layout, Result, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use lmht_kernels::ConvShape;

/// Whether cuDNN is asked: it has no f64 with channels last.
pub(super) fn takes(xs: &Tensor) -> bool {
    matches!(xs.device(), Device::Cuda(_)) && matches!(xs.dtype(), DType::F32 | DType::F16 | DType::BF16)
}

pub(super) fn forward(xs: &Tensor, weight: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let ys = by_type(Direction::Forward, xs, &channels_last(weight)?, s)?;
    ys.reshape((s.n, s.h_out, s.w_out, s.c_out))
}

pub(super) fn grad_input(grad: &Tensor, weight: &Tensor, s: &ConvShape) -> Result<Tensor> {
    by_type(Direction::Data, grad, &channels_last(weight)?, s)?.reshape((s.n, s.h, s.w, s.c_in))
}

pub(super) fn grad_weight(xs: &Tensor, grad: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let weight = by_type(Direction::Filter, xs, grad, s)?.reshape((s.c_out, s.k, s.k, s.c_in / s.groups))?;
    weight.permute((0, 3, 1, 2))?.contiguous()
}

/// `[c_out, c_in / groups, k, k]` as cuDNN reads it: `[c_out, k, k, c_in / groups]`.
fn channels_last(weight: &Tensor) -> Result<Tensor> {
    weight.permute((0, 2, 3, 1))?.contiguous()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    /// Maps and weights to maps.
    Forward,
    /// Gradients of the output and weights to those of the input.
    Data,
    /// Maps and gradients of the output to those of the weights.
    Filter,
}

impl Direction {
    /// Elements of the result.
    fn len(self, s: &ConvShape) -> usize {
        match self {
            Self::Forward => s.y_len(),
            Self::Data => s.x_len(),
            Self::Filter => s.weight_len(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(cudnnConvolutionFwdAlgo_t),
    Data(cudnnConvolutionBwdDataAlgo_t),
    Filter(cudnnConvolutionBwdFilterAlgo_t),
}

/// How a convolution of one shape runs, asked once.
#[derive(Debug, Clone, Copy)]
struct Choice {
    algorithm: Algorithm,
    workspace: usize,
}

type Key = (Direction, DType, [usize; 9]);

/// What a thread has of cuDNN, which is neither `Send` nor `Sync`.
struct Handle {
    cudnn: Arc<Cudnn>,
    choices: HashMap<Key, Choice>,
    /// The largest that was wanted so far.
    workspace: CudaSlice<u8>,
}

thread_local! {
    static HANDLES: RefCell<HashMap<DeviceId, Handle>> = RefCell::default();
}

fn by_type(direction: Direction, a: &Tensor, b: &Tensor, s: &ConvShape) -> Result<Tensor> {
    match a.dtype() {
        DType::F32 => convolve::<f32>(direction, a, b, s),
        DType::F16 => convolve::<f16>(direction, a, b, s),
        DType::BF16 => convolve::<bf16>(direction, a, b, s),
        dtype => bail!("cuDNN: expected f32, f16 or bf16, got {dtype:?}"),
    }
}

/// The elements of a contiguous tensor.
fn view<'a, T: CudaDType>(storage: &'a Storage, layout: &Layout) -> Result<CudaView<'a, T>> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cuda(storage), Some((start, end))) => Ok(storage.as_cuda_slice::<T>()?.slice(start..end)),
        _ => bail!("cuDNN: expected contiguous operands on one CUDA device; this is a bug of lmht-nn"),
    }
}

/// The result of the two operands of a direction, flat. Sums are f32.
fn convolve<T>(direction: Direction, a: &Tensor, b: &Tensor, s: &ConvShape) -> Result<Tensor>
where
    T: WithDType + CudaDType + CudnnDataType + DeviceRepr,
{
    let Device::Cuda(device) = a.device() else { bail!("cuDNN: expected a CUDA device") };
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let (a, b) = (view::<T>(&a, a_layout)?, view::<T>(&b, b_layout)?);
    // SAFETY: the launch writes all of it: its results are not added to what is there.
    let mut out = unsafe { device.alloc::<T>(direction.len(s)) }?;
    HANDLES.with_borrow_mut(|handles| {
        if !handles.contains_key(&device.id()) {
            let cudnn = Cudnn::new(device.cuda_stream())?;
            handles.insert(device.id(), Handle { cudnn, choices: HashMap::new(), workspace: device.alloc_zeros(1)? });
        }
        let Some(handle) = handles.get_mut(&device.id()) else { bail!("cuDNN: no handle") };
        let shapes = Shapes::<T>::new(&handle.cudnn, s)?;
        let sizes = [s.n, s.c_in, s.h, s.w, s.c_out, s.k, s.stride, s.padding, s.groups];
        let key = (direction, T::DTYPE, sizes);
        let choice = match handle.choices.get(&key) {
            Some(choice) => *choice,
            None => *handle.choices.entry(key).or_insert(shapes.choose(direction)?),
        };
        if handle.workspace.len() < choice.workspace {
            handle.workspace = device.alloc_zeros(choice.workspace)?;
        }
        shapes.launch(choice.algorithm, &mut handle.workspace, (&a, &b), &mut out)
    })?;
    let n = direction.len(s);
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(out, device.clone()));
    Ok(Tensor::from_storage(storage, n, BackpropOp::none(), false))
}

/// Bytes of workspace that an algorithm may want if another one needs less.
const WORKSPACE: usize = 1 << 30;

/// The fastest algorithm with its workspace, or `other` where that one adds up in no fixed order, so that two runs would differ,
/// or wants a lot of memory; the fastest all the same where cuDNN has no other for a shape.
fn choose<A: Copy>(
    fastest: A,
    is_ordered: bool,
    other: A,
    workspace: impl Fn(A) -> Result<usize>,
) -> Result<(A, usize)> {
    let bytes = workspace(fastest)?;
    match workspace(other) {
        Ok(of_other) if !is_ordered || (bytes > WORKSPACE && of_other < bytes) => Ok((other, of_other)),
        _ => Ok((fastest, bytes)),
    }
}

/// A convolution as cuDNN describes it.
struct Shapes<T> {
    conv: ConvDescriptor<f32>,
    x: TensorDescriptor<T>,
    w: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
}

impl<T: WithDType + CudaDType + CudnnDataType + DeviceRepr> Shapes<T> {
    fn new(cudnn: &Arc<Cudnn>, s: &ConvShape) -> Result<Self> {
        let int = |size: usize| match i32::try_from(size) {
            Ok(size) => Ok(size),
            Err(_) => bail!("cuDNN: expected sizes below 2^31, got {size} in {s:?}; use a smaller batch"),
        };
        int(s.x_len().max(s.y_len()))?;
        let nhwc = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        // Sizes are given in the order n, c, h, w, whatever the order in memory.
        let dims = |n, c, h, w| Ok::<_, candle_core::Error>([int(n)?, int(c)?, int(h)?, int(w)?]);
        let (padding, stride) = (int(s.padding)?, int(s.stride)?);
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let mut conv = cudnn.create_conv2d::<f32>([padding; 2], [stride; 2], [1; 2], mode)?;
        conv.set_group_count(int(s.groups)?)?;
        // Products of f32 stay products of f32; those of 16 bits go to the matrix units.
        conv.set_math_type(match T::DTYPE {
            DType::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
            _ => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        })?;
        Ok(Self {
            conv,
            x: cudnn.create_4d_tensor(nhwc, dims(s.n, s.c_in, s.h, s.w)?)?,
            w: cudnn.create_4d_filter(nhwc, dims(s.c_out, s.c_in / s.groups, s.k, s.k)?)?,
            y: cudnn.create_4d_tensor(nhwc, dims(s.n, s.c_out, s.h_out, s.w_out)?)?,
        })
    }

    fn forward(&self) -> ConvForward<'_, T, f32, T> {
        ConvForward { conv: &self.conv, x: &self.x, w: &self.w, y: &self.y }
    }

    fn data(&self) -> ConvBackwardData<'_, T, f32, T> {
        ConvBackwardData { conv: &self.conv, dx: &self.x, w: &self.w, dy: &self.y }
    }

    fn filter(&self) -> ConvBackwardFilter<'_, T, f32, T> {
        ConvBackwardFilter { conv: &self.conv, x: &self.x, dw: &self.w, dy: &self.y }
    }

    fn choose(&self, direction: Direction) -> Result<Choice> {
        Ok(match direction {
            Direction::Forward => {
                let fastest = self.forward().pick_algorithm()?;
                let small = cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
                let size = |algorithm| Ok::<_, candle_core::Error>(self.forward().get_workspace_size(algorithm)?);
                let (algorithm, workspace) = choose(fastest, true, small, size)?;
                Choice { algorithm: Algorithm::Forward(algorithm), workspace }
            }
            Direction::Data => {
                let fastest = self.data().pick_algorithm()?;
                let ordered = cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
                let is_ordered = fastest != cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0;
                let size = |algorithm| Ok::<_, candle_core::Error>(self.data().get_workspace_size(algorithm)?);
                let (algorithm, workspace) = choose(fastest, is_ordered, ordered, size)?;
                Choice { algorithm: Algorithm::Data(algorithm), workspace }
            }
            Direction::Filter => {
                use cudnnConvolutionBwdFilterAlgo_t as Algo;
                let fastest = self.filter().pick_algorithm()?;
                let is_ordered = fastest != Algo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0
                    && fastest != Algo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3;
                let size = |algorithm| Ok::<_, candle_core::Error>(self.filter().get_workspace_size(algorithm)?);
                let (algorithm, workspace) =
                    choose(fastest, is_ordered, Algo::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, size)?;
                Choice { algorithm: Algorithm::Filter(algorithm), workspace }
            }
        })
    }

    fn launch(
        &self,
        algorithm: Algorithm,
        workspace: &mut CudaSlice<u8>,
        (a, b): (&CudaView<'_, T>, &CudaView<'_, T>),
        out: &mut CudaSlice<T>,
    ) -> Result<()> {
        let factors = (T::one(), T::zero());
        // SAFETY: operands and result have the type and the sizes of the descriptors: `Direction::len` of the result, and
        // the operands those of the shape that `conv2d` has checked.
        unsafe {
            match algorithm {
                Algorithm::Forward(algo) => self.forward().launch(algo, Some(workspace), factors, a, b, out)?,
                Algorithm::Data(algo) => self.data().launch(algo, Some(workspace), factors, out, b, a)?,
                Algorithm::Filter(algo) => self.filter().launch(algo, Some(workspace), factors, a, out, b)?,
            }
        }
        Ok(())
    }
}
