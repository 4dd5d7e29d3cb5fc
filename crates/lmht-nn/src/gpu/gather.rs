//! Batches out of images that are bytes on the device: [`gather`].

use candle_core::{DType, Result, Tensor, bail};
use lmht_gpu::Machine;
use lmht_gpu::plans::gather::{self, CHOICES};

use super::kernel::flat;
use super::run::run;
use super::work::Work;

/// Images `[B, C, H, W]` in the type of `table`, moved, mirrored, cut out and normalized in one launch; in memory their
/// channels are last, as a network on a GPU reads them.
///
/// # Shapes
/// - `bytes` `[N, C, H, W]`, u8: all images
/// - `choices` `[8, B]`, u32: which image, rows down and columns right that a pixel comes from (wrapping below 0), whether it
///   is mirrored after that, first and last + 1 row of what is 0, columns likewise
/// - `table` `[C, 256]`: the value of each byte; that of 0 is the border's
///
/// # Errors
/// If shapes or types differ from these, or no kernel [`takes`](super::takes) the table.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lmht_nn::gpu;
///
/// # fn main() -> candle_core::Result<()> {
/// let bytes = Tensor::new(&[7u8, 8, 9], &Device::Cpu)?.reshape((1, 1, 1, 3))?;
/// let table = Tensor::arange(0f32, 256., &Device::Cpu)?.reshape((1, 256))?;
/// // A column from the right, and the last one cut out.
/// let choices = Tensor::new(&[0u32, 0, 1, 0, 0, 1, 2, 3], &Device::Cpu)?.reshape((8, 1))?;
/// let Some(images) = gpu::emulated(|| gpu::gather(&bytes, &choices, &table)) else { return Ok(()) };
/// assert_eq!(images?.flatten_all()?.to_vec1::<f32>()?, [8., 9., 0.]);
/// # Ok(()) }
/// ```
pub fn gather(bytes: &Tensor, choices: &Tensor, table: &Tensor) -> Result<Tensor> {
    let ((_, c, h, w), (n_choices, b)) = (bytes.dims4()?, choices.dims2()?);
    let types = (bytes.dtype(), choices.dtype());
    if types != (DType::U8, DType::U32) || n_choices != CHOICES || table.dims() != [c, 256] {
        bail!(
            "gather: expected bytes [N, {c}, {h}, {w}] of u8, choices [{CHOICES}, B] of u32 and a table [{c}, 256], got \
             {:?} of {:?}, {:?} of {:?} and {:?}",
            bytes.dims(),
            types.0,
            choices.dims(),
            types.1,
            table.dims()
        )
    }
    match run(&Gather((c, h, w)), &[table, bytes, choices])?.into_iter().next() {
        Some(images) => flat(images).reshape((b, h, w, c))?.permute((0, 3, 1, 2)),
        None => bail!("gather: no images; this is a bug of lmht-nn, please report it"),
    }
}

struct Gather((usize, usize, usize));

impl Work for Gather {
    fn run<M: Machine>(&self, m: &M, inputs: &[M::Buffer]) -> lmht_gpu::Result<Vec<M::Buffer>> {
        Ok(vec![gather::gather(m, self.0, &inputs[1], &inputs[2], &inputs[0])?])
    }
}
