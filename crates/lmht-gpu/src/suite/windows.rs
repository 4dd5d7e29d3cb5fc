//! Pooling and im2col against loops over windows.

use crate::plans::pool::Windows;
use crate::plans::{im2col, pool};
use crate::{Dtype, HostBuffer, Machine};

use super::support::*;

/// Odd sizes; overlap, gaps, padding.
const CASES: [Windows; 3] = [
    Windows { images: 2, h: 5, w: 7, c: 3, kernel: 3, stride: 2, padding: 1 },
    Windows { images: 3, h: 6, w: 4, c: 2, kernel: 2, stride: 2, padding: 0 },
    Windows { images: 1, h: 8, w: 8, c: 5, kernel: 3, stride: 1, padding: 1 },
];

/// For every output pixel and place in its window: the input pixel, if there is one.
fn pixels(windows: &Windows) -> Vec<Vec<Option<usize>>> {
    let (h_out, w_out) = windows.output();
    let Windows { h, w, kernel, stride, padding, .. } = *windows;
    let mut all = Vec::new();
    for image in 0..windows.images {
        for (row, column) in (0..h_out).flat_map(|row| (0..w_out).map(move |column| (row, column))) {
            let place = |k: usize| {
                let y = (row * stride + k / kernel).checked_sub(padding).filter(|&y| y < h)?;
                let x = (column * stride + k % kernel).checked_sub(padding).filter(|&x| x < w)?;
                Some((image * h + y) * w + x)
            };
            all.push((0..kernel * kernel).map(place).collect());
        }
    }
    all
}

fn check_pool<M: Machine<Buffer = HostBuffer>>(m: &M, dtype: Dtype, tolerance: f64) -> Outcome {
    for windows in CASES {
        let (c, mut rng) = (windows.c, Rng(9));
        // Few values: ties in every window.
        let xs: Vec<f64> = rng.values(windows.n_in(), -2., 2.).iter().map(|x| x.floor()).collect();
        let grads = rounded(dtype, &rng.values(windows.pixels() * c, -0.5, 0.5));
        let area = (windows.kernel * windows.kernel) as f64;
        let (mut highest, mut best, mut mean) = (Vec::new(), Vec::new(), Vec::new());
        let (mut grad_max, mut grad_mean) = (vec![0.; xs.len()], vec![0.; xs.len()]);
        for (to, window) in pixels(&windows).iter().enumerate() {
            for channel in 0..c {
                let value = |pixel: usize| xs[pixel * c + channel];
                let there = || window.iter().enumerate().filter_map(|(k, pixel)| pixel.map(|pixel| (k, pixel)));
                let (mut place, mut from) = there().next().expect("a pixel");
                for (k, pixel) in there() {
                    if value(pixel) > value(from) {
                        (place, from) = (k, pixel);
                    }
                }
                highest.push(value(from));
                best.push(place as f64);
                mean.push(there().map(|(_, pixel)| value(pixel)).sum::<f64>() / area);
                grad_max[from * c + channel] += grads[to * c + channel];
                for (_, pixel) in there() {
                    grad_mean[pixel * c + channel] += grads[to * c + channel] / area;
                }
            }
        }
        let (x, g) = (HostBuffer::new(dtype, &xs), HostBuffer::new(dtype, &grads));
        let what = format!("of {windows:?} {dtype}");
        let (got, places) = ran(pool::max_forward(m, &windows, &x))?;
        near(&format!("maxima {what}"), &got.to_f64(), &highest, 0.)?;
        near(&format!("places {what}"), &places.to_f64(), &best, 0.)?;
        let got = ran(pool::max_backward(m, &windows, &g, &places))?;
        near(&format!("max gradient {what}"), &got.to_f64(), &grad_max, tolerance)?;
        let got = ran(pool::average_forward(m, &windows, &x))?;
        near(&format!("means {what}"), &got.to_f64(), &mean, tolerance)?;
        let got = ran(pool::average_backward(m, &windows, &g))?;
        near(&format!("mean gradient {what}"), &got.to_f64(), &grad_mean, tolerance)?;
    }
    Ok(())
}

fn check_columns<M: Machine<Buffer = HostBuffer>>(m: &M, dtype: Dtype, tolerance: f64) -> Outcome {
    for windows in CASES {
        let (c, mut rng) = (windows.c, Rng(9));
        let xs = rounded(dtype, &rng.values(windows.n_in(), -2., 2.));
        let window_len = windows.kernel * windows.kernel * c;
        let grads = rounded(dtype, &rng.values(windows.pixels() * window_len, -0.5, 0.5));
        let (mut columns, mut grad_xs) = (Vec::new(), vec![0.; xs.len()]);
        for pixel in pixels(&windows).iter().flatten() {
            for channel in 0..c {
                if let Some(from) = pixel {
                    grad_xs[from * c + channel] += grads[columns.len()];
                }
                columns.push(pixel.map_or(0., |from| xs[from * c + channel]));
            }
        }
        let what = format!("of {windows:?} {dtype}");
        let x = HostBuffer::new(dtype, &xs);
        for part in [0..windows.pixels(), 3..windows.pixels() - 1] {
            let got = ran(im2col::im2col(m, &windows, part.clone(), &x))?;
            let want = &columns[part.start * window_len..part.end * window_len];
            near(&format!("columns {part:?} {what}"), &got.to_f64(), want, 0.)?;
        }
        // Image by image, as a caller with little memory does.
        let mut got = HostBuffer::new(dtype, &vec![0.; xs.len()]);
        let image_len = windows.pixels() / windows.images * window_len;
        for image in 0..windows.images {
            let columns = HostBuffer::new(dtype, &grads[image * image_len..][..image_len]);
            ran(im2col::col2im(m, &windows, image..image + 1, &columns, &mut got))?;
        }
        near(&format!("gradient {what}"), &got.to_f64(), &grad_xs, tolerance)?;
    }
    Ok(())
}

pub(super) fn check_pooling<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_pool(m, Dtype::F64, 1e-11)
}

pub(super) fn check_im2col<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_columns(m, Dtype::F64, 1e-11)
}

/// Pooling in f32 and a 16-bit type.
pub(super) fn check_pooling_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_pool(m, Dtype::F32, 1e-6)?;
    check_pool(m, Dtype::F16, 1e-2)
}

/// im2col and col2im in f32 and a 16-bit type.
pub(super) fn check_im2col_f32<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    check_columns(m, Dtype::F32, 1e-6)?;
    check_columns(m, Dtype::F16, 1e-2)
}
