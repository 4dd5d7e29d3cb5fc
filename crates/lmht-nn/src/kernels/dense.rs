//! Placeholder.
use super::{ConvShape, Real, Source};
pub(crate) fn taps(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    for n in 0..s.n {
        for y in 0..s.h_out {
            for x in 0..s.w_out {
                for ky in 0..s.k {
                    for kx in 0..s.k {
                        let (iy, ix) = (y * s.stride + ky, x * s.stride + kx);
                        if iy < s.padding || ix < s.padding || iy - s.padding >= s.h || ix - s.padding >= s.w {
                            continue;
                        }
                        f(
                            (n * s.h + iy - s.padding) * s.w + ix - s.padding,
                            (n * s.h_out + y) * s.w_out + x,
                            ky * s.k + kx,
                        );
                    }
                }
            }
        }
    }
}
pub(crate) fn forward<T: Real, X: Source<T>>(s: &ConvShape, xs: &[X], weight: &[T], bias: Option<&[T]>, ys: &mut [T]) {
    for row in ys.chunks_mut(s.c_out) {
        match bias {
            Some(b) => row.copy_from_slice(b),
            None => row.fill(T::default()),
        }
    }
    taps(s, |i, o, k| {
        for a in 0..s.c_in {
            let x = xs[i * s.c_in + a].value();
            for b in 0..s.c_out {
                ys[o * s.c_out + b] += x * weight[(b * s.c_in + a) * s.k * s.k + k];
            }
        }
    });
}
pub(crate) fn grad_input<T: Real>(s: &ConvShape, grads: &[T], weight: &[T], dxs: &mut [T]) {
    dxs.fill(T::default());
    taps(s, |i, o, k| {
        for a in 0..s.c_in {
            for b in 0..s.c_out {
                dxs[i * s.c_in + a] += grads[o * s.c_out + b] * weight[(b * s.c_in + a) * s.k * s.k + k];
            }
        }
    });
}
pub(crate) fn grad_weight<T: Real, X: Source<T>>(s: &ConvShape, xs: &[X], grads: &[T], dweight: &mut [T]) {
    dweight.fill(T::default());
    taps(s, |i, o, k| {
        for a in 0..s.c_in {
            let x = xs[i * s.c_in + a].value();
            for b in 0..s.c_out {
                dweight[(b * s.c_in + a) * s.k * s.k + k] += x * grads[o * s.c_out + b];
            }
        }
    });
}
