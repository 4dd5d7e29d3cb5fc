//! A batch out of images that are bytes on the device, augmented and normalized (`kernels/gather.h`).

use super::shared::{count, elements, expect, grid, size};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation =
    Operation { name: "gather", texts: &[include_str!("../../kernels/gather.h")], kernels: &["gather"] };

/// Numbers that are chosen for an image of a batch, each a row of `choices`:
///
/// | row | |
/// |---|---|
/// | 0 | which image it is |
/// | 1, 2 | how many rows down and columns right of its place a pixel comes from; less than 0 wraps around at 2³² |
/// | 3 | not 0: right and left change places, after that |
/// | 4..8 | the first row that is 0, the one behind the last; columns likewise |
pub const CHOICES: usize = 8;

/// `[batch, h, w, c]`, in the type of the table: images of a batch out of `bytes` `[n, c, h, w]`, as `choices`
/// `[CHOICES, batch]` (u32) say, each byte by `table` `[c, 256]`. A pixel from beyond the image is a byte 0. An image that is
/// not there is not a number.
///
/// # Errors
/// An operand of another size or type; more than 2³¹ - 1 bytes or values.
pub fn gather<M: Machine>(
    m: &M,
    (c, h, w): (usize, usize, usize),
    bytes: &M::Buffer,
    choices: &M::Buffer,
    table: &M::Buffer,
) -> Result<M::Buffer> {
    let (dtype, len) = (elements(m, "gather: table", table)?, m.len(bytes));
    expect(m, "gather: table", table, dtype, 256 * c)?;
    expect(m, "gather: bytes", bytes, Dtype::U8, len)?;
    count("gather: bytes", len)?;
    let image = c * h * w;
    if image == 0 || !len.is_multiple_of(image) {
        return size("gather: bytes", format!("images [{c}, {h}, {w}]"), format!("{len} bytes"));
    }
    let batch = m.len(choices) / CHOICES;
    expect(m, "gather: choices", choices, Dtype::U32, CHOICES * batch)?;
    let n = count("gather: a batch", batch * image)?;
    let program = Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines: vec![] };
    let mut ys = m.alloc(dtype, n as usize)?;
    let mut args = vec![Arg::In(bytes), Arg::In(choices), Arg::In(table), Arg::Out(&mut ys), Arg::U32(n)];
    args.extend([len / image, batch, h, w, c].map(|size| Arg::U32(size as u32)));
    m.launch(&program, "gather", grid(m, n), &mut args)?;
    Ok(ys)
}
