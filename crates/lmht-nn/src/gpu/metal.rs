//! The launcher for Apple GPUs, over Candle's device.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::metal_backend::DeviceId;
use candle_core::{Layout, MetalDevice, MetalError, MetalStorage, Result, Storage, bail};
use candle_metal_kernels::metal::ComputePipeline;
use lmht_gpu::suite::Device;
use lmht_gpu::{Arg, Dtype, Error, HostBuffer, Language, Machine, Program};
use objc2_metal::{MTLCompileOptions, MTLSize};

use super::buffer::Buffer;
use super::host::{candle_dtype, from_host, part, to_host};
use super::work::OnCandle;

/// A Metal device, which has no f64. Kernels are compiled by Metal, once in a process, without fast mathematics.
///
/// ```no_run
/// use candle_core::MetalDevice;
/// use candle_core::backend::BackendDevice;
/// use lmht_gpu::suite::{Hosted, checks};
/// use lmht_nn::gpu::Metal;
///
/// let machine = Hosted(Metal::new(&MetalDevice::new(0)?));
/// for check in checks().into_iter().filter(|check| !check.float64) {
///     println!("{}: {:?}", check.operation, (check.run)(&machine));
/// }
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Metal<'a> {
    device: MetalDevice,
    /// Of the tensors that its buffers are views of.
    views: PhantomData<&'a ()>,
}

type MetalBuffer<'a> = Buffer<'a, MetalStorage>;

impl Metal<'_> {
    /// The launcher of a device.
    pub fn new(device: &MetalDevice) -> Self {
        Self { device: device.clone(), views: PhantomData }
    }

    /// A kernel, compiled once for each device.
    fn pipeline(&self, program: &Program, kernel: &'static str) -> Result<ComputePipeline> {
        type Pipelines = HashMap<(DeviceId, String, &'static str), ComputePipeline>;
        static COMPILED: Mutex<Option<Pipelines>> = Mutex::new(None);
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = compiled.get_or_insert_with(HashMap::new);
        let key = (self.device.id(), program.key(), kernel);
        if let Some(pipeline) = compiled.get(&key) {
            return Ok(pipeline.clone());
        }
        let options = MTLCompileOptions::new();
        // What replaces it, the math mode, only macOS 15 and newer know.
        #[allow(deprecated)]
        options.setFastMathEnabled(false);
        let text = program.source(Language::Metal).map_err(candle_core::Error::wrap)?;
        let device = self.device.metal_device();
        let library = device.new_library_with_source(&text, Some(&options)).map_err(MetalError::from)?;
        let function = library.get_function(kernel, None).map_err(MetalError::from)?;
        let pipeline = device.new_compute_pipeline_state_with_function(&function).map_err(MetalError::from)?;
        compiled.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn run(&self, program: &Program, kernel: &'static str, grid: u32, args: &[Arg<'_, MetalBuffer<'_>>]) -> Result<()> {
        let pipeline = self.pipeline(program, kernel)?;
        if pipeline.max_total_threads_per_threadgroup() < program.threads as usize {
            bail!("this GPU takes {} threads a block", pipeline.max_total_threads_per_threadgroup())
        }
        let guard = self.device.command_encoder()?;
        let encoder = guard.as_ref();
        encoder.set_compute_pipeline_state(&pipeline);
        for (index, arg) in args.iter().enumerate() {
            match arg {
                Arg::In(buffer) => encoder.set_input_buffer(index, Some(buffer.storage().buffer()), buffer.offset()),
                Arg::Out(buffer) => encoder.set_output_buffer(index, Some(buffer.storage().buffer()), buffer.offset()),
                Arg::U32(value) => encoder.set_bytes(index, value),
                // No program of f64 gets here: its text is refused.
                Arg::Real(value) => encoder.set_bytes(index, &(*value as f32)),
            }
        }
        let size = |width| MTLSize { width, height: 1, depth: 1 };
        encoder.dispatch_thread_groups(size(grid as usize), size(program.threads as usize));
        Ok(())
    }
}

fn failed(kernel: &'static str, program: &str, error: &candle_core::Error) -> Error {
    Error::Launch { kernel, program: program.to_string(), message: error.to_string() }
}

impl<'a> Machine for Metal<'a> {
    type Buffer = MetalBuffer<'a>;

    fn alloc(&self, dtype: Dtype, len: usize) -> lmht_gpu::Result<Self::Buffer> {
        if dtype == Dtype::F64 {
            return Err(Error::Unsupported { operation: "memory", language: Language::Metal, dtype });
        }
        let there = candle_dtype(dtype);
        let buffer = self.device.new_buffer(len, there, "lmht").map_err(|error| failed("memory", "Metal", &error))?;
        Ok(Buffer::own(MetalStorage::new(buffer, self.device.clone(), len, there), dtype, len))
    }

    fn len(&self, buffer: &Self::Buffer) -> usize {
        buffer.len
    }

    fn dtype(&self, buffer: &Self::Buffer) -> Dtype {
        buffer.dtype
    }

    fn is_aligned(&self, buffer: &Self::Buffer) -> bool {
        buffer.offset().is_multiple_of(16) // Metal's own buffers are aligned by more
    }

    fn language(&self) -> Language {
        Language::Metal
    }

    fn blocks(&self) -> u32 {
        256
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

impl<'a> OnCandle<'a> for Metal<'a> {
    fn view(&self, storage: &'a Storage, layout: &Layout) -> Result<Self::Buffer> {
        match storage {
            Storage::Metal(storage) => Buffer::view(storage, layout),
            _ => bail!("expected operands on one Metal device"),
        }
    }

    fn give(&self, buffer: Self::Buffer) -> Result<Storage> {
        buffer.into_storage().map(Storage::Metal)
    }
}

impl Device for Metal<'_> {
    fn upload(&self, buffer: &HostBuffer) -> lmht_gpu::Result<Self::Buffer> {
        let upload = || match &*from_host(buffer)?.storage_and_layout().0 {
            Storage::Cpu(storage) => self.device.storage_from_cpu_storage(storage),
            _ => bail!("expected a CPU tensor"),
        };
        let storage = upload().map_err(|error| failed("upload", "Metal", &error))?;
        Ok(Buffer::own(storage, buffer.dtype(), buffer.len()))
    }

    fn download(&self, buffer: &Self::Buffer) -> lmht_gpu::Result<Vec<u8>> {
        let download = || {
            let part = part(buffer.storage().to_cpu_storage()?, buffer.start, buffer.len)?;
            Ok(to_host(&part)?.bytes())
        };
        download().map_err(|error| failed("download", "Metal", &error))
    }
}
