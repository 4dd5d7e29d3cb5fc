//! Runs kernels on the CPU, to test them: [`Emulator`].
//!
//! The host's C++ compiler translates a specialisation when it is first launched. The threads of a block are fibers
//! that run from barrier to barrier in an [`Order`] of the caller's choice. What it finds: a missing barrier (by the
//! order), shared memory that is read before it is written (it is poisoned), a write beyond a buffer (canaries) or a
//! place that nobody wrote (buffers start as NaN), threads that disagree about a barrier, a wide access at a wrong
//! address. What it cannot find: errors of the memory model, and what a GPU's compiler makes of the text.
//!
//! ```
//! use lmht_core::LmhtConfig;
//! use lmht_gpu::emulator::Emulator;
//! use lmht_gpu::{Dtype, HostBuffer, plans::neuron};
//!
//! # fn main() -> lmht_gpu::Result<()> {
//! if Emulator::compiler().is_none() {
//!     return Ok(()); // without a C++ compiler there is nothing to run on
//! }
//! let emulator = Emulator::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/emulated-kernels"));
//! let layer = LmhtConfig::lmht(2, 2).check().expect("a neuron"); // L = 2 levels, T = 2 timesteps, θ = 1
//! let learned = HostBuffer::new(Dtype::F32, &[0.5, 0.5, 0.5, 0.5, 1.0]); // Ω = 1/T, λ = 1
//! let xs = HostBuffer::new(Dtype::F32, &[0.5, 2.0, -1.0, /* second timestep: */ 1.5, 3.0, 1.0]);
//! let ys = neuron::forward(&emulator, &layer, &xs, &learned)?;
//! assert_eq!(ys.to_f64(), [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]);
//! # Ok(())
//! # }
//! ```
// A launch calls compiled code with addresses of buffers.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::c_void;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use libloading::Library;

use crate::{Arg, Dtype, Error, HostBuffer, Language, Machine, Program, Result};

/// The order in which the threads of a block run between two barriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By number.
    Ascending,
    /// By number, the last one first.
    Descending,
    /// Another one between any two barriers, from a seed.
    Shuffled(u32),
}

/// A change of one operation's text, to see that a test catches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// The operation that is changed, by its name.
    pub operation: &'static str,
    /// What is replaced; it stands there exactly once.
    pub from: &'static str,
    /// What it is replaced by.
    pub to: &'static str,
}

/// The host as a [`Machine`] with few threads and blocks, so that small sizes fill it.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// Where compiled kernels are kept.
    pub folder: PathBuf,
    /// The order of threads.
    pub order: Order,
    /// Threads of a block, a power of two.
    pub threads: u32,
    /// Blocks that fill it.
    pub blocks: u32,
    /// A change of a kernel's text.
    pub edit: Option<Edit>,
}

impl Emulator {
    /// Keeps compiled kernels in `folder`, which nobody else may be able to write to: what lies there is executed. It
    /// is made where it is not there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), order: Order::Ascending, threads: 32, blocks: 3, edit: None }
    }

    /// The C++ compiler: what `CXX` names, else `c++`. None if it does not start.
    pub fn compiler() -> Option<&'static str> {
        static COMPILER: OnceLock<Option<String>> = OnceLock::new();
        let find = || {
            let name = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
            Command::new(&name).arg("--version").output().is_ok_and(|output| output.status.success()).then_some(name)
        };
        COMPILER.get_or_init(find).as_deref()
    }

    fn text(&self, program: &Program) -> Result<String> {
        let text = program.source(Language::Host)?;
        match self.edit {
            Some(edit) if edit.operation == program.operation.name => {
                let places = text.matches(edit.from).count();
                if places == 1 {
                    return Ok(text.replace(edit.from, edit.to));
                }
                let message = format!("expected the text to be edited once, found {places} times: {}", edit.from);
                Err(Error::Build { program: program.key(), message })
            }
            _ => Ok(text),
        }
    }

    /// The kernels of a program, compiled at most once in a process and kept in the folder.
    fn library(&self, program: &Program) -> Result<&'static Library> {
        static LOADED: Mutex<Option<HashMap<(PathBuf, String), &'static Library>>> = Mutex::new(None);
        let text = self.text(program)?;
        let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let loaded = loaded.get_or_insert_default();
        let key = (self.folder.clone(), text);
        if let Some(library) = loaded.get(&key) {
            return Ok(library);
        }
        let failed = |message: String| Error::Build { program: program.key(), message };
        let path = self.compiled(&key.1).map_err(failed)?;
        // SAFETY: the file is what the compiler made of our text, in a folder that is ours. It has no initialisers.
        let library =
            unsafe { Library::new(path.as_path()) }.map_err(|error| failed(format!("{}: {error}", path.display())))?;
        let library = Box::leak(Box::new(library));
        loaded.insert(key, library);
        Ok(library)
    }

    /// The shared object of a text. Beside it lies the text, so that two with the same hash are told apart.
    fn compiled(&self, text: &str) -> std::result::Result<PathBuf, String> {
        const FLAGS: [&str; 6] = ["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-w"];
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let compiler =
            Self::compiler().ok_or("no C++ compiler: install one (Debian: apt-get install g++) or set CXX")?;
        let mut hasher = DefaultHasher::new();
        (text, compiler, FLAGS).hash(&mut hasher);
        let object = self.folder.join(format!("{:016x}.so", hasher.finish()));
        let source = object.with_extension("cpp");
        if object.is_file() && fs::read_to_string(&source).is_ok_and(|kept| kept == text) {
            return Ok(object);
        }
        let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(&self.folder).map_err(|error| at(&self.folder, error))?;
        // Written beside their places and renamed: other processes may be at the same.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let fresh = object.with_extension(format!("{}-{number}.cpp", std::process::id()));
        let made = fresh.with_extension("so");
        fs::write(&fresh, text).map_err(|error| at(&fresh, error))?;
        let output = Command::new(compiler).args(FLAGS).arg(&fresh).arg("-o").arg(&made).output();
        let output = output.map_err(|error| format!("{compiler}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{compiler}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        for (from, to) in [(&made, &object), (&fresh, &source)] {
            fs::rename(from, to).map_err(|error| at(to, error))?;
        }
        Ok(object)
    }
}

