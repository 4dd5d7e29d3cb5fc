//! What the choice between the kernels of a convolution gains, or costs: every kernel beside the faster dense one.
//!
//! A round runs each kernel once, one right after the other, in an order that turns with every round; what is printed is
//! the median of the quotients within rounds, with their quartiles. Spikes are at random, one timestep, so that a share of
//! spikes is a share of changes, too.

use std::hint::black_box;
use std::time::Instant;

use lmht_kernels::measured::{Convolution, Kernel, Pass, Sizes};

use super::ratio::quartiles;
use super::{quick, random};

const ROUNDS: usize = 15;
/// Spikes a unit, and wanted gradients.
const SHARES: [f64; 7] = [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8];
/// Channels, side, kernel, stride: the convolutions of ResNet-18 at width 64, and narrow ones.
const LAYERS: [(usize, usize, usize, usize, usize); 10] = [
    (64, 64, 32, 3, 1),
    (64, 128, 32, 3, 2),
    (128, 128, 16, 3, 1),
    (128, 256, 16, 3, 2),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
    (64, 128, 32, 1, 2),
    (256, 512, 8, 1, 2),
    (32, 32, 16, 3, 1),
    (16, 16, 32, 3, 1),
];
const PASSES: [(Pass, &str); 3] =
    [(Pass::Forward, "forward"), (Pass::GradWeight, "weight gradient"), (Pass::GradInput, "input gradient")];

/// Prints a table of quotients, times of the faster dense kernel over times of the others; above 1 the other is faster.
pub(crate) fn report() {
    let (rounds, maps) = if quick() { (1, 2) } else { (ROUNDS, 128) };
    println!(
        "\nchoices: {maps} maps, f32, {rounds} rounds; dense time over a kernel's, median and quartiles; [chosen]"
    );
    let mut lowest: Option<(f64, String)> = None;
    for (c_in, c_out, side, kernel, stride) in LAYERS {
        for share in SHARES {
            let sizes = Sizes { maps, c_in, c_out, side, kernel, stride };
            let mut state = 1;
            let mut convolution = Convolution::new(sizes, share, || (random(&mut state) >> 32) as u32);
            for (pass, name) in PASSES {
                let (chosen, kernels) = convolution.kernels(pass);
                let times = measure(&mut convolution, pass, &kernels, rounds);
                let [_, dense, _] = quartiles(times.iter().map(|times| times[0]).collect());
                let what = format!("{c_in} to {c_out}, {side}x{side}, k{kernel} s{stride}, {name}, {share}");
                let mut line = format!("{what}: {} {:.0} GFLOP/s", kernels[0], convolution.flop() / dense / 1e9);
                for (i, kernel) in kernels.iter().enumerate() {
                    let [low, median, high] = quartiles(times.iter().map(|times| times[0] / times[i]).collect());
                    let text = format!("{kernel} {median:.2} ({low:.2} .. {high:.2})");
                    match (i, *kernel == chosen) {
                        (0, true) => line += " [chosen]",
                        (0, false) => {}
                        (_, true) => line += &format!(", [{text}]"),
                        (_, false) => line += &format!(", {text}"),
                    }
                    if *kernel == chosen && lowest.as_ref().is_none_or(|(lowest, _)| median < *lowest) {
                        lowest = Some((median, what.clone()));
                    }
                }
                println!("{line}");
            }
        }
    }
    if let Some((lowest, what)) = lowest {
        println!("lowest quotient of a chosen kernel: {lowest:.2}, {what}");
    }
}

/// Seconds of every kernel, round by round; the first round warms up.
fn measure(convolution: &mut Convolution, pass: Pass, kernels: &[Kernel], rounds: usize) -> Vec<Vec<f64>> {
    let mut times = vec![vec![0.; kernels.len()]; rounds + 1];
    for (round, times) in times.iter_mut().enumerate() {
        for i in 0..kernels.len() {
            let which = (i + round) % kernels.len();
            let start = Instant::now();
            black_box(&mut *convolution).run(pass, kernels[which]);
            times[which] = start.elapsed().as_secs_f64();
        }
    }
    times.split_off(1)
}
