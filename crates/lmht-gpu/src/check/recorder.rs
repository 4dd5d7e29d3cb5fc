//! A [`Machine`] that runs nothing and writes down what a launcher would have compiled.

use std::cell::RefCell;

use crate::{Arg, Dtype, Language, Machine, Program, Result};

/// A type and a length.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) dtype: Dtype,
    pub(super) len: usize,
}

/// As large as a large GPU.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) programs: RefCell<Vec<Program>>,
}

impl Machine for Recorder {
    type Buffer = Outline;

    fn alloc(&self, dtype: Dtype, len: usize) -> Result<Outline> {
        Ok(Outline { dtype, len })
    }

    fn len(&self, buffer: &Outline) -> usize {
        buffer.len
    }

    fn dtype(&self, buffer: &Outline) -> Dtype {
        buffer.dtype
    }

    fn is_aligned(&self, _: &Outline) -> bool {
        true
    }

    fn language(&self) -> Language {
        Language::Cuda
    }

    fn blocks(&self) -> u32 {
        132 * 8
    }

    fn launch(&self, program: &Program, _: &'static str, _: u32, _: &mut [Arg<'_, Outline>]) -> Result<()> {
        let mut programs = self.programs.borrow_mut();
        if !programs.contains(program) {
            programs.push(program.clone());
        }
        Ok(())
    }
}
