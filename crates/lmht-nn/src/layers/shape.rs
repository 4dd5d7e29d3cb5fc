//! Sums, factors and changes of shape; and a door for operations that are none of these.

use candle_core::{Tensor, bail};

use super::named::named;
use super::time::at_every_timestep;
use crate::trace::Op;
use crate::{Pass, Result, Signal, SignalKind};

/// The sum of two paths, called `name` in messages. Two spike trains of one amplitude give one that counts the spikes of both;
/// any other sum is real values.
///
/// Where one path stands for several timesteps in a row and the other does not, both get all timesteps.
///
/// # Errors
/// If the shapes differ.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::layers::add;
/// use lmht_nn::{Pass, Signal};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let one = Signal::analog(Tensor::new(&[[1f32, 2.]], &Device::Cpu)?);
/// assert_eq!(add("block", &one, &one, &mut Pass::eval())?.values().to_vec2::<f32>()?, [[2., 4.]]);
/// # Ok(()) }
/// ```
pub fn add(name: &str, main: &Signal, shortcut: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
    let (a, b) = if main.broadcast() == shortcut.broadcast() {
        (main.clone(), shortcut.clone())
    } else {
        (at_every_timestep(main, pass)?, at_every_timestep(shortcut, pass)?)
    };
    let dims = || {
        let (a, b) = (a.values().dims(), b.values().dims());
        if a != b {
            bail!("the two paths of the block differ: {a:?} and {b:?}")
        }
        Ok(a.to_vec())
    };
    let checked = named(name, dims().and_then(|_| pass.values(a.values(), dims, || a.values() + b.values())))?;
    let kind = match (a.kind(), b.kind()) {
        (SignalKind::Spikes { v_threshold }, SignalKind::Spikes { v_threshold: other }) if v_threshold == other => {
            a.kind()
        }
        _ => SignalKind::Analog,
    };
    Ok(pass.give(name, || Op::Add, &[&a, &b], checked, kind, a.broadcast()))
}

/// Values times a constant; 1 gives the signal back.
///
/// # Errors
/// Only if Candle's own operation fails.
pub fn scale(name: &str, xs: &Signal, factor: f64, pass: &mut Pass<'_>) -> Result<Signal> {
    if factor == 1. {
        return Ok(xs.clone());
    }
    let values = xs.values();
    let ys = named(name, pass.values(values, || Ok(values.dims().to_vec()), || values * factor))?;
    Ok(pass.give(name, || Op::Scale(factor), &[xs], ys, SignalKind::Analog, xs.broadcast()))
}

/// Unit spikes times the amplitude that they have left to the weights, where there are none: `factor` `[1]`, not trained.
///
/// # Errors
/// If the factor is not one number.
pub fn shortcut_scale(name: &str, xs: &Signal, factor: &Tensor, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let dims = || Ok(values.dims().to_vec());
    let ys = named(name, pass.values(values, dims, || values.broadcast_mul(&factor.detach())))?;
    Ok(pass.give(name, || Op::ShortcutScale(factor.clone()), &[xs], ys, SignalKind::Analog, xs.broadcast()))
}

/// Maps `[N, C, H, W]` as vectors `[N, C·H·W]`.
///
/// # Errors
/// If the input has no second axis.
pub fn flatten(xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let dims = || Ok(vec![values.dims()[0], values.dims()[1..].iter().product()]);
    let ys = pass.values(values, dims, || values.flatten_from(1))?;
    Ok(pass.give("", || Op::Flatten, &[xs], ys, xs.kind(), xs.broadcast()))
}

/// The positions of maps `[N, C, H, W]` as tokens, rows `[N·H·W, C]`.
///
/// # Errors
/// If the input is not four-dimensional.
pub fn tokens(xs: &Signal, pass: &mut Pass<'_>) -> Result<Signal> {
    let values = xs.values();
    let (n, c, h, w) = values.dims4()?;
    let ys = pass.values(
        values,
        || Ok(vec![n * h * w, c]),
        || values.flatten_from(2)?.transpose(1, 2)?.contiguous()?.reshape((n * h * w, c)),
    )?;
    Ok(pass.give("", || Op::Tokens, &[xs], ys, xs.kind(), xs.broadcast()))
}

/// Any operation of Candle's on the values, called `name`, one row apart from the others.
///
/// The trace knows that something happens here and not what: such a network trains and evaluates, layer by layer, and
/// [`Network::plan`](crate::Network::plan) names the operation; conversions and exports refuse it by this name.
///
/// # Errors
/// What the operation returns, and if it changes the number of rows.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lmht_nn::layers::apply;
/// use lmht_nn::{Pass, Signal};
///
/// # fn main() -> lmht_nn::Result<()> {
/// let xs = Signal::analog(Tensor::new(&[[0f32, 1.]], &Device::Cpu)?);
/// let ys = apply("gelu", &xs, &mut Pass::eval(), |xs| xs.gelu_erf())?;
/// assert!((ys.values().to_vec2::<f32>()?[0][1] - 0.841).abs() < 1e-3);
/// # Ok(()) }
/// ```
pub fn apply(
    name: &str,
    xs: &Signal,
    pass: &mut Pass<'_>,
    f: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Signal> {
    let ys = f(xs.values()).and_then(|ys| {
        if ys.dims().first() != xs.values().dims().first() {
            bail!("expected as many rows as before, {:?}, got {:?}", xs.values().dims(), ys.dims())
        }
        Ok(ys)
    });
    let op = || Op::Opaque { what: format!("{name} is an operation of its own") };
    Ok(pass.give(name, op, &[xs], named(name, ys)?, SignalKind::Analog, xs.broadcast()))
}
