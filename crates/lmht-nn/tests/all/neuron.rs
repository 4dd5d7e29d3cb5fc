//! The neuron layer: one fused pass against the same layer composed of tensor operations, and against paper and pencil.

use crate::support::*;
use crate::test_device;
use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_core::{GradientMode, LmhtConfig, LmhtNeuron, Tgim};
use lmht_nn::ops::{Learned, neuron, neuron_composed};

/// What stands beside the currents.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Beside {
    Tgim(Tgim),
    Leak,
    /// IF is 1, LIF is below.
    Fixed(f64),
}

const ALL: [Beside; 5] =
    [Beside::Tgim(Tgim::Full), Beside::Tgim(Tgim::Causal), Beside::Leak, Beside::Fixed(1.), Beside::Fixed(0.5)];

impl Beside {
    fn config(self, levels: u32, timesteps: usize) -> LmhtConfig {
        let tgim = if let Self::Tgim(tgim) = self { tgim } else { Tgim::Identity };
        LmhtConfig { tgim, ..LmhtConfig::lmht(levels, timesteps) }
    }

    /// The layer's arguments: currents, then what is learned, logits in -1..1.
    fn vars(self, xs: Var, timesteps: usize) -> Result<Vec<Var>> {
        let (dtype, device) = (xs.dtype(), xs.device().clone());
        let tgim = || var(7, &[timesteps, timesteps], dtype, &device);
        let leak = || var(8, &[1], dtype, &device);
        Ok(match self {
            Self::Tgim(_) => vec![xs, tgim()?, leak()?],
            Self::Leak => vec![xs, leak()?],
            Self::Fixed(_) => vec![xs],
        })
    }

    fn learned(self, args: &[Tensor]) -> Learned {
        match self {
            Self::Tgim(_) => Learned::TgimAndLeak { tgim_logit: args[1].clone(), leak_logit: args[2].clone() },
            Self::Leak => Learned::Leak { leak_logit: args[1].clone() },
            Self::Fixed(leak) => Learned::Nothing { leak },
        }
    }
}

fn refs(vars: &[Var]) -> Vec<&Var> {
    vars.iter().collect()
}

fn checked(config: LmhtConfig) -> LmhtNeuron {
    config.check().expect("a valid neuron")
}

