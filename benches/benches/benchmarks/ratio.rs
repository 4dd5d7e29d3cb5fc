//! How many copies of its bytes a neuron takes, from pairs measured in turns.
//!
//! The neuron is bound by memory: forward reads x and writes y, backward reads x and dLoss/dy and writes dLoss/dx. A
//! round measures that copy and each way of running the neuron, one right after the other, in an order that turns with
//! every round; what is printed is the median of the quotients within rounds, with their quartiles. Load from elsewhere
//! then hits both sides alike.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::neuron::{Op, Slices, shape};
use super::{Result, Traffic, quick};

/// Pairs whose median is taken.
const ROUNDS: usize = 60;

/// What is measured in a round, in this order.
const NAMES: [&str; 5] = [
    "copy",
    "core: slices, no allocation",
    "op: forward + backward through Candle",
    "of that, Candle: ones, zeros, add",
    "op: forward alone",
];

/// Prints a table for T = 2 and T = 4.
pub(crate) fn report() {
    run().expect("the ratios are of valid inputs");
}

fn run() -> Result<()> {
    let rounds = if quick() { 2 } else { ROUNDS };
    for timesteps in [2, 4] {
        let shape = shape(timesteps);
        let len = shape.iter().product();
        let (mut traffic, mut ys) = (Traffic::new(len), vec![1.; len]);
        let mut slices = Slices::new(timesteps, len);
        let op = Op::new(timesteps, &shape)?;
        let mut measure = |what: usize| -> Result<Duration> {
            let start = Instant::now();
            match what {
                0 => traffic.neuron(&mut ys),
                1 => {
                    slices.forward();
                    slices.backward();
                }
                2 => drop(black_box(op.step()?)),
                3 => op.candle_part()?,
                _ => drop(black_box(op.forward()?)),
            }
            Ok(start.elapsed())
        };
        let mut times = vec![[0.; NAMES.len()]; rounds];
        // The first round warms up.
        for round in 0..=rounds {
            for i in 0..NAMES.len() {
                let what = (i + round) % NAMES.len();
                let seconds = measure(what)?.as_secs_f64();
                if let Some(times) = round.checked_sub(1).and_then(|round| times.get_mut(round)) {
                    times[what] = seconds;
                }
            }
        }

        println!("\nratio: neuron L2T{timesteps} {shape:?} f32 to a copy of its bytes, {rounds} rounds");
        println!("{:<42} {:>9} {:>7} {:>16}", "", "median ms", "ratio", "quartiles");
        let row = |name: &str, of: &dyn Fn(&[f64; NAMES.len()]) -> f64| {
            let [_, ms, _] = quartiles(times.iter().map(|times| 1e3 * of(times)).collect());
            let [low, ratio, high] = quartiles(times.iter().map(|times| of(times) / times[0]).collect());
            println!("{name:<42} {ms:>9.2} {ratio:>7.2} {low:>7.2} .. {high:.2}");
        };
        for (what, name) in NAMES.iter().enumerate() {
            row(name, &|times| times[what]);
        }
        row("op without what Candle adds", &|times| times[2] - times[3]);
    }
    Ok(())
}

/// Lower quartile, median, upper quartile.
pub(super) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
