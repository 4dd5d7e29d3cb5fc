//! Batches of images against a loop.

use crate::plans::gather::{CHOICES, gather};
use crate::{Dtype, HostBuffer, Machine};

use super::support::*;

/// What is chosen for an image: as the rows of `choices`, but signed.
type Choice = [i64; CHOICES];

fn check_as<M: Machine<Buffer = HostBuffer>>(m: &M, dtype: Dtype) -> Outcome {
    for (c, h, w) in [(3, 5, 7), (1, 4, 4)] {
        let (n, mut rng) = (6, Rng(11));
        let bytes: Vec<f64> = rng.values(n * c * h * w, 0., 256.).iter().map(|x| x.floor()).collect();
        let table = rounded(dtype, &rng.values(256 * c, -2., 2.));
        let nothing = [0; 4];
        // Moves by some pixels and by all of them, cuts in the middle, at the borders and of nothing, one image twice.
        let moved =
            [[0, 0, 0, 0], [2, 1, -1, 0], [2, -2, 3, 1], [5, 0, 0, 1], [4, h as i64, 0, 0], [3, 0, -(w as i64), 1]];
        let cuts = [nothing, [1, 3, 2, 4], [0, h as i64, 0, 1], [h as i64 - 1, h as i64, 1, w as i64], [2, 2, 0, 3]];
        let choices: Vec<Choice> = (0..moved.len() * cuts.len())
            .map(|i| {
                let (moved, cut) = (moved[i % moved.len()], cuts[i / moved.len()]);
                std::array::from_fn(|k| if k < 4 { moved[k] } else { cut[k - 4] })
            })
            .collect();
        let pixel = |image: i64, channel: usize, row: i64, column: i64| {
            let is_there = (0..h as i64).contains(&row) && (0..w as i64).contains(&column);
            let at = ((image as usize * c + channel) * h + row as usize % h) * w + column as usize % w;
            if is_there { bytes[at] as usize } else { 0 }
        };
        let mut want = Vec::new();
        for [image, down, right, flip, top, bottom, left, end] in &choices {
            for (y, x) in (0..h as i64).flat_map(|y| (0..w as i64).map(move |x| (y, x))) {
                let is_cut = (*top..*bottom).contains(&y) && (*left..*end).contains(&x);
                let from = if *flip == 1 { w as i64 - 1 - x } else { x };
                want.extend((0..c).map(|channel| match is_cut {
                    true => 0.,
                    false => table[channel * 256 + pixel(*image, channel, y + down, from + right)],
                }));
            }
        }
        let rows = |choices: &[Choice]| -> HostBuffer {
            let wrapped = |k| choices.iter().map(move |choice: &Choice| f64::from(choice[k] as u32));
            HostBuffer::new(Dtype::U32, &(0..CHOICES).flat_map(wrapped).collect::<Vec<f64>>())
        };
        let run = |choices: &[Choice]| {
            let (bytes, table) = (HostBuffer::new(Dtype::U8, &bytes), HostBuffer::new(dtype, &table));
            ran(gather(m, (c, h, w), &bytes, &rows(choices), &table))
        };
        let what = format!("gather of [{n}, {c}, {h}, {w}] {dtype}");
        near(&what, &run(&choices)?.to_f64(), &want, 0.)?;
        let beyond = run(&[[n as i64, 0, 0, 0, 0, 0, 0, 0]])?.to_f64();
        if !beyond.iter().all(|x| x.is_nan()) {
            return Err(format!("{what}: an image that is not there is {beyond:?}"));
        }
    }
    Ok(())
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_as(m, Dtype::F64)
}

/// In f32 and the 16-bit types.
pub(super) fn check_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    [Dtype::F32, Dtype::F16, Dtype::Bf16].into_iter().try_for_each(|dtype| check_as(m, dtype))
}