/// Currents in -3..3: with θ = 2/L they fall below, into and beyond the surrogate's window.
fn currents(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Result<Var> {
    Var::from_tensor(&(tensor(seed, shape, dtype, device)? * 3.)?)
}

fn fused_equals_composed(device: &Device) -> Result<()> {
    let dtype = precise(device);
    let mut seed = 0;
    for timesteps in 1..=5 {
        for levels in 1..=4 {
            for beside in ALL {
                for (gradient, v_init) in [
                    (GradientMode::Detached, 0.),
                    (GradientMode::Detached, 0.5),
                    (GradientMode::Full, 0.),
                    (GradientMode::Full, 0.5),
                ] {
                    // Ranks 2 to 5 in turn, time alone and time folded into the batch; 4 shapes on 5 kinds and 5 T.
                    let t = timesteps;
                    let shapes = [vec![t, 37], vec![2 * t, 3, 5], vec![2 * t, 3, 4, 5], vec![t, 2, 3, 4, 5]];
                    let shape = &shapes[seed as usize / 4 % 4];
                    let layer = checked(LmhtConfig { gradient, v_init, ..beside.config(levels, t) });
                    let what = format!("T = {t}, L = {levels}, {beside:?}, {gradient:?}, v_init {v_init}, {shape:?}");
                    let cpu = beside.vars(currents(seed, shape, dtype, &Device::Cpu)?, t)?;
                    let here =
                        cpu.iter().map(|v| Var::from_tensor(&v.to_device(device)?)).collect::<Result<Vec<_>>>()?;
                    let (ys, grads) = output_and_grads(&refs(&here), &|a| neuron(&a[0], &layer, &beside.learned(a)))?;
                    let (expected, expected_grads) =
                        output_and_grads(&refs(&cpu), &|a| neuron_composed(&a[0], &layer, &beside.learned(a)))?;
                    assert_close(&what, &ys, &expected, 0.)?;
                    for (name, (got, expected)) in
                        ["dx", "first logit", "second logit"].iter().zip(grads.iter().zip(&expected_grads))
                    {
                        let tolerance = if device.is_metal() { 1e-4 } else { 1e-12 };
                        assert_close(&format!("{what}: {name}"), got, expected, tolerance)?;
                    }
                    seed += 1;
                }
            }
        }
    }
    assert_eq!(seed, 5 * 4 * 5 * 4);
    Ok(())
}

test_device!(fused_equals_composed, fused_equals_composed_cpu, fused_equals_composed_cuda, fused_equals_composed_metal);

#[test]
fn strided_inputs_are_read_in_their_order() -> Result<()> {
    for beside in ALL {
        let layer = checked(beside.config(2, 3));
        // Kept as [5, 4, 3], shown as [3, 4, 5]; the logits transposed and from the middle of a longer tensor.
        let xs = currents(1, &[5, 4, 3], DType::F64, &Device::Cpu)?;
        let tgim = var(2, &[3, 3], DType::F64, &Device::Cpu)?;
        let leaks = var(3, &[4], DType::F64, &Device::Cpu)?;
        let run = |op: fn(&Tensor, &LmhtNeuron, &Learned) -> Result<Tensor>, copied: bool| {
            let vars: Vec<&Var> = match beside {
                Beside::Tgim(_) => vec![&xs, &tgim, &leaks],
                Beside::Leak => vec![&xs, &leaks],
                Beside::Fixed(_) => vec![&xs],
            };
            output_and_grads(&vars, &|a| {
                let mut args = vec![a[0].transpose(0, 2)?];
                match beside {
                    Beside::Tgim(_) => args.extend([a[1].t()?, a[2].narrow(0, 2, 1)?]),
                    Beside::Leak => args.push(a[1].narrow(0, 2, 1)?),
                    Beside::Fixed(_) => {}
                }
                if copied {
                    args = args.iter().map(Tensor::force_contiguous).collect::<Result<_>>()?;
                } else {
                    assert!(!args[0].is_contiguous());
                }
                op(&args[0], &layer, &beside.learned(&args))
            })
        };
        let (expected, expected_grads) = run(neuron, true)?;
        for op in [neuron, neuron_composed] {
            let (ys, grads) = run(op, false)?;
            assert_close(&format!("{beside:?}"), &ys, &expected, 0.)?;
            for (got, expected) in grads.iter().zip(&expected_grads) {
                assert_close(&format!("{beside:?}: gradient"), got, expected, 1e-12)?;
            }
        }
    }
    Ok(())
}

/// Ties are where f32 could go astray: here nothing is rounded, so that every one of them must go the same way.
///
/// Currents are multiples of 1/8, θ, T and λ powers of two, Ω = 1/T (logits 0): every potential is a multiple of 1/64 below
/// 2^6, exact in f32. One potential in eight or so lies on a threshold.
#[test]
fn ties_go_the_same_way_in_f32_and_f64() -> Result<()> {
    let mut n_ties = 0;
    for timesteps in [1, 2, 4] {
        for levels in [1, 2, 4] {
            for beside in [Beside::Tgim(Tgim::Full), Beside::Leak, Beside::Fixed(1.)] {
                for v_init in [0., 0.5] {
                    let config = LmhtConfig { v_init, ..beside.config(levels, timesteps) };
                    let layer = checked(config);
                    let eighths = (tensor(5, &[timesteps, 400], DType::F64, &Device::Cpu)? * 32.)?.round()?;
                    let run = |dtype, op: fn(&Tensor, &LmhtNeuron, &Learned) -> Result<Tensor>| {
                        let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, &Device::Cpu);
                        let args = [(&eighths / 8.)?.to_dtype(dtype)?, zeros(&[timesteps, timesteps])?, zeros(&[1])?];
                        let learned = match beside {
                            Beside::Leak => Learned::Leak { leak_logit: args[2].clone() },
                            beside => beside.learned(&args),
                        };
                        values(&op(&args[0], &layer, &learned)?)
                    };
                    let what = format!("T = {timesteps}, L = {levels}, {beside:?}, v_init {v_init}");
                    let exact = run(DType::F64, neuron)?;
                    assert_values(&what, &run(DType::F32, neuron)?, &exact, 0.);
                    assert_values(&what, &run(DType::F32, neuron_composed)?, &exact, 0.);
                    let first = (&eighths.get(0)? / 8.)?.to_vec1::<f64>()?;
                    if timesteps == 1 {
                        let m = |x: f64| x + v_init * config.v_threshold;
                        let on_threshold = |x: &&f64| (m(**x) / config.v_threshold).fract() == 0.;
                        n_ties += first.iter().filter(on_threshold).count();
                    }
                }
            }
        }
    }
    assert!(n_ties > 500, "the test is about ties, and met {n_ties}");
    Ok(())
}

