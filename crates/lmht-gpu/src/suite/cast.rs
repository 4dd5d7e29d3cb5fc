//! Element types.

use crate::plans::cast;
use crate::{Dtype, HostBuffer, Machine};

use super::support::*;

/// Every kind of number that a 16-bit type has, its ties, and what it does not hold.
fn awkward() -> Vec<f64> {
    let mut values = vec![0., -0., 65504., 65519.9, 65520., -70000., 1e-8, f64::INFINITY, f64::NEG_INFINITY, 3.4e38];
    // Halfway between neighbours, subnormal ones included, and beside that.
    for exponent in [-26, -25, -24, -20, -15, -14, -1, 0, 9, 15] {
        for significand in
            [1., 1.25, 1.5, 1. + 1. / 2048., 1. + 3. / 2048., 1. + 1. / 256., 1. + 3. / 256., 2. - 1. / 4096.]
        {
            values.push(significand * f64::from(exponent).exp2());
            values.push(-significand * f64::from(exponent).exp2() * (1. + 1e-6));
        }
    }
    rounded(Dtype::F32, &values)
}

pub(super) fn check<M: Machine<Buffer = HostBuffer>>(m: &M) -> Outcome {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let narrow = ran(cast::narrow(m, &HostBuffer::new(Dtype::F32, &awkward()), dtype))?;
        near(&format!("narrow to {dtype}"), &narrow.to_f64(), &rounded(dtype, &awkward()), 0.)?;
        let wide = ran(cast::widen(m, &narrow))?;
        near(&format!("widen {dtype}"), &wide.to_f64(), &narrow.to_f64(), 0.)?;
    }
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let narrow = ran(cast::narrow(m, &HostBuffer::new(Dtype::F32, &[f64::NAN]), dtype))?;
        if !narrow.to_f64()[0].is_nan() || !ran(cast::widen(m, &narrow))?.to_f64()[0].is_nan() {
            return Err(format!("NaN in {dtype}: {:?}", narrow.to_f64()));
        }
    }
    // θ = 2/3 is no number of any type.
    for (dtype, n) in [(Dtype::F32, 300), (Dtype::Bf16, 97)] {
        let counts: Vec<f64> = (0..n).map(|i| f64::from(i % 128)).collect();
        let spikes: Vec<f64> = counts.iter().map(|s| s * 2. / 3.).collect();
        let theta = 2. / 3.;
        let unpacked = ran(cast::unpack(m, theta, &HostBuffer::new(Dtype::U8, &counts), dtype))?;
        near(&format!("unpack {dtype}"), &unpacked.to_f64(), &spikes, if dtype == Dtype::Bf16 { 1e-2 } else { 1e-6 })?;
        near(&format!("pack {dtype}"), &ran(cast::pack(m, theta, &unpacked))?.to_f64(), &counts, 0.)?;
    }
    let over = HostBuffer::new(Dtype::F32, &[300.]);
    near("pack 300", &ran(cast::pack(m, 1., &over))?.to_f64(), &[127.], 0.)?;
    let gated = HostBuffer::new(Dtype::U8, &[128. + 3., 3., 128.]);
    near("unpack a gate", &ran(cast::unpack(m, 0.5, &gated, Dtype::F32))?.to_f64(), &[1.5, 1.5, 0.], 0.)
}
