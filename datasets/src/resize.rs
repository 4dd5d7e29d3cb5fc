//! Antialiased bilinear interpolation of bytes, as PIL computes it.
//!
//! A crop is resized at every step of training, and the published recipes do it in PIL's whole numbers: weights of 22 bits,
//! bytes between the two directions, the horizontal one first. (PIL 13 takes the vertical one first for some sizes, which
//! moves some bytes by one.) The `image` crate, which decodes, resizes in floating point: some bytes are off by one,
//! and it takes much longer.

/// Bits behind the point of a weight: a byte's 8 and two to spare fit beside them into 32.
const BITS: u32 = 22;

/// The input values of one output value, from `first` on, with their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Brings the planes of an image from (h, w) to another size: `[C, h, w]` to `[C, to.0, to.1]`, each side at least 1.
pub(crate) fn resize(image: &[u8], (h, w): (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let (rows, columns) = (taps(h, to.0), taps(w, to.1));
    let mut resized = Vec::with_capacity(image.len() / (h * w) * to.0 * to.1);
    let mut narrow = vec![0; h * to.1];
    let mut sums = vec![0; to.1];
    for plane in image.chunks_exact(h * w) {
        for (row, narrow) in plane.chunks_exact(w).zip(narrow.chunks_exact_mut(to.1)) {
            for (out, Taps { first, weights }) in narrow.iter_mut().zip(&columns) {
                let products = row[*first..].iter().zip(weights).map(|(x, weight)| i32::from(*x) * weight);
                *out = byte(HALF + products.sum::<i32>());
            }
        }
        for Taps { first, weights } in &rows {
            sums.fill(HALF);
            for (row, weight) in narrow.chunks_exact(to.1).skip(*first).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += i32::from(*x) * weight);
            }
            resized.extend(sums.iter().map(|sum| byte(*sum)));
        }
    }
    resized
}

const HALF: i32 = 1 << (BITS - 1);

fn byte(sum: i32) -> u8 {
    // Weights are not negative and add up to one; rounding could make it 256.
    (sum >> BITS).clamp(0, 255) as u8
}

/// [`resize`] of numbers, as PyTorch's `interpolate` with `antialias` computes it.
pub(crate) fn resize_f32(image: &[f32], (h, w): (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let (rows, columns) = (triangles(h, to.0), triangles(w, to.1));
    let mut resized = Vec::with_capacity(image.len() / (h * w) * to.0 * to.1);
    for plane in image.chunks_exact(h * w) {
        let mut narrow = Vec::with_capacity(h * to.1);
        for row in plane.chunks_exact(w) {
            let sum = |(first, weights): &(usize, Vec<f64>)| -> f32 {
                row[*first..].iter().zip(weights).map(|(x, weight)| x * *weight as f32).sum()
            };
            narrow.extend(columns.iter().map(sum));
        }
        for (first, weights) in &rows {
            let sum = |x: usize| -> f32 {
                weights.iter().enumerate().map(|(i, weight)| narrow[(first + i) * to.1 + x] * *weight as f32).sum()
            };
            resized.extend((0..to.1).map(sum));
        }
    }
    resized
}

fn taps(from: usize, to: usize) -> Vec<Taps> {
    let fixed = |weight: &f64| (weight * f64::from(1 << BITS) + 0.5) as i32;
    let tap = |(first, weights): (usize, Vec<f64>)| Taps { first, weights: weights.iter().map(fixed).collect() };
    triangles(from, to).into_iter().map(tap).collect()
}

/// For each of `to` values those of `from` values under a triangle around its centre, from which on and how much: one value
/// wide on either side, or as wide as the ratio if the image shrinks.
fn triangles(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let ratio = from as f64 / to as f64;
    let reach = ratio.max(1.0);
    let tap = |index: usize| {
        let centre = (index as f64 + 0.5) * ratio;
        // A conversion cuts off at 0.
        let first = (centre - reach + 0.5) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let triangle = |x: usize| (1.0 - ((x as f64 - centre + 0.5) / reach).abs()).max(0.0);
        let weights: Vec<f64> = (first..end).map(triangle).collect();
        let sum: f64 = weights.iter().sum();
        (first, weights.iter().map(|weight| weight / sum).collect())
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Half the width: the triangle of 2 on either side weighs four values 1, 3, 3, 1; at an end, where one is
        // missing, 3, 3, 1. (3·0 + 3·7 + 1·14) / 7 = 5 and (1·7 + 3·14 + 3·21) / 7 = 16.
        assert_eq!(resize(&[0, 7, 14, 21], (1, 4), (1, 2)), [5, 16]);
        // Twice the width: quarters between neighbours, the ends as they are.
        assert_eq!(resize(&[0, 100], (1, 2), (1, 4)), [0, 25, 75, 100]);
        assert_eq!(resize(&[0, 100], (2, 1), (4, 1)), [0, 25, 75, 100]);
        assert_eq!(resize(&[1, 2, 3, 4, 5, 6], (1, 3), (1, 3)), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn numbers_have_the_same_weights() {
        assert!(
            resize_f32(&[0., 7., 14., 21.], (1, 4), (1, 2)).iter().zip([5., 16.]).all(|(a, b)| (a - b).abs() < 1e-5)
        );
        assert_eq!(resize_f32(&[0., 100.], (2, 1), (4, 1)), [0., 25., 75., 100.]);
    }

    #[test]
    fn a_constant_stays_and_nothing_leaves_the_range() {
        for (from, to) in [((1, 1), (5, 7)), ((9, 4), (3, 3)), ((2, 30), (7, 1)), ((64, 64), (64, 63))] {
            for value in [0, 1, 128, 255] {
                let resized = resize(&vec![value; 3 * from.0 * from.1], from, to);
                assert_eq!(resized, vec![value; 3 * to.0 * to.1], "{from:?} to {to:?}");
            }
        }
    }
}
