//! The launcher for NVIDIA GPUs, over Candle's device.
// A launch is unsafe by nature.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda::cudarc::driver::{
    CudaContext, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop, result, sys,
};
use candle_core::cuda::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Shape, Storage, bail};
use lmht_gpu::suite::Device;
use lmht_gpu::{Arg, Dtype, Error, HostBuffer, Language, Machine, Program};

use super::buffer::Buffer;
use super::host::{candle_dtype, from_host, part, to_host};
use super::work::OnCandle;

/// A CUDA device. Kernels are compiled by NVRTC for compute capability 8.0 and newer, once in a process, without contraction.
///
/// ```no_run
/// use candle_core::CudaDevice;
/// use candle_core::backend::BackendDevice;
/// use lmht_gpu::suite::{Hosted, checks};
/// use lmht_nn::gpu::Cuda;
///
/// let machine = Hosted(Cuda::new(&CudaDevice::new(0)?)?);
/// for check in checks() {
///     println!("{}: {:?}", check.operation, (check.run)(&machine));
/// }
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Cuda<'a> {
    device: CudaDevice,
    blocks: u32,
    /// Of the tensors that its buffers are views of.
    views: PhantomData<&'a ()>,
}

type CudaBuffer<'a> = Buffer<'a, CudaStorage>;

impl Cuda<'_> {
    /// The launcher of a device.
    ///
    /// # Errors
    /// If the driver does not say how many multiprocessors it has.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        // Asked once, since a launcher is made for every operation.
        static BLOCKS: Mutex<BTreeMap<usize, u32>> = Mutex::new(BTreeMap::new());
        let stream = device.cuda_stream();
        let (context, mut known) = (stream.context(), BLOCKS.lock().unwrap_or_else(PoisonError::into_inner));
        let blocks = match known.get(&context.ordinal()) {
            Some(blocks) => *blocks,
            None => {
                keep_memory(context)?;
                let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
                let blocks = 8 * context.attribute(count).w()?.max(1) as u32;
                *known.entry(context.ordinal()).or_insert(blocks)
            }
        };
        Ok(Self { device: device.clone(), blocks, views: PhantomData })
    }

    fn allocate(&self, dtype: Dtype, len: usize) -> Result<CudaStorage> {
        // SAFETY: every plan writes all of what it asks for before anybody reads it.
        unsafe { self.device.alloc_uninit(&Shape::from(len), candle_dtype(dtype)) }
    }

    fn run(&self, program: &Program, kernel: &str, grid: u32, args: &mut [Arg<'_, CudaBuffer<'_>>]) -> Result<()> {
        let function = self.device.get_or_load_custom_func(kernel, &program.key(), &ptx(program)?)?;
        let stream = self.device.cuda_stream();
        let (mut words, mut guards) = (Vec::with_capacity(args.len()), Vec::with_capacity(args.len()));
        for arg in args.iter_mut() {
            words.push(match arg {
                Arg::In(buffer) => {
                    let (address, guard) = address(buffer, &stream)?;
                    guards.push(guard);
                    address
                }
                Arg::Out(buffer) => {
                    let (address, guard) = address_mut(buffer, &stream)?;
                    guards.push(guard);
                    address
                }
                Arg::U32(value) => u64::from(*value),
                Arg::Real(value) if program.dtype == Dtype::F64 => value.to_bits(),
                Arg::Real(value) => u64::from((*value as f32).to_bits()),
            });
        }
        let mut launch = function.builder();
        for word in &words {
            launch.arg(word);
        }
        let config = LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (program.threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the plan hands over as many arguments of these kinds as the kernel has parameters, and buffers as long as
        // the kernel indexes, which the suite holds it to on the emulator, canaries around each. A word is as long as the
        // longest parameter, and the driver reads the low bytes of a shorter one. The guards keep other streams off the
        // buffers until the launch is in the queue.
        unsafe { launch.launch(config) }.w()?;
        drop(guards);
        Ok(())
    }
}

/// Lets memory that is freed stay with the process. Else the driver takes it back whenever the host waits for the GPU, and the
/// next step maps it anew.
fn keep_memory(context: &CudaContext) -> Result<()> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let mut bytes = u64::MAX;
    // SAFETY: the context's own device; the value of this attribute is a u64, which outlives the call.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device()).w()?;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut bytes).cast()).w()
    }
}

