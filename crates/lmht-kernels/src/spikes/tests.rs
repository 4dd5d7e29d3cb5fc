//! Against a loop over the definition, and across numbers of threads.
use super::*;
use crate::{ConvShape, Images};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    fn number(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.
    }

    fn numbers<T: Number>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::from_f64(self.number())).collect()
    }

    fn chance(&mut self, p: f64) -> bool {
        (self.bits() >> 11) as f64 / ((1u64 << 53) as f64) < p
    }

    /// Counts of 1..=levels with this share, top bits with that.
    fn spikes(&mut self, n: usize, density: f64, levels: u64, wanted: f64) -> Vec<u8> {
        (0..n)
            .map(|_| {
                let count = if self.chance(density) { 1 + (self.bits() % levels) as u8 } else { 0 };
                count | if self.chance(wanted) { 0x80 } else { 0 }
            })
            .collect()
    }
}

fn shape(
    n: usize,
    c_in: usize,
    (h, w): (usize, usize),
    c_out: usize,
    k: usize,
    stride: usize,
    padding: usize,
) -> Option<ConvShape> {
    let out = |size: usize| Some((size + 2 * padding).checked_sub(k)? / stride + 1);
    Some(ConvShape { n, c_in, h, w, c_out, k, stride, padding, groups: 1, h_out: out(h)?, w_out: out(w)? })
}

/// Calls `f` with (output, input, weight) indices of every product.
fn products(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    for n in 0..s.n {
        for y in 0..s.h_out {
            for x in 0..s.w_out {
                for ky in 0..s.k {
                    for kx in 0..s.k {
                        let (Some(iy), Some(ix)) =
                            ((y * s.stride + ky).checked_sub(s.padding), (x * s.stride + kx).checked_sub(s.padding))
                        else {
                            continue;
                        };
                        if iy >= s.h || ix >= s.w {
                            continue;
                        }
                        for i in 0..s.c_in {
                            let input = ((n * s.h + iy) * s.w + ix) * s.c_in + i;
                            for o in 0..s.c_out {
                                let output = ((n * s.h_out + y) * s.w_out + x) * s.c_out + o;
                                f(output, input, ((o * s.c_in + i) * s.k + ky) * s.k + kx);
                            }
                        }
                    }
                }
            }
        }
    }
}

struct Case<T> {
    s: ConvShape,
    images: Images,
    spikes: Vec<u8>,
    weight: Vec<T>,
    grads: Vec<T>,
}

impl<T: Number> Case<T> {
    fn new(s: ConvShape, seed: u64, density: f64, levels: u64, wanted: f64) -> Self {
        let mut random = Random(seed);
        Self {
            spikes: random.spikes(s.n * s.h * s.w * s.c_in, density, levels, wanted),
            weight: random.numbers(s.c_out * s.c_in * s.k * s.k),
            grads: random.numbers(s.n * s.h_out * s.w_out * s.c_out),
            images: {
                let timesteps = (1..=4).rev().find(|&t| s.n.is_multiple_of(t)).unwrap_or(1);
                Images::all(timesteps, s.n / timesteps)
            },
            s,
        }
    }

    /// Forward, weight gradient, input gradient. Buffers start with rubbish.
    fn fast(&self) -> [Vec<T>; 3] {
        let nan = T::from_f64(f64::NAN);
        let (mut ys, mut dweight) = (vec![nan; self.grads.len()], vec![nan; self.weight.len()]);
        let mut dxs = vec![nan; self.spikes.len()];
        forward(&self.s, &self.images, &self.spikes, &self.weight, &mut ys);
        grad_weight(&self.s, &self.spikes, &self.grads, &mut dweight);
        grad_input(&self.s, &self.grads, &self.weight, &self.spikes, &mut dxs);
        [ys, dweight, dxs]
    }

