//! The kernels of a convolution, each by its name, for the benchmark that holds the choice between them against the dense
//! ones.
//!
//! No interface: what is here may change in any version.

use super::choice::{self, Path};
use super::{ConvShape, Images, amx, dense, winograd};
use std::fmt;

/// What a convolution computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The forward pass.
    Forward,
    /// The weight gradient.
    GradWeight,
    /// The input gradient.
    GradInput,
}

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Path);

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Path::Direct => "direct",
            Path::Winograd => "Winograd",
            Path::Spikes => "spikes",
            Path::Matrix(_) => "matrix unit",
            Path::Grouped => "grouped",
        })
    }
}

/// Sizes of a convolution of `maps` square maps, padded by half of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Images times timesteps.
    pub maps: usize,
    /// Channels of the input.
    pub c_in: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Height and width of the input.
    pub side: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
}

impl Sizes {
    fn shape(self) -> ConvShape {
        let Self { maps: n, c_in, c_out, side, kernel: k, stride } = self;
        let padding = k / 2;
        let out = (side + 2 * padding - k) / stride + 1;
        ConvShape { n, c_in, h: side, w: side, c_out, k, stride, padding, groups: 1, h_out: out, w_out: out }
    }
}

/// Numbers in -0.5..0.5.
fn numbers(len: usize, mut random: impl FnMut() -> u32) -> Vec<f32> {
    (0..len).map(|_| random() as f32 * 2_f32.powi(-32) - 0.5).collect()
}

/// What a convolution has beside its input: weights, output gradients, and room for what each pass gives.
#[derive(Debug)]
struct Operands {
    shape: ConvShape,
    weight: Vec<f32>,
    grads: Vec<f32>,
    ys: Vec<f32>,
    dxs: Vec<f32>,
    dweight: Vec<f32>,
}

impl Operands {
    fn new(shape: ConvShape, mut random: impl FnMut() -> u32) -> Self {
        Self {
            weight: numbers(shape.weight_len(), &mut random),
            grads: numbers(shape.y_len(), random),
            ys: vec![0.; shape.y_len()],
            dxs: vec![0.; shape.x_len()],
            dweight: vec![0.; shape.weight_len()],
            shape,
        }
    }
}

/// A convolution in f32 of one timestep of spikes, packing of the weights included, as a training step runs it.
#[derive(Debug)]
pub struct Convolution {
    share: f64,
    /// Count 1 in the low bits of a share of the units; the top bit, "gradient wanted", in as many others.
    spikes: Vec<u8>,
    rest: Operands,
}

impl Convolution {
    /// With spikes in a `share` of the inputs; `random` gives numbers of 32 bits.
    pub fn new(sizes: Sizes, share: f64, mut random: impl FnMut() -> u32) -> Self {
        let shape = sizes.shape();
        let mut below = |share: f64| f64::from(random()) < share * 2_f64.powi(32);
        let spikes = (0..shape.x_len()).map(|_| u8::from(below(share)) | u8::from(below(share)) << 7).collect();
        Self { share, spikes, rest: Operands::new(shape, random) }
    }

    /// Operations of the dense convolution, a multiply-accumulate counted as two.
    pub fn flop(&self) -> f64 {
        let s = &self.rest.shape;
        2. * (s.y_len() * s.c_in * s.k * s.k) as f64
    }

    /// The kernel that a network takes, and all that there are on this processor, the faster of the dense ones first.
    pub fn kernels(&self, pass: Pass) -> (Kernel, Vec<Kernel>) {
        let s = &self.rest.shape;
        let chosen = match pass {
            Pass::Forward => choice::forward::<f32>(s, s.n, self.share),
            Pass::GradWeight => choice::grad_weight::<f32>(s, self.share),
            Pass::GradInput => choice::grad_input(s, self.share),
        };
        let dense = match pass {
            Pass::GradWeight => choice::dense_grad_weight(s),
            Pass::Forward | Pass::GradInput => choice::dense(s),
        };
        let mut all = vec![dense];
        if winograd::fits(s) {
            all.extend([Path::Direct, Path::Winograd].into_iter().filter(|&path| path != dense));
        }
        all.push(Path::Spikes);
        let unit = match pass {
            Pass::Forward => amx::forward_unit::<f32>(s),
            Pass::GradWeight => amx::grad_weight_unit::<f32>(s),
            Pass::GradInput => None,
        };
        all.extend(unit.map(Path::Matrix));
        (Kernel(chosen), all.into_iter().map(Kernel).collect())
    }

    /// Runs a kernel of [`kernels`](Self::kernels).
    pub fn run(&mut self, pass: Pass, Kernel(path): Kernel) {
        let Self { spikes, rest: Operands { shape: s, weight, grads, ys, dxs, dweight }, .. } = self;
        match (pass, path) {
            (_, Path::Grouped) => unreachable!("sizes have no groups"),
            (Pass::Forward, Path::Direct) => dense::forward(s, spikes, weight, ys),
            (Pass::Forward, Path::Winograd) => winograd::forward(s, spikes, &winograd::Weights::new(s, weight), ys),
            (Pass::Forward, Path::Spikes) => super::spikes::forward(s, &Images::all(1, s.n), spikes, weight, ys),
            (Pass::Forward, Path::Matrix(unit)) => amx::forward(unit, s, spikes, &amx::Weights::new(s, weight), ys),
            (Pass::GradWeight, Path::Direct) => dense::grad_weight(s, spikes, grads, dweight),
            (Pass::GradWeight, Path::Winograd) => winograd::grad_weight(s, spikes, grads, dweight),
            (Pass::GradWeight, Path::Spikes) => super::spikes::grad_weight(s, spikes, grads, dweight),
            (Pass::GradWeight, Path::Matrix(unit)) => amx::grad_weight(unit, s, spikes, grads, dweight),
            (Pass::GradInput, Path::Winograd) => {
                winograd::grad_input(s, grads, &winograd::Weights::flipped(s, weight), dxs);
            }
            (Pass::GradInput, Path::Spikes) => super::spikes::grad_input(s, grads, weight, spikes, dxs),
            (Pass::GradInput, Path::Direct | Path::Matrix(_)) => dense::grad_input(s, grads, weight, dxs),
        }
    }
}