/// PTX of a program, compiled once.
fn ptx(program: &Program) -> Result<Arc<str>> {
    static COMPILED: Mutex<Option<HashMap<String, Arc<str>>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = compiled.get_or_insert_with(HashMap::new);
    let key = program.key();
    if let Some(ptx) = compiled.get(&key) {
        return Ok(ptx.clone());
    }
    let options = CompileOptions {
        fmad: Some(false),
        arch: Some("compute_80"),
        options: vec!["-default-device".to_string()],
        name: Some(key.clone()),
        ..CompileOptions::default()
    };
    let text = program.source(Language::Cuda).map_err(candle_core::Error::wrap)?;
    let ptx: Arc<str> = compile_ptx_with_opts(text, options).w()?.to_src().into();
    compiled.insert(key, ptx.clone());
    Ok(ptx)
}

/// Where a buffer begins, and what keeps it readable until the launch.
fn address<'s>(buffer: &'s CudaBuffer<'_>, stream: &'s CudaStream) -> Result<(u64, SyncOnDrop<'s>)> {
    let (address, guard) = match &buffer.storage().slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(stream),
        CudaStorageSlice::F64(slice) => slice.device_ptr(stream),
        CudaStorageSlice::F16(slice) => slice.device_ptr(stream),
        CudaStorageSlice::BF16(slice) => slice.device_ptr(stream),
        CudaStorageSlice::U8(slice) => slice.device_ptr(stream),
        CudaStorageSlice::U32(slice) => slice.device_ptr(stream),
        _ => bail!("no kernel takes {:?}", buffer.storage().dtype()),
    };
    Ok((address + buffer.offset() as u64, guard))
}

/// The same for one that is written.
fn address_mut<'s>(buffer: &'s mut CudaBuffer<'_>, stream: &'s CudaStream) -> Result<(u64, SyncOnDrop<'s>)> {
    let storage = buffer.storage_mut().map_err(candle_core::Error::msg)?;
    // An own buffer begins where its elements do.
    Ok(match &mut storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::F64(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::F16(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::U8(slice) => slice.device_ptr_mut(stream),
        CudaStorageSlice::U32(slice) => slice.device_ptr_mut(stream),
        _ => bail!("no kernel gives this type"),
    })
}

fn failed(kernel: &'static str, program: &str, error: &candle_core::Error) -> Error {
    Error::Launch { kernel, program: program.to_string(), message: error.to_string() }
}

impl<'a> Machine for Cuda<'a> {
    type Buffer = CudaBuffer<'a>;

    fn alloc(&self, dtype: Dtype, len: usize) -> lmht_gpu::Result<Self::Buffer> {
        let storage = self.allocate(dtype, len).map_err(|error| failed("memory", "CUDA", &error))?;
        Ok(Buffer::own(storage, dtype, len))
    }

    fn len(&self, buffer: &Self::Buffer) -> usize {
        buffer.len
    }

    fn dtype(&self, buffer: &Self::Buffer) -> Dtype {
        buffer.dtype
    }

    fn is_aligned(&self, buffer: &Self::Buffer) -> bool {
        buffer.offset().is_multiple_of(16) // the driver aligns by 256 bytes
    }

    fn language(&self) -> Language {
        Language::Cuda
    }

    fn blocks(&self) -> u32 {
        self.blocks
    }

    fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        grid: u32,
        args: &mut [Arg<'_, Self::Buffer>],
    ) -> lmht_gpu::Result<()> {
        self.run(program, kernel, grid, args).map_err(|error| failed(kernel, &program.key(), &error))
    }
}

impl<'a> OnCandle<'a> for Cuda<'a> {
    fn view(&self, storage: &'a Storage, layout: &Layout) -> Result<Self::Buffer> {
        match storage {
            Storage::Cuda(storage) => Buffer::view(storage, layout),
            _ => bail!("expected operands on one CUDA device"),
        }
    }

    fn give(&self, buffer: Self::Buffer) -> Result<Storage> {
        buffer.into_storage().map(Storage::Cuda)
    }
}

impl Device for Cuda<'_> {
    fn upload(&self, buffer: &HostBuffer) -> lmht_gpu::Result<Self::Buffer> {
        let upload = || match &*from_host(buffer)?.storage_and_layout().0 {
            Storage::Cpu(storage) => self.device.storage_from_cpu_storage(storage),
            _ => bail!("expected a CPU tensor"),
        };
        let storage = upload().map_err(|error| failed("upload", "CUDA", &error))?;
        Ok(Buffer::own(storage, buffer.dtype(), buffer.len()))
    }

    fn download(&self, buffer: &Self::Buffer) -> lmht_gpu::Result<Vec<u8>> {
        let download = || {
            let part = part(buffer.storage().to_cpu_storage()?, buffer.start, buffer.len)?;
            Ok(to_host(&part)?.bytes())
        };
        download().map_err(|error| failed("download", "CUDA", &error))
    }
}
