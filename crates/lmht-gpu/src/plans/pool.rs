//! Max and average pooling of maps `[images, h, w, c]` (`kernels/pool.h`).

use super::shared::{count, elements, expect, grid, size};
use crate::{Arg, Dtype, Machine, Operation, Program, Result};

pub(crate) const OPERATION: Operation = Operation {
    name: "pool",
    texts: &[include_str!("../../kernels/pool.h")],
    kernels: &["max_pool_forward", "max_pool_backward", "average_pool_forward", "average_pool_backward"],
};

/// Windows over maps `[images, h, w, c]`: of a pooling layer, or of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Images, timesteps included.
    pub images: usize,
    /// Height of the input.
    pub h: usize,
    /// Width of the input.
    pub w: usize,
    /// Channels of the input.
    pub c: usize,
    /// Height and width of a window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Pixels beyond each edge.
    pub padding: usize,
}

impl Windows {
    /// Height and width of the output.
    pub fn output(&self) -> (usize, usize) {
        let steps = |size: usize| (size + 2 * self.padding).saturating_sub(self.kernel) / self.stride.max(1) + 1;
        (steps(self.h), steps(self.w))
    }

    /// Values of the input.
    pub fn n_in(&self) -> usize {
        self.images * self.h * self.w * self.c
    }

    /// Output pixels of all images.
    pub fn pixels(&self) -> usize {
        let (h, w) = self.output();
        self.images * h * w
    }

    /// Checks the sizes.
    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        let fits = self.kernel <= (self.h.min(self.w)) + 2 * self.padding;
        if self.stride == 0 || self.kernel == 0 || !fits {
            let expected = "a stride above 0 and a window that fits in the padded map";
            return size(what, expected, format!("{self:?}"));
        }
        count(what, self.n_in())?;
        count(what, self.pixels() * self.c).map(|_| ())
    }

    pub(super) fn defines(&self) -> Vec<(&'static str, u32)> {
        vec![("KERNEL_SIZE", self.kernel as u32), ("STRIDE", self.stride as u32), ("PADDING", self.padding as u32)]
    }

    /// h, w, h_out, w_out, c, as the kernels take them.
    pub(super) fn sizes(&self) -> [u32; 5] {
        let (h_out, w_out) = self.output();
        [self.h, self.w, h_out, w_out, self.c].map(|size| size as u32)
    }
}

fn program<M: Machine>(m: &M, windows: &Windows, dtype: Dtype) -> Result<Program> {
    windows.check("pool")?;
    // A window beside the map has no maximum.
    if windows.padding >= windows.kernel {
        return size("pool: padding", format!("less than the kernel, {}", windows.kernel), windows.padding);
    }
    if windows.kernel > 15 {
        return size("pool: kernel", "at most 15, since a byte says which pixel was the maximum", windows.kernel);
    }
    Ok(Program { operation: OPERATION, dtype, width: 1, threads: m.threads(), defines: windows.defines() })
}

fn launch<'a, M: Machine>(
    m: &M,
    program: &Program,
    kernel: &'static str,
    windows: &Windows,
    buffers: Vec<Arg<'a, M::Buffer>>,
    n: usize,
) -> Result<()> {
    let n = n as u32;
    let mut args = buffers;
    args.push(Arg::U32(n));
    args.extend(windows.sizes().map(Arg::U32));
    m.launch(program, kernel, grid(m, n), &mut args)
}

/// The maxima, and for each the place of the first one in its window, a byte.
///
/// # Errors
/// An operand of another size or type; windows that do not fit.
pub fn max_forward<M: Machine>(m: &M, windows: &Windows, xs: &M::Buffer) -> Result<(M::Buffer, M::Buffer)> {
    let program = program(m, windows, elements(m, "pool: xs", xs)?)?;
    expect(m, "pool: xs", xs, program.dtype, windows.n_in())?;
    let n = windows.pixels() * windows.c;
    let (mut ys, mut best) = (m.alloc(program.dtype, n)?, m.alloc(Dtype::U8, n)?);
    let buffers = vec![Arg::In(xs), Arg::Out(&mut ys), Arg::Out(&mut best)];
    launch(m, &program, "max_pool_forward", windows, buffers, n)?;
    Ok((ys, best))
}

/// dLoss/dxs from dLoss/dys and the places that [`max_forward`] gave.
///
/// # Errors
/// As [`max_forward`].
pub fn max_backward<M: Machine>(m: &M, windows: &Windows, grad_ys: &M::Buffer, best: &M::Buffer) -> Result<M::Buffer> {
    let program = program(m, windows, elements(m, "pool: grad_ys", grad_ys)?)?;
    expect(m, "pool: grad_ys", grad_ys, program.dtype, windows.pixels() * windows.c)?;
    expect(m, "pool: best", best, Dtype::U8, windows.pixels() * windows.c)?;
    let mut grad_xs = m.alloc(program.dtype, windows.n_in())?;
    let buffers = vec![Arg::In(grad_ys), Arg::In(best), Arg::Out(&mut grad_xs)];
    launch(m, &program, "max_pool_backward", windows, buffers, windows.n_in())?;
    Ok(grad_xs)
}

/// The means over whole windows, padding included as zeros.
///
/// # Errors
/// As [`max_forward`].
pub fn average_forward<M: Machine>(m: &M, windows: &Windows, xs: &M::Buffer) -> Result<M::Buffer> {
    let program = program(m, windows, elements(m, "pool: xs", xs)?)?;
    expect(m, "pool: xs", xs, program.dtype, windows.n_in())?;
    let n = windows.pixels() * windows.c;
    let mut ys = m.alloc(program.dtype, n)?;
    launch(m, &program, "average_pool_forward", windows, vec![Arg::In(xs), Arg::Out(&mut ys)], n)?;
    Ok(ys)
}

/// dLoss/dxs of [`average_forward`].
///
/// # Errors
/// As [`max_forward`].
pub fn average_backward<M: Machine>(m: &M, windows: &Windows, grad_ys: &M::Buffer) -> Result<M::Buffer> {
    let program = program(m, windows, elements(m, "pool: grad_ys", grad_ys)?)?;
    expect(m, "pool: grad_ys", grad_ys, program.dtype, windows.pixels() * windows.c)?;
    let mut grad_xs = m.alloc(program.dtype, windows.n_in())?;
    let buffers = vec![Arg::In(grad_ys), Arg::Out(&mut grad_xs)];
    launch(m, &program, "average_pool_backward", windows, buffers, windows.n_in())?;
    Ok(grad_xs)
}
