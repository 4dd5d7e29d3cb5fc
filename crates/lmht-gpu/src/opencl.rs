//! Runs kernels through OpenCL: [`OpenCl`]. PoCL, an OpenCL for the CPU, makes it a second executor for tests, with a
//! compiler that knows what a barrier and an address space are.
//!
//! ```no_run
//! use lmht_gpu::opencl::OpenCl;
//! use lmht_gpu::suite::{Hosted, checks};
//!
//! let machine = Hosted(OpenCl::first()?);
//! for check in checks() {
//!     (check.run)(&machine)?;
//! }
//! # Ok::<(), String>(())
//! ```
// OpenCL is a C library.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::ptr::{null, null_mut};

use libloading::{Library, Symbol};

use crate::suite::Device;
use crate::{Arg, Dtype, Error, HostBuffer, Language, Machine, Program, Result};

type Handle = *mut c_void;

const DEVICE_TYPE_ALL: u64 = 0xffff_ffff;
const MEM_READ_WRITE: u64 = 1;
const TRUE: u32 = 1;
const PROGRAM_BUILD_LOG: u32 = 0x1183;

/// The first device of the first platform.
pub struct OpenCl {
    library: Library,
    device: Handle,
    context: Handle,
    queue: Handle,
    programs: RefCell<HashMap<String, Handle>>,
}

impl fmt::Debug for OpenCl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCl").field("programs", &self.programs.borrow().len()).finish_non_exhaustive()
    }
}

/// Memory of the device. It is freed with the process: tests use little.
#[derive(Debug)]
pub struct ClBuffer {
    memory: Handle,
    len: usize,
    dtype: Dtype,
}

/// A call of a function of OpenCL by its name and signature.
macro_rules! call {
    ($self:expr, $name:literal ( $($argument:expr => $type:ty),* $(,)? ) -> $result:ty) => {{
        // SAFETY: the signature is that of cl.h; every call site hands over pointers to memory that outlives the call.
        unsafe {
            let function: Symbol<'_, unsafe extern "C" fn($($type),*) -> $result> =
                $self.library.get($name.as_bytes()).map_err(|error| error.to_string())?;
            function($($argument),*)
        }
    }};
}

fn done(what: &str, code: i32) -> std::result::Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what}: OpenCL says {code}")) }
}

impl OpenCl {
    /// Opens it.
    ///
    /// # Errors
    /// There is no OpenCL, or it has no device; the command that installs one.
    pub fn first() -> std::result::Result<Self, String> {
        let missing = |error: String| format!("no OpenCL device ({error}); Debian: apt-get install pocl-opencl-icd");
        Self::open().map_err(missing)
    }

    fn open() -> std::result::Result<Self, String> {
        // SAFETY: the system's OpenCL loader; its initialisers touch nothing of ours.
        let library = unsafe { Library::new("libOpenCL.so.1") }.map_err(|error| error.to_string())?;
        let handle = null_mut();
        let mut this = Self { library, device: handle, context: handle, queue: handle, programs: RefCell::default() };
        let (mut platform, mut code): (Handle, i32) = (null_mut(), 0);
        let found = call!(this, "clGetPlatformIDs"(
            1 => u32, &mut platform => *mut Handle, null_mut() => *mut u32) -> i32);
        done("clGetPlatformIDs", found)?;
        let found = call!(this, "clGetDeviceIDs"(platform => Handle, DEVICE_TYPE_ALL => u64, 1 => u32,
            &mut this.device => *mut Handle, null_mut() => *mut u32) -> i32);
        done("clGetDeviceIDs", found)?;
        this.context = call!(this, "clCreateContext"(null() => *const isize, 1 => u32, &this.device => *const Handle,
            null_mut() => Handle, null_mut() => Handle, &mut code => *mut i32) -> Handle);
        done("clCreateContext", code)?;
        this.queue = call!(this, "clCreateCommandQueue"(
            this.context => Handle, this.device => Handle, 0 => u64, &mut code => *mut i32) -> Handle);
        done("clCreateCommandQueue", code)?;
        Ok(this)
    }

    fn build(&self, program: &Program) -> std::result::Result<Handle, String> {
        if let Some(&built) = self.programs.borrow().get(&program.key()) {
            return Ok(built);
        }
        let text = program.source(Language::OpenCl).map_err(|error| error.to_string())?;
        let text = CString::new(text).map_err(|error| error.to_string())?;
        let mut code = 0;
        let made = call!(self, "clCreateProgramWithSource"(self.context => Handle, 1 => u32,
            &text.as_ptr() => *const *const c_char, null() => *const usize, &mut code => *mut i32) -> Handle);
        done("clCreateProgramWithSource", code)?;
        let options = c"-cl-std=CL1.2 -cl-fp32-correctly-rounded-divide-sqrt";
        let code = call!(self, "clBuildProgram"(made => Handle, 1 => u32, &self.device => *const Handle,
            options.as_ptr() => *const c_char, null_mut() => Handle, null_mut() => Handle) -> i32);
        if code != 0 {
            let mut log = vec![0u8; 1 << 16];
            call!(self, "clGetProgramBuildInfo"(made => Handle, self.device => Handle, PROGRAM_BUILD_LOG => u32,
                log.len() => usize, log.as_mut_ptr().cast() => Handle, null_mut() => *mut usize) -> i32);
            log.retain(|&byte| byte != 0);
            return Err(String::from_utf8_lossy(&log).into_owned());
        }
        self.programs.borrow_mut().insert(program.key(), made);
        Ok(made)
    }