impl Machine for Emulator {
    type Buffer = HostBuffer;

    fn alloc(&self, dtype: Dtype, len: usize) -> Result<HostBuffer> {
        Ok(HostBuffer::poisoned(dtype, len))
    }

    fn len(&self, buffer: &HostBuffer) -> usize {
        buffer.len()
    }

    fn dtype(&self, buffer: &HostBuffer) -> Dtype {
        buffer.dtype()
    }

    fn is_aligned(&self, buffer: &HostBuffer) -> bool {
        buffer.is_aligned()
    }

    fn language(&self) -> Language {
        Language::Host
    }

    fn threads(&self) -> u32 {
        self.threads
    }

    fn blocks(&self) -> u32 {
        self.blocks
    }

    fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        grid: u32,
        args: &mut [Arg<'_, HostBuffer>],
    ) -> Result<()> {
        type Run = unsafe extern "C" fn(*mut *mut c_void, u32, u32, u64) -> i32;
        let failed = |message: String| Error::Launch { kernel, program: program.key(), message };
        let library = self.library(program)?;
        // SAFETY: `EXPORT` in kernels/prelude/host.h defines it with this signature.
        let run = unsafe { library.get::<Run>(format!("run_{kernel}").as_bytes()) };
        let run = run.map_err(|error| failed(error.to_string()))?;
        // As a CUDA launch takes them: the address of each argument.
        let mut values: Vec<u64> = args
            .iter_mut()
            .map(|arg| match arg {
                Arg::In(buffer) => buffer.address().expose_provenance() as u64,
                Arg::Out(buffer) => buffer.address_mut().expose_provenance() as u64,
                Arg::U32(value) => u64::from(*value),
                Arg::Real(value) if program.dtype == Dtype::F64 => value.to_bits(),
                Arg::Real(value) => u64::from((*value as f32).to_bits()),
            })
            .collect();
        let mut addresses: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        let order = match self.order {
            Order::Ascending => 0,
            Order::Descending => 1,
            Order::Shuffled(seed) => 2 + u64::from(seed),
        };
        // SAFETY: the arguments are the kernel's parameters by number and type, which is what the tests hold the plans
        // to; the buffers outlive the call. A kernel that reads or writes beyond one stays inside of its guards unless
        // it is far off.
        let fault = unsafe { run(addresses.as_mut_ptr(), grid, program.threads, order) };
        match fault {
            0 => {}
            1 => return Err(failed("threads of one block disagree about a barrier".to_string())),
            _ => return Err(failed("a wide access is not at a multiple of its bytes".to_string())),
        }
        for (index, arg) in args.iter().enumerate() {
            let intact = match arg {
                Arg::In(buffer) => buffer.is_intact(),
                Arg::Out(buffer) => buffer.is_intact(),
                Arg::U32(_) | Arg::Real(_) => true,
            };
            if !intact {
                return Err(failed(format!("argument {index} was written beyond its ends")));
            }
        }
        Ok(())
    }
}