/// Runs one unit and gives outputs and gradients under the given dLoss/d(sθ).
fn trace(config: LmhtConfig, xs: &[f64], grad_out: &[f64], learned: &Learned) -> Result<(Vec<f64>, Tensor, Var)> {
    let xs = Var::from_tensor(&Tensor::from_vec(xs.to_vec(), (xs.len(), 1), &Device::Cpu)?)?;
    let grad_out = Tensor::from_vec(grad_out.to_vec(), xs.dims(), &Device::Cpu)?;
    let ys = neuron(&xs, &checked(config), learned)?;
    let loss = (&ys * grad_out)?.sum_all()?;
    Ok((values(&ys)?, loss, xs))
}

#[test]
fn a_leaking_neuron_worked_by_hand() -> Result<()> {
    // L = 1, θ = 1, λ = 1 (logit 0). m = 0.25, 1.25, 2.25; s = 0, 1, 1; v = 0.25, 0.25, 1.25.
    // Only m(2) is in the window 0.5..=1.5.
    for (mode, dx) in [
        (GradientMode::Detached, [0., 10., 0.]),
        // m(1) is below the window, so v(1) = m(1) passes on what m(2) receives: g(1) = λ g(2) = 10.
        (GradientMode::Full, [10., 10., 0.]),
    ] {
        let leak = Var::from_tensor(&Tensor::zeros(1, DType::F64, &Device::Cpu)?)?;
        let learned = Learned::Leak { leak_logit: leak.as_tensor().clone() };
        let config = LmhtConfig { gradient: mode, ..LmhtConfig::lif(3) };
        let (ys, loss, xs) = trace(config, &[0.25, 1., 2.], &[1., 10., 100.], &learned)?;
        assert_eq!(ys, [0., 1., 1.]);
        let grads = loss.backward()?;
        assert_eq!(gradient(&grads, &xs)?, dx, "{mode:?}");
        // dLoss/dλ = g(2) v(1) = 2.5 (v(0) = 0), and dλ/dlogit = σ(0)σ(-0) = 1/4.
        assert_eq!(gradient(&grads, &leak)?, [0.625], "{mode:?}");
    }
    Ok(())
}

#[test]
fn a_neuron_with_tgim_worked_by_hand() -> Result<()> {
    // L = 2, θ = 1, Ω = 1/2, λ = 1: the current is 1.5 twice. m = 1.5, 2; s = 1, 2; v(1) = 0.5. Both are in 0.5..=2.5.
    let logit = |shape: &[usize]| Var::from_tensor(&Tensor::zeros(shape, DType::F64, &Device::Cpu)?);
    let (tgim, leak) = (logit(&[2, 2])?, logit(&[1])?);
    let learned = Learned::TgimAndLeak { tgim_logit: tgim.as_tensor().clone(), leak_logit: leak.as_tensor().clone() };
    let (ys, loss, xs) = trace(LmhtConfig::lmht(2, 2), &[1., 2.], &[1., 4.], &learned)?;
    assert_eq!(ys, [1., 2.]);
    let grads = loss.backward()?;
    assert_eq!(gradient(&grads, &xs)?, [2.5, 2.5]); // (1 + 4) / 2
    assert_eq!(gradient(&grads, &tgim)?, [0.25, 0.5, 1., 2.]); // g(t) x(j) · 2 σ(0)σ(-0) / T
    assert_eq!(gradient(&grads, &leak)?, [0.5]); // g(2) v(1) · 1/4
    Ok(())
}