    /// The same and, for each result, the sum of the products' magnitudes.
    fn naive(&self) -> [Vec<(f64, f64)>; 3] {
        let mut ys = vec![(0., 0.); self.grads.len()];
        let mut dweight = vec![(0., 0.); self.weight.len()];
        let mut dxs = vec![(0., 0.); self.spikes.len()];
        let add = |to: &mut (f64, f64), product: f64| *to = (to.0 + product, to.1 + product.abs());
        products(&self.s, |output, input, weight| {
            let (g, w) = (self.grads[output].to_f64(), self.weight[weight].to_f64());
            let spikes = f64::from(self.spikes[input] & 0x7f);
            add(&mut ys[output], spikes * w);
            add(&mut dweight[weight], spikes * g);
            if self.spikes[input] & 0x80 != 0 {
                add(&mut dxs[input], g * w);
            }
        });
        // The sums of a timestep go on from those of the one before.
        let step = ys.len() / self.images.timesteps;
        for i in step..ys.len() {
            ys[i].1 += ys[i - step].1;
        }
        [ys, dweight, dxs]
    }

    fn check(&self, tolerance: f64) {
        for ((name, fast), naive) in ["forward", "grad_weight", "grad_input"].iter().zip(self.fast()).zip(self.naive())
        {
            for (i, (x, (expected, magnitude))) in fast.iter().zip(naive).enumerate() {
                let error = (x.to_f64() - expected).abs();
                assert!(
                    error <= tolerance * magnitude,
                    "{name} of {:?}: [{i}] is {}, expected {expected}",
                    self.s,
                    x.to_f64()
                );
            }
        }
    }
}

fn shapes() -> Vec<ConvShape> {
    let mut shapes = Vec::new();
    for (i, &c_in) in [1, 3, 16, 17, 64, 100].iter().enumerate() {
        for (j, &c_out) in [1, 10, 16, 20, 64, 96].iter().enumerate() {
            for (l, &(k, stride, padding)) in [
                (1, 1, 0),
                (1, 2, 0),
                (3, 1, 1),
                (3, 2, 1),
                (3, 1, 0),
                (5, 1, 2),
                (5, 2, 1),
                (3, 2, 0),
                (1, 1, 1),
                (5, 2, 2),
                (3, 1, 2),
                (3, 3, 1),
            ]
            .iter()
            .enumerate()
            {
                // Each pair of channels with a third of the windows: every pair of values occurs.
                if (i + j + l) % 3 == 0 {
                    let size = [(5, 7), (6, 4), (7, 6)][(i + 2 * j + l / 3) % 3];
                    shapes.extend(shape(1 + (i + j) % 3, c_in, size, c_out, k, stride, padding));
                }
            }
        }
    }
    shapes
}

#[test]
fn float64_equals_the_definition() {
    for (i, s) in shapes().into_iter().enumerate() {
        let (density, levels, wanted) = [(0.1, 2, 0.25), (0.5, 4, 0.5), (1., 1, 1.), (0., 1, 0.)][i % 4];
        Case::<f64>::new(s, i as u64, density, levels, wanted).check(1e-14);
    }
}

#[test]
fn float32_equals_the_definition() {
    for (i, s) in shapes().into_iter().enumerate() {
        let (density, levels, wanted) = [(0.5, 3, 1.), (0.1, 2, 0.3), (1., 2, 0.5), (0.02, 1, 0.1)][i % 4];
        Case::<f32>::new(s, i as u64, density, levels, wanted).check(2e-6);
    }
}

#[test]
fn counts_to_127() {
    let s = shape(1, 5, (4, 3), 9, 3, 1, 1).unwrap();
    let mut case = Case::<f64>::new(s, 3, 0.8, 127, 0.5);
    case.check(1e-13);
    case.spikes.fill(0xff);
    case.check(1e-13);
}

