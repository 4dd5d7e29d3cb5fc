//! The specialisations that are checked: what the plans ask for in networks of the usual sizes, in every element type.

use lmht_core::{GradientMode, IlifConfig, LmhtConfig, QcfsGate, TernaryConfig, Tgim};

use super::recorder::{Outline, Recorder};
use crate::plans::norm_neuron::{Inputs, Shortcut};
use crate::plans::pool::Windows;
use crate::plans::{batch_norm, cast, gather, ilif, im2col, loss, neuron, norm_neuron, optimizer, pool, qcfs, ternary};
use crate::{Dtype, Program, Result};

/// The programs, each once.
///
/// # Errors
/// None that is not a mistake in here: a plan refuses an operand.
pub fn programs() -> Result<Vec<Program>> {
    let m = Recorder::default();
    for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16] {
        neurons(&m, dtype)?;
        maps(&m, dtype)?;
        training(&m, dtype)?;
    }
    Ok(m.programs.into_inner())
}

fn neurons(m: &Recorder, dtype: Dtype) -> Result<()> {
    let of = |len| Outline { dtype, len };
    let real = |len| Outline { dtype: dtype.real(), len };
    let causal = LmhtConfig { tgim: Tgim::Causal, gradient: GradientMode::Full, ..LmhtConfig::lmht(4, 4) };
    let configs = [LmhtConfig::lmht(2, 2), LmhtConfig::lmht(4, 4), causal, LmhtConfig::lif(4), LmhtConfig::lmht(2, 16)];
    for (index, config) in configs.into_iter().enumerate() {
        let layer = config.check().map_err(|error| crate::Error::Size {
            what: "check: a neuron",
            expected: "one that passes its check".to_string(),
            got: error.to_string(),
        })?;
        let learned = real(neuron::n_learned(&layer));
        // A number of units that no width divides, and a map of 64 channels.
        for units in [1001, 64 * 1024] {
            let xs = of(layer.timesteps() * units);
            neuron::forward(m, &layer, &xs, &learned)?;
            neuron::backward(m, &layer, &xs, &learned, &xs)?;
        }
        let (xs, norm) = (of(layer.timesteps() * 64 * 1024), real(4 * 64));
        let shortcut = match index % 3 {
            0 => Shortcut::None,
            1 => Shortcut::Plain(&xs),
            _ => Shortcut::Normalized(&xs, &norm),
        };
        let inputs = Inputs { xs: &xs, norm: &norm, shortcut, learned: &learned };
        norm_neuron::forward(m, &layer, index % 2 == 0, &inputs)?;
        norm_neuron::backward(m, &layer, false, &inputs, &xs)?;
    }
    let (xs, one) = (of(4 * 4096), real(1));
    if let Ok(layer) = IlifConfig::ilif(4, 4).check() {
        ilif::forward(m, &layer, &xs)?;
        ilif::backward(m, &layer, &xs, &xs)?;
    }
    if let Ok(layer) = TernaryConfig::ternary(4).check() {
        ternary::forward(m, &layer, &xs, &one)?;
        ternary::backward(m, &layer, &xs, &one, &xs)?;
    }
    for gate in [QcfsGate::AfterFloor, QcfsGate::BeforeFloor] {
        qcfs::forward(m, 4, &xs, &one)?;
        qcfs::backward(m, 4, gate, &xs, &one, &xs)?;
    }
    Ok(())
}

fn maps(m: &Recorder, dtype: Dtype) -> Result<()> {
    let of = |len| Outline { dtype, len };
    for channels in [3, 64] {
        let (xs, norm) = (of(1024 * channels), Outline { dtype: dtype.real(), len: 4 * channels });
        batch_norm::forward(m, &xs, &norm)?;
        batch_norm::backward(m, false, &xs, &norm, &xs)?;
    }
    let windows = Windows { images: 8, h: 32, w: 32, c: 64, kernel: 3, stride: 2, padding: 1 };
    let (xs, mut grad_xs, ys) = (of(windows.n_in()), of(windows.n_in()), of(windows.pixels() * windows.c));
    let (_, best) = pool::max_forward(m, &windows, &xs)?;
    pool::max_backward(m, &windows, &ys, &best)?;
    pool::average_forward(m, &windows, &xs)?;
    let columns = im2col::im2col(m, &windows, 0..windows.pixels(), &xs)?;
    im2col::col2im(m, &windows, 0..windows.images, &columns, &mut grad_xs)
}

fn training(m: &Recorder, dtype: Dtype) -> Result<()> {
    let of = |len| Outline { dtype, len };
    let real = |len| Outline { dtype: dtype.real(), len };
    let bytes = |dtype, len| Outline { dtype, len };
    let how = loss::CrossEntropy { timesteps: 4, label_smoothing: 0.1, loss_scale: 1.0 };
    loss::cross_entropy(m, how, &of(4 * 8 * 100), &bytes(Dtype::U32, 8))?;
    let grads = of(5000);
    let sum_squares = optimizer::sum_squares(m, &grads)?;
    let (ends, decays) = (bytes(Dtype::U32, 10), real(10));
    let (mut params, mut copies, mut velocity) = (real(5000), of(5000), real(5000));
    let parts = optimizer::Parameters {
        grads: &grads,
        ends: &ends,
        decays: &decays,
        sum_squares: &sum_squares,
        params: &mut params,
        copies: &mut copies,
    };
    let rule = optimizer::Sgd { lr: 0.1, momentum: 0.9, nesterov: true };
    optimizer::sgd(m, rule, optimizer::Scaling { loss_scale: 1.0, max_norm: 0.0 }, parts, &mut velocity)?;
    let (table, choices) = (of(256 * 3), bytes(Dtype::U32, gather::CHOICES * 8));
    gather::gather(m, (3, 32, 32), &bytes(Dtype::U8, 50 * 3 * 32 * 32), &choices, &table)?;
    cast::widen(m, &grads)?;
    Ok(())
}