#[test]
fn threads_do_not_change_bits() -> Result<()> {
    for beside in ALL {
        for (timesteps, gradient) in [(4, GradientMode::Detached), (3, GradientMode::Full)] {
            let layer = checked(LmhtConfig { gradient, ..beside.config(2, timesteps) });
            // Several blocks for each thread, and a part of one.
            let xs = currents(1, &[timesteps, 2, 3, 61, 67], DType::F32, &Device::Cpu)?;
            let vars = beside.vars(xs, timesteps)?;
            check_threads(&format!("{beside:?}"), &refs(&vars), &|a| neuron(&a[0], &layer, &beside.learned(a)))?;
        }
    }
    Ok(())
}

/// An image or a frozen parameter asks for no gradient; the others must still get theirs, and it must get none.
#[test]
fn only_tracked_arguments_have_gradients() -> Result<()> {
    for beside in ALL {
        let layer = checked(beside.config(2, 3));
        let vars = beside.vars(currents(1, &[3, 4, 5], DType::F64, &Device::Cpu)?, 3)?;
        let (_, all) = output_and_grads(&refs(&vars), &|a| neuron(&a[0], &layer, &beside.learned(a)))?;
        for tracked in 0..1 << vars.len() {
            let is_tracked = |i: usize| tracked >> i & 1 == 1;
            // A tensor computed from a constant, so that it is neither a variable nor a leaf.
            let constant = |v: &Var| v.as_tensor().detach() + 0.;
            let args = vars
                .iter()
                .enumerate()
                .map(|(i, v)| if is_tracked(i) { Ok(v.as_tensor().clone()) } else { constant(v) })
                .collect::<Result<Vec<_>>>()?;
            let ys = neuron(&args[0], &layer, &beside.learned(&args))?;
            assert_eq!(ys.track_op(), tracked != 0);
            let cotangent = tensor(99, ys.dims(), ys.dtype(), ys.device())?;
            let grads = (&ys * cotangent)?.sum_all()?.backward()?;
            for (i, (arg, expected)) in args.iter().zip(&all).enumerate() {
                match grads.get(arg) {
                    Some(grad) if is_tracked(i) => assert_close(&format!("{beside:?} {i}"), grad, expected, 0.)?,
                    None if !is_tracked(i) => {}
                    got => panic!("{beside:?}, argument {i} of {tracked:b}: {got:?}"),
                }
            }
        }
    }
    Ok(())
}