#[test]
fn numbers_of_threads_change_no_bit() {
    for s in
        [shape(9, 64, (6, 7), 64, 3, 1, 1), shape(2, 17, (20, 40), 33, 3, 2, 1), shape(3, 200, (4, 4), 20, 1, 1, 0)]
    {
        let case = Case::<f32>::new(s.unwrap(), 11, 0.2, 3, 0.3);
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.fast()).map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let one = bits(1);
        assert_eq!(bits(2), one);
        assert_eq!(bits(3), one);
    }
}

#[test]
fn packed_weights_serve_any_batch() {
    // Two timesteps of three images.
    let s = shape(6, 20, (5, 6), 24, 3, 1, 1).unwrap();
    let mut case = Case::<f32>::new(s, 5, 0.3, 2, 0.);
    case.images = Images::all(2, 3);
    let mut packed = PackedWeights::new(&s, &case.weight);
    let [expected, _, _] = case.fast();
    let len = expected.len() / 6;
    for range in [0..1, 1..2, 2..3, 1..3, 2..2] {
        let images = Images { range: range.clone(), ..case.images.clone() };
        let mut ys = vec![-1.; expected.len()];
        forward_packed(&ConvShape { n: images.rows(), ..s }, &images, &case.spikes, &packed, &mut ys);
        for (map, (ys, expected)) in ys.chunks(len).zip(expected.chunks(len)).enumerate() {
            assert_eq!(ys, if range.contains(&(map % 3)) { expected } else { &[-1.; 720] }, "{range:?}, map {map}");
        }
    }
    // Another weight in the same memory.
    let other = Case::<f32>::new(s, 6, 0.3, 2, 0.4);
    let [ys, _, dxs] = other.fast();
    let mut columns = PackedColumns::new(&s, &case.weight);
    packed.update(&s, &other.weight);
    columns.update(&s, &other.weight);
    let (mut packed_ys, mut packed_dxs) = (vec![f32::NAN; ys.len()], vec![f32::NAN; dxs.len()]);
    forward_packed(&s, &other.images, &other.spikes, &packed, &mut packed_ys);
    grad_input_packed(&s, &other.grads, &columns, &other.spikes, &mut packed_dxs);
    assert_eq!((packed_ys, packed_dxs), (ys, dxs));
}

/// Whatever a timestep does not change costs nothing and is exact.
#[test]
fn timesteps_that_repeat_the_first_repeat_its_bits() {
    let s = shape(3, 40, (9, 10), 70, 3, 1, 1).unwrap();
    let mut case = Case::<f32>::new(s, 8, 0.3, 2, 0.);
    let map = case.spikes.len() / 3;
    let first = case.spikes[..map].to_vec();
    // Another top bit is no change.
    case.spikes[map..2 * map].copy_from_slice(&first);
    for (unit, first) in case.spikes[2 * map..].iter_mut().zip(&first) {
        *unit = first ^ 0x80;
    }
    let [ys, ..] = case.fast();
    for later in ys.chunks(ys.len() / 3) {
        assert_eq!(later, &ys[..ys.len() / 3]);
    }
}

/// Several bands, blocks and groups.
#[test]
fn large_maps_and_many_channels() {
    for s in [
        shape(2, 70, (33, 20), 40, 3, 1, 1),
        shape(1, 24, (40, 34), 40, 3, 2, 1),
        shape(19, 200, (4, 4), 136, 3, 1, 1),
        shape(8, 70, (33, 20), 40, 3, 1, 1),
        shape(3, 130, (9, 8), 72, 1, 2, 0),
        shape(1, 2, (3, 700), 8, 3, 1, 1),
        shape(1, 2, (13, 14), 9, 13, 1, 1),
        shape(1, 5, (16, 12), 9, 7, 2, 3),
    ] {
        Case::<f32>::new(s.unwrap(), 7, 0.12, 2, 0.25).check(2e-6);
        Case::<f64>::new(s.unwrap(), 7, 0.12, 2, 0.25).check(1e-14);
    }
}