    fn memory(&self, dtype: Dtype, len: usize) -> std::result::Result<ClBuffer, String> {
        let mut code = 0;
        let memory = call!(self, "clCreateBuffer"(self.context => Handle, MEM_READ_WRITE => u64,
            len * dtype.size() => usize, null_mut() => Handle, &mut code => *mut i32) -> Handle);
        done("clCreateBuffer", code).map(|()| ClBuffer { memory, len, dtype })
    }

    fn run(
        &self,
        program: &Program,
        kernel: &str,
        grid: u32,
        args: &[Arg<'_, ClBuffer>],
    ) -> std::result::Result<(), String> {
        let name = CString::new(kernel).map_err(|error| error.to_string())?;
        let mut code = 0;
        let made = call!(self, "clCreateKernel"(
            self.build(program)? => Handle, name.as_ptr() => *const c_char, &mut code => *mut i32) -> Handle);
        done("clCreateKernel", code)?;
        for (index, arg) in args.iter().enumerate() {
            let bytes = match arg {
                Arg::In(buffer) => (buffer.memory as usize).to_ne_bytes().to_vec(),
                Arg::Out(buffer) => (buffer.memory as usize).to_ne_bytes().to_vec(),
                Arg::U32(value) => value.to_ne_bytes().to_vec(),
                Arg::Real(value) if program.dtype == Dtype::F64 => value.to_ne_bytes().to_vec(),
                Arg::Real(value) => (*value as f32).to_ne_bytes().to_vec(),
            };
            let code = call!(self, "clSetKernelArg"(made => Handle, index as u32 => u32, bytes.len() => usize,
                bytes.as_ptr().cast() => *const c_void) -> i32);
            done(&format!("argument {index}"), code)?;
        }
        let (local, global) = (program.threads as usize, program.threads as usize * grid as usize);
        let code = call!(self, "clEnqueueNDRangeKernel"(self.queue => Handle, made => Handle, 1 => u32,
            null() => *const usize, &global => *const usize, &local => *const usize, 0 => u32,
            null() => *const Handle, null_mut() => *mut Handle) -> i32);
        done("clEnqueueNDRangeKernel", code)?;
        done("clReleaseKernel", call!(self, "clReleaseKernel"(made => Handle) -> i32))
    }

    fn copy_in(&self, buffer: &ClBuffer, bytes: &[u8]) -> std::result::Result<(), String> {
        let code = call!(self, "clEnqueueWriteBuffer"(self.queue => Handle, buffer.memory => Handle, TRUE => u32,
            0 => usize, bytes.len() => usize, bytes.as_ptr().cast() => *const c_void, 0 => u32,
            null() => *const Handle, null_mut() => *mut Handle) -> i32);
        done("clEnqueueWriteBuffer", code)
    }

    fn copy_out(&self, buffer: &ClBuffer) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = vec![0u8; buffer.len * buffer.dtype.size()];
        let code = call!(self, "clEnqueueReadBuffer"(self.queue => Handle, buffer.memory => Handle, TRUE => u32,
            0 => usize, bytes.len() => usize, bytes.as_mut_ptr().cast() => *mut c_void, 0 => u32,
            null() => *const Handle, null_mut() => *mut Handle) -> i32);
        done("clEnqueueReadBuffer", code).map(|()| bytes)
    }
}

impl Machine for OpenCl {
    type Buffer = ClBuffer;

    fn alloc(&self, dtype: Dtype, len: usize) -> Result<ClBuffer> {
        self.memory(dtype, len).map_err(|message| failed("memory", message))
    }

    fn len(&self, buffer: &ClBuffer) -> usize {
        buffer.len
    }

    fn dtype(&self, buffer: &ClBuffer) -> Dtype {
        buffer.dtype
    }

    fn is_aligned(&self, _: &ClBuffer) -> bool {
        true // by at least 128 bytes, and there are no views
    }

    fn language(&self) -> Language {
        Language::OpenCl
    }

    fn threads(&self) -> u32 {
        32
    }

    fn blocks(&self) -> u32 {
        7
    }

    fn launch(&self, program: &Program, kernel: &'static str, grid: u32, args: &mut [Arg<'_, ClBuffer>]) -> Result<()> {
        let failed = |message| Error::Launch { kernel, program: program.key(), message };
        self.run(program, kernel, grid, args).map_err(failed)
    }
}

impl Device for OpenCl {
    fn upload(&self, buffer: &HostBuffer) -> Result<ClBuffer> {
        let there = self.alloc(buffer.dtype(), buffer.len())?;
        self.copy_in(&there, &buffer.bytes()).map_err(|message| failed("upload", message))?;
        Ok(there)
    }

    fn download(&self, buffer: &ClBuffer) -> Result<Vec<u8>> {
        self.copy_out(buffer).map_err(|message| failed("download", message))
    }
}

fn failed(kernel: &'static str, message: String) -> Error {
    Error::Launch { kernel, program: "OpenCL".to_string(), message }
}