#[test]
fn errors_say_what_is_wrong() -> Result<()> {
    let device = &Device::Cpu;
    let full = checked(LmhtConfig::lmht(2, 2));
    let plain = checked(LmhtConfig::mht(2, 2));
    let ones = |shape: &[usize], dtype| Tensor::ones(shape, dtype, device);
    let (f32, f64) = (DType::F32, DType::F64);
    let xs = ones(&[4, 3], f32)?;
    let learned = |tgim: &[usize], leak: &[usize], dtype| -> Result<Learned> {
        Ok(Learned::TgimAndLeak { tgim_logit: ones(tgim, dtype)?, leak_logit: ones(leak, dtype)? })
    };
    let nothing = Learned::Nothing { leak: 1. };
    for op in [neuron, neuron_composed] {
        let fails = |xs: &Tensor, layer: &LmhtNeuron, learned: &Learned, parts: &[&str]| {
            assert_error(op(xs, layer, learned), &[&["neuron"], parts].concat());
        };
        // The wrong T, no axis at all, and no values.
        for shape in [&[3, 4][..], &[], &[2, 0], &[0, 3]] {
            fails(&ones(shape, f32)?, &plain, &nothing, &["2 timesteps (from the config)", &format!("{shape:?}")]);
        }
        fails(&xs.to_dtype(DType::U32)?, &plain, &nothing, &["floating-point", "U32", "to_dtype"]);
        fails(&xs, &plain, &Learned::Nothing { leak: f64::NAN }, &["finite leak", "NaN"]);
        fails(&xs, &full, &learned(&[3, 3], &[1], f32)?, &["T-GIM logits of shape [2, 2]", "[3, 3]"]);
        fails(&xs, &full, &learned(&[4], &[1], f32)?, &["T-GIM logits of shape [2, 2]", "[4]"]);
        fails(&xs, &full, &learned(&[2, 2], &[2], f32)?, &["leak logit of shape [1]", "[2]"]);
        fails(&xs, &full, &learned(&[2, 2], &[1], f64)?, &["T-GIM logits", "F32", "F64"]);
        fails(&xs, &plain, &Learned::Leak { leak_logit: ones(&[1], f64)? }, &["leak logit", "F32", "F64"]);
        // Seen once: an Ω that the layer needs and does not get panicked in the fused pass and was 1 in the composed one,
        // and an Ω that the layer does not have was used by the composed one alone.
        fails(&xs, &full, &nothing, &["no T-GIM logits", "Tgim::Full", "Tgim::Identity"]);
        fails(&xs, &full, &Learned::Leak { leak_logit: ones(&[1], f32)? }, &["no T-GIM logits", "TgimAndLeak"]);
        fails(&xs, &plain, &learned(&[2, 2], &[1], f32)?, &["got T-GIM logits", "Tgim::Identity"]);
        // And what is right is no error.
        assert_eq!(op(&xs, &full, &learned(&[2, 2], &[1], f32)?)?.dims(), [4, 3]);
    }
    Ok(())
}

#[test]
fn half_precision_runs_composed() -> Result<()> {
    let xs = Tensor::new(&[[2.5f32], [0.5]], &Device::Cpu)?.to_dtype(DType::BF16)?;
    let ys = neuron(&xs, &checked(LmhtConfig::mht(2, 2)), &Learned::Nothing { leak: 1. })?;
    assert_eq!(ys.dtype(), DType::BF16);
    assert_eq!(values(&ys)?, [2., 1.]);
    Ok(())
}

/// Currents that are multiples of θ put potentials on thresholds, where the order of a sum decides; inside a window the total
/// is compared with (count + k)θ, in one form as in the other.
#[test]
fn ties_inside_a_window_fall_the_same_way() -> Result<()> {
    let mut n_spikes = 0.;
    for (window, levels, v_threshold) in [(2, 1, 0.7), (3, 2, 0.1), (6, 1, 0.3), (1, 3, 0.7)] {
        let config = LmhtConfig { window, v_threshold, tgim: Tgim::Identity, ..LmhtConfig::lmht(levels, 6) };
        let layer = config.check().expect("a valid neuron");
        let multiples = values(&tensor(5, &[6, 64], DType::F64, &Device::Cpu)?)?;
        for dtype in [DType::F32, DType::F64] {
            let xs: Vec<f64> = multiples.iter().map(|x| (x * 4.).round() / 2. * v_threshold).collect();
            let xs = Tensor::from_vec(xs, (6, 64), &Device::Cpu)?.to_dtype(dtype)?;
            let learned = Learned::Nothing { leak: 1. };
            let (fused, composed) = (neuron(&xs, &layer, &learned)?, neuron_composed(&xs, &layer, &learned)?);
            assert_close(&format!("window {window}, L = {levels}, {dtype:?}"), &fused, &composed, 0.)?;
            n_spikes += values(&fused)?.iter().sum::<f64>();
        }
    }
    assert!(n_spikes > 0., "the test must see spikes");
    Ok(())
}
