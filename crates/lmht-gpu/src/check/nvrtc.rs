//! NVRTC and ptxas out of NVIDIA's Python wheels: what CUDA makes of the texts, without a GPU.
// NVRTC is a C library.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};

use libloading::{Library, Symbol};

use crate::{Dtype, Language, Program};

/// What is looked for below the folder of the wheels.
pub(super) struct Nvrtc {
    library: Library,
    ptxas: PathBuf,
}

impl Nvrtc {
    /// The compilers below `folder`, or what is missing.
    pub(super) fn find(folder: &Path) -> Result<Self, String> {
        let missing = |what: &str| format!("no {what} below {}", folder.display());
        let library =
            find_file(folder, |name| name.starts_with("libnvrtc.so")).ok_or_else(|| missing("libnvrtc.so"))?;
        let ptxas = find_file(folder, |name| name == "ptxas").ok_or_else(|| missing("ptxas"))?;
        // NVRTC opens this one by its name alone, which finds it once it is loaded.
        if let Some(builtins) = find_file(folder, |name| name.starts_with("libnvrtc-builtins.so")) {
            // SAFETY: as below.
            std::mem::forget(unsafe { Library::new(builtins.as_path()) }.map_err(|error| error.to_string())?);
        }
        // SAFETY: the library is NVIDIA's, from the folder that the caller named; its initialisers touch nothing of
        // ours.
        let library = unsafe { Library::new(library.as_path()) }.map_err(|error| error.to_string())?;
        Ok(Self { library, ptxas })
    }

    /// Compiles a program and says, a line for each kernel, how many registers it takes and what it spills.
    pub(super) fn check(&self, program: &Program, scratch: &Path) -> Result<Vec<String>, String> {
        let text = program.source(Language::Cuda).map_err(|error| error.to_string())?;
        let made = self.ptx(&text)?;
        if program.dtype != Dtype::F64 && String::from_utf8_lossy(&made).contains(".f64") {
            return Err("f64 arithmetic in a program of another type: slow, and rounded otherwise".to_string());
        }
        let ptx = scratch.join(format!("{}.ptx", program.key()));
        fs::write(&ptx, made).map_err(|error| format!("{}: {error}", ptx.display()))?;
        let arguments = ["-v", "-arch=sm_90", "-o", "/dev/null"];
        let output = Command::new(&self.ptxas).args(arguments).arg(&ptx).output();
        let output = output.map_err(|error| format!("{}: {error}", self.ptxas.display()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let _ = fs::remove_file(&ptx);
        if output.status.success() { Ok(kernels(&said)) } else { Err(said) }
    }

    /// PTX for compute capability 8.0 and newer.
    fn ptx(&self, text: &str) -> Result<Vec<u8>, String> {
        type Create = unsafe extern "C" fn(
            *mut *mut c_void,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;

        let text = CString::new(text).map_err(|error| error.to_string())?;
        let options = [c"--gpu-architecture=compute_80", c"--fmad=false", c"-default-device"].map(CStr::as_ptr);
        let mut program = null_mut();
        // SAFETY: the signatures are those of nvrtc.h. `program` is made first, is handed to nobody else and destroyed
        // last; the text and the options outlive the calls.
        unsafe {
            let create: Symbol<'_, Create> = self.symbol(b"nvrtcCreateProgram")?;
            let compile: Symbol<'_, Compile> = self.symbol(b"nvrtcCompileProgram")?;
            let destroy: Symbol<'_, Destroy> = self.symbol(b"nvrtcDestroyProgram")?;
            let made = create(&mut program, text.as_ptr(), c"lmht.cu".as_ptr(), 0, null(), null());
            if made != 0 {
                return Err(format!("nvrtcCreateProgram: {made}"));
            }
            let compiled = compile(program, options.len() as c_int, options.as_ptr());
            let result = if compiled == 0 {
                self.bytes(program, b"nvrtcGetPTXSize", b"nvrtcGetPTX")
            } else {
                let log = self.bytes(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog");
                Err(log.map_or_else(|error| error, |log| String::from_utf8_lossy(&log).into_owned()))
            };
            destroy(&mut program);
            result
        }
    }

    /// Text of a program, by a function that gives its size and one that gives it, without the 0 at its end.
    ///
    /// # Safety
    /// `program` is one of NVRTC's, and the functions are of the kind `nvrtcGetPTXSize` and `nvrtcGetPTX`.
    unsafe fn bytes(&self, program: *mut c_void, size: &[u8], get: &[u8]) -> Result<Vec<u8>, String> {
        type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
        let mut len = 0;
        // SAFETY: as the caller promises; the second function writes as many bytes as the first one said.
        let (code, bytes) = unsafe {
            self.symbol::<Size>(size)?(program, &mut len);
            let mut bytes = vec![0u8; len];
            (self.symbol::<Get>(get)?(program, bytes.as_mut_ptr().cast()), bytes)
        };
        if code != 0 {
            return Err(format!("{}: {code}", String::from_utf8_lossy(get)));
        }
        Ok(bytes.into_iter().take_while(|&byte| byte != 0).collect())
    }

    /// # Safety
    /// `T` is the type of the function.
    unsafe fn symbol<T>(&self, name: &[u8]) -> Result<Symbol<'_, T>, String> {
        // SAFETY: as the caller promises.
        unsafe { self.library.get(name) }.map_err(|error| error.to_string())
    }
}

/// The first file below `folder` whose name is wanted.
fn find_file(folder: &Path, wanted: fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    let named = |path: &&PathBuf| path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(wanted);
    let here = entries.iter().find(named).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find_file(path, wanted)))
}

/// `kernel: registers, spilled bytes` of what `ptxas -v` says.
fn kernels(said: &str) -> Vec<String> {
    let number_before = |line: &str, what: &str| -> u64 {
        let before = line.split(what).next().unwrap_or_default();
        before.rsplit([' ', ',']).find_map(|word| word.parse().ok()).unwrap_or(0)
    };
    let (mut lines, mut name, mut spilled) = (Vec::new(), String::new(), 0);
    for line in said.lines() {
        if let Some(rest) = line.split("Function properties for ").nth(1) {
            name = rest.trim().to_string();
        } else if line.contains("bytes spill stores") {
            spilled = number_before(line, " bytes spill stores");
        } else if line.contains("registers") {
            lines.push(format!("{name}: {} registers, {spilled} bytes spilled", number_before(line, " registers")));
        }
    }
    lines
}
