//! Convolution through cuDNN, channels last: forward pass and both gradients.
// A launch is unsafe by nature.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::cudarc::cudnn::result::CudnnError;
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

/// Nothing where cuDNN has no algorithm for the shape, as of the gradients.
pub(super) fn forward(xs: &Tensor, weight: &Tensor, s: &ConvShape) -> Result<Option<Tensor>> {
    let ys = by_type(Direction::Forward, xs, &channels_last(weight)?, s)?;
    ys.map(|ys| ys.reshape((s.n, s.h_out, s.w_out, s.c_out))).transpose()
}

pub(super) fn grad_input(grad: &Tensor, weight: &Tensor, s: &ConvShape) -> Result<Option<Tensor>> {
    let grad = by_type(Direction::Data, grad, &channels_last(weight)?, s)?;
    grad.map(|grad| grad.reshape((s.n, s.h, s.w, s.c_in))).transpose()
}

pub(super) fn grad_weight(xs: &Tensor, grad: &Tensor, s: &ConvShape) -> Result<Option<Tensor>> {
    let Some(grad) = by_type(Direction::Filter, xs, grad, s)? else { return Ok(None) };
    let grad = grad.reshape((s.c_out, s.k, s.k, s.c_in / s.groups))?;
    grad.permute((0, 3, 1, 2))?.contiguous().map(Some)
}

/// What cuDNN did not take.
static REFUSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(super) fn refused() -> Vec<String> {
    REFUSED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What cuDNN says, or nothing where it has no algorithm.
fn supported<T>(answer: std::result::Result<T, CudnnError>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // A family of codes.
        Err(error) if format!("{error:?}").contains("NOT_SUPPORTED") => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    /// None for a shape that cuDNN has no algorithm for.
    choices: HashMap<Key, Option<Choice>>,
    /// The largest that was wanted so far.
    workspace: CudaSlice<u8>,
}

thread_local! {
    static HANDLES: RefCell<HashMap<DeviceId, Handle>> = RefCell::default();
}

fn by_type(direction: Direction, a: &Tensor, b: &Tensor, s: &ConvShape) -> Result<Option<Tensor>> {
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

/// Contiguous and at a multiple of 16 bytes, where wide accesses may begin.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.contiguous()?;
    let offset = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    if offset.is_multiple_of(16) { Ok(tensor) } else { tensor.force_contiguous() }
}

/// The result of the two operands of a direction, flat. Sums are f32.
fn convolve<T>(direction: Direction, a: &Tensor, b: &Tensor, s: &ConvShape) -> Result<Option<Tensor>>
where
    T: WithDType + CudaDType + CudnnDataType + DeviceRepr,
{
    let Device::Cuda(device) = a.device() else { bail!("cuDNN: expected a CUDA device") };
    let (a, b) = (aligned(a)?, aligned(b)?);
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    let (a, b) = (view::<T>(&a, a_layout)?, view::<T>(&b, b_layout)?);
    // SAFETY: the launch writes all of it: its results are not added to what is there.
    let mut out = unsafe { device.alloc::<T>(direction.len(s)) }?;
    let launched = HANDLES.with_borrow_mut(|handles| {
        if !handles.contains_key(&device.id()) {
            let cudnn = Cudnn::new(device.cuda_stream())?;
            handles.insert(device.id(), Handle { cudnn, choices: HashMap::new(), workspace: device.alloc_zeros(1)? });
        }
        let Some(handle) = handles.get_mut(&device.id()) else { bail!("cuDNN: no handle") };
        let shapes = Shapes::<T>::new(&handle.cudnn, s)?;
        let sizes = [s.n, s.c_in, s.h, s.w, s.c_out, s.k, s.stride, s.padding, s.groups];
        let key = (direction, T::DTYPE, sizes);
        let (is_new, choice) = match handle.choices.get(&key) {
            Some(choice) => (false, *choice),
            None => (true, shapes.choose(direction)?),
        };
        let launched = match choice {
            Some(Choice { algorithm, workspace }) => {
                if handle.workspace.len() < workspace {
                    handle.workspace = device.alloc_zeros(workspace)?;
                }
                supported(shapes.launch(algorithm, &mut handle.workspace, (&a, &b), &mut out))?
            }
            None => None,
        };
        if launched.is_none() && (is_new || choice.is_some()) {
            let refused = format!("{direction:?}, {:?}, {s:?}", T::DTYPE);
            REFUSED.lock().unwrap_or_else(PoisonError::into_inner).push(refused);
        }
        handle.choices.insert(key, choice.filter(|_| launched.is_some()));
        Ok::<_, candle_core::Error>(launched)
    })?;
    let n = direction.len(s);
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(out, device.clone()));
    Ok(launched.map(|()| Tensor::from_storage(storage, n, BackpropOp::none(), false)))
}

