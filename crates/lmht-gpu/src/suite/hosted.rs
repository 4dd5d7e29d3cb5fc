//! A device whose buffers are elsewhere, as a machine of host buffers: [`Hosted`].

use crate::{Arg, Dtype, HostBuffer, Language, Machine, Program, Result};

/// A [`Machine`] that copies from and to the host.
pub trait Device: Machine {
    /// A buffer with the elements of one of the host's.
    ///
    /// # Errors
    /// As the device has it.
    fn upload(&self, buffer: &HostBuffer) -> Result<Self::Buffer>;

    /// The bytes of a buffer, once everything launched before has run.
    ///
    /// # Errors
    /// As the device has it.
    fn download(&self, buffer: &Self::Buffer) -> Result<Vec<u8>>;
}

/// A [`Device`] that copies every operand of every launch there and back: slow, and the way to run [`super::checks`].
#[derive(Debug)]
pub struct Hosted<D>(pub D);

impl<D: Device> Machine for Hosted<D> {
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
        self.0.language()
    }

    fn threads(&self) -> u32 {
        self.0.threads()
    }

    fn blocks(&self) -> u32 {
        self.0.blocks()
    }

    fn launch(
        &self,
        program: &Program,
        kernel: &'static str,
        grid: u32,
        args: &mut [Arg<'_, HostBuffer>],
    ) -> Result<()> {
        let mut there = Vec::with_capacity(args.len());
        for arg in args.iter() {
            there.push(match arg {
                Arg::In(buffer) => Some(self.0.upload(buffer)?),
                Arg::Out(buffer) => Some(self.0.upload(buffer)?),
                Arg::U32(_) | Arg::Real(_) => None,
            });
        }
        let mut theirs: Vec<Arg<'_, D::Buffer>> = Vec::with_capacity(args.len());
        for (arg, buffer) in args.iter().zip(&mut there) {
            theirs.push(match (arg, buffer) {
                (Arg::Out(_), Some(buffer)) => Arg::Out(buffer),
                (_, Some(buffer)) => Arg::In(buffer),
                (Arg::Real(value), None) => Arg::Real(*value),
                (Arg::U32(value), None) => Arg::U32(*value),
                (Arg::In(_) | Arg::Out(_), None) => unreachable!("both were uploaded above"),
            });
        }
        self.0.launch(program, kernel, grid, &mut theirs)?;
        for (arg, buffer) in args.iter_mut().zip(&there) {
            if let (Arg::Out(host), Some(buffer)) = (arg, buffer) {
                host.set_bytes(&self.0.download(buffer)?);
            }
        }
        Ok(())
    }
}