/// Bytes of workspace that an algorithm may want if another one needs less.
const WORKSPACE: usize = 1 << 30;

/// The fastest algorithm with its workspace, or `other` where that one adds up in no fixed order, so that two runs would differ,
/// or wants a lot of memory; whichever there is where cuDNN has not both for a shape, or none.
fn choose<A: Copy>(
    fastest: std::result::Result<A, CudnnError>,
    is_ordered: impl Fn(A) -> bool,
    other: A,
    workspace: impl Fn(A) -> std::result::Result<usize, CudnnError>,
) -> Result<Option<(A, usize)>> {
    let sized =
        |algorithm| Ok::<_, candle_core::Error>(supported(workspace(algorithm))?.map(|bytes| (algorithm, bytes)));
    let fastest = match supported(fastest)? {
        Some(fastest) => sized(fastest)?,
        None => None,
    };
    Ok(match (fastest, sized(other)?) {
        (Some((first, bytes)), Some(other)) if !is_ordered(first) || (bytes > WORKSPACE && other.1 < bytes) => {
            Some(other)
        }
        (fastest, other) => fastest.or(other),
    })
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

    fn choose(&self, direction: Direction) -> Result<Option<Choice>> {
        use cudnnConvolutionBwdDataAlgo_t as OfData;
        use cudnnConvolutionBwdFilterAlgo_t as OfFilter;
        use cudnnConvolutionFwdAlgo_t as OfForward;
        let choice = |algorithm, workspace| Choice { algorithm, workspace };
        Ok(match direction {
            Direction::Forward => {
                let small = OfForward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
                let size = |algorithm| self.forward().get_workspace_size(algorithm);
                let chosen = choose(self.forward().pick_algorithm(), |_| true, small, size)?;
                chosen.map(|(algorithm, workspace)| choice(Algorithm::Forward(algorithm), workspace))
            }
            Direction::Data => {
                let is_ordered = |algorithm| algorithm != OfData::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0;
                let ordered = OfData::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
                let size = |algorithm| self.data().get_workspace_size(algorithm);
                let chosen = choose(self.data().pick_algorithm(), is_ordered, ordered, size)?;
                chosen.map(|(algorithm, workspace)| choice(Algorithm::Data(algorithm), workspace))
            }
            Direction::Filter => {
                let (unordered, other) =
                    (OfFilter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, OfFilter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3);
                let is_ordered = |algorithm| algorithm != unordered && algorithm != other;
                let ordered = OfFilter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
                let size = |algorithm| self.filter().get_workspace_size(algorithm);
                let chosen = choose(self.filter().pick_algorithm(), is_ordered, ordered, size)?;
                chosen.map(|(algorithm, workspace)| choice(Algorithm::Filter(algorithm), workspace))
            }
        })
    }

    fn launch(
        &self,
        algorithm: Algorithm,
        workspace: &mut CudaSlice<u8>,
        (a, b): (&CudaView<'_, T>, &CudaView<'_, T>),
        out: &mut CudaSlice<T>,
    ) -> std::result::Result<(), CudnnError> {
        let factors = (T::one(), T::zero());
        // SAFETY: operands and result have the type and the sizes of the descriptors: `Direction::len` of the result, and
        // the operands those of the shape that `conv2d` has checked.
        unsafe {
            match algorithm {
                Algorithm::Forward(algo) => self.forward().launch(algo, Some(workspace), factors, a, b, out),
                Algorithm::Data(algo) => self.data().launch(algo, Some(workspace), factors, out, b, a),
                Algorithm::Filter(algo) => self.filter().launch(algo, Some(workspace), factors, a, out, b),
            }
        }
    }
}
