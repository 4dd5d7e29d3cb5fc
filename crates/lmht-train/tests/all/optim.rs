//! Update rules against traces worked by hand and a scalar implementation; state that comes back; errors that say why.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_train::Error;
use lmht_train::optim::{AdamW, AdamWConfig, Optimizer, OptimizerConfig, Sgd, SgdConfig, find_non_finite, grad_norm};

use crate::{assert_close, numbers};

const CPU: Device = Device::Cpu;

type AnyResult = std::result::Result<(), Box<dyn std::error::Error>>;

/// Gradients put together by hand.
fn grads_of(pairs: &[(&Var, &Tensor)]) -> GradStore {
    let mut grads = GradStore::default();
    for (var, grad) in pairs {
        grads.insert(var, (*grad).clone());
    }
    grads
}

/// Values of a parameter of one number after each of the gradients.
fn trace(optimizer: &mut dyn Optimizer, grads: &[f64]) -> Result<Vec<f64>> {
    let p = optimizer.params()[0].1.clone();
    grads
        .iter()
        .map(|&g| {
            optimizer.step(&grads_of(&[(&p, &Tensor::new(&[g], &CPU)?)]))?;
            Ok(p.to_vec1::<f64>()?[0])
        })
        .collect()
}

fn one_param(value: f64) -> Result<Vec<(String, Var)>> {
    Ok(vec![("p".into(), Var::new(&[value], &CPU)?)])
}

#[test]
fn sgd_by_hand() -> AnyResult {
    // All numbers are sums of powers of two, so the results are exact. p = 1, gradients 1, -1, 2, η = 1/2.
    let sgd = |momentum, nesterov, weight_decay| -> Result<Vec<f64>> {
        let config = SgdConfig { lr: 0.5, momentum, nesterov, weight_decay };
        trace(&mut Sgd::new(one_param(1.)?, config).expect("a valid configuration"), &[1., -1., 2.])
    };
    assert_eq!(sgd(0., false, 0.)?, [0.5, 1., 0.]);
    // d = g + p/2:            1.5            -1 + 0.125          2 + 0.34375
    //                  p = 1 - 0.75    0.25 + 0.4375    0.6875 - 1.171875
    assert_eq!(sgd(0., false, 0.5)?, [0.25, 0.6875, -0.484_375]);
    // u:                         1          1/2 - 1              -1/4 + 2
    assert_eq!(sgd(0.5, false, 0.)?, [0.5, 0.75, -0.125]);
    // d + u/2:           1 + 1/2         -1 - 1/4             2 + 7/8
    assert_eq!(sgd(0.5, true, 0.)?, [0.25, 0.875, -0.5625]);
    // d = 1.5; u = 1.5; p = 1 - (1.5 + 0.75)/2 = -0.125
    // d = -1.0625; u = 0.75 - 1.0625 = -0.3125; p = -0.125 - (-1.0625 - 0.15625)/2 = 0.484375
    // d = 2.2421875; u = -0.15625 + 2.2421875 = 2.0859375; p = 0.484375 - (2.2421875 + 1.04296875)/2
    assert_eq!(sgd(0.5, true, 0.5)?, [-0.125, 0.484_375, -1.158_203_125]);
    Ok(())
}

#[test]
fn adamw_by_hand() -> AnyResult {
    // Gradients of equal size: the corrected second mean is 4 at every step, whatever β2, and its root 2.
    //   m        1             1/2 - 1 = -1/2         -1/4 + 1 = 3/4
    //   m̂    1/(1/2) = 2      -1/2/(3/4) = -2/3      3/4/(7/8) = 6/7
    //   p    3/4 - 1/2 = 1/4   3/16 + 1/6 = 17/48     17/64 - 3/14 = 23/448
    let config = AdamWConfig { lr: 0.5, beta1: 0.5, beta2: 0.75, eps: 0., weight_decay: 0.5 };
    let p = trace(&mut AdamW::new(one_param(1.)?, config)?, &[2., -2., 2.])?;
    for (p, expected) in p.iter().zip([1. / 4., 17. / 48., 23. / 448.]) {
        assert_close(*p, expected, 1e-15);
    }
    // ε is added after the correction: p = 1 - 1 · 2 / (2 + 2). And gradients of different sizes show β2:
    // β1 = 0, so m̂ = g; v = 1 then 0.75 + 0.25 · 36 = 9.75; v̂ = 9.75/0.4375 = 156/7.
    let config = AdamWConfig { lr: 1., beta1: 0., beta2: 0.75, eps: 2., weight_decay: 0. };
    let p = trace(&mut AdamW::new(one_param(1.)?, config)?, &[2., 6.])?;
    assert_close(p[0], 0.5, 1e-15);
    assert_close(p[1], 0.5 - 6. / ((156f64 / 7.).sqrt() + 2.), 1e-15);
    Ok(())
}

/// One number under either rule, written from PyTorch's documentation with nothing left out and nothing shared.
#[derive(Clone, Default)]
struct Scalar {
    p: f64,
    buffer: Option<f64>,
    exp_avg: f64,
    exp_avg_sq: f64,
    updates: i32,
}

impl Scalar {
    fn step(&mut self, config: &OptimizerConfig, lr: f64, grad: f64) {
        match config {
            OptimizerConfig::Sgd(SgdConfig { momentum, nesterov, weight_decay, .. }) => {
                let mut g = grad + weight_decay * self.p;
                if *momentum != 0. {
                    let buffer = self.buffer.map_or(g, |old| momentum * old + g);
                    self.buffer = Some(buffer);
                    g = if *nesterov { g + momentum * buffer } else { buffer };
                }
                self.p -= lr * g;
            }
            OptimizerConfig::AdamW(AdamWConfig { beta1, beta2, eps, weight_decay, .. }) => {
                self.updates += 1;
                self.p -= lr * weight_decay * self.p;
                self.exp_avg = beta1 * self.exp_avg + (1. - beta1) * grad;
                self.exp_avg_sq = beta2 * self.exp_avg_sq + (1. - beta2) * grad * grad;
                let m_hat = self.exp_avg / (1. - beta1.powi(self.updates));
                let v_hat = self.exp_avg_sq / (1. - beta2.powi(self.updates));
                self.p -= lr * m_hat / (v_hat.sqrt() + eps);
            }
        }
    }
}

const NAMES: [&str; 3] = ["conv1.weight", "fc.bias", "sn1.tgim"];
const SHAPES: [&[usize]; 3] = [&[4, 3, 3, 3], &[10], &[2, 2]];

fn configs() -> [OptimizerConfig; 4] {
    let sgd = |momentum, nesterov| OptimizerConfig::Sgd(SgdConfig { lr: 0.05, momentum, nesterov, weight_decay: 5e-3 });
    let adamw = AdamWConfig { lr: 0.02, weight_decay: 0.01, ..AdamWConfig::default() };
    [sgd(0., false), sgd(0.9, false), sgd(0.9, true), OptimizerConfig::AdamW(adamw)]
}

fn network(dtype: DType) -> Result<Vec<(String, Var)>> {
    let params = NAMES.iter().zip(SHAPES).enumerate().map(|(i, (name, shape))| {
        let values = Tensor::new(numbers(i as u64, shape.iter().product()), &CPU)?.reshape(shape)?;
        Ok((name.to_string(), Var::from_tensor(&values.to_dtype(dtype)?)?))
    });
    params.collect()
}

fn gradient(step: u64, i: usize) -> Vec<f64> {
    numbers(100 + 10 * step + i as u64, SHAPES[i].iter().product())
}

/// Every third gradient of the second parameter is missing, from the first on.
fn has_gradient(step: u64, i: usize) -> bool {
    i != 1 || !step.is_multiple_of(3)
}

fn step_all(optimizer: &mut dyn Optimizer, step: u64) -> AnyResult {
    optimizer.set_lr(lr_at(step))?;
    let mut grads = GradStore::default();
    for (i, (_, var)) in optimizer.params().iter().enumerate() {
        if has_gradient(step, i) {
            grads.insert(var, Tensor::new(gradient(step, i), &CPU)?.reshape(SHAPES[i])?.to_dtype(var.dtype())?);
        }
    }
    Ok(optimizer.step(&grads)?)
}

fn lr_at(step: u64) -> f64 {
    0.05 / (1. + step as f64 / 10.)
}

fn values(params: &[(String, Var)]) -> Result<Vec<Vec<f64>>> {
    params.iter().map(|(_, var)| var.flatten_all()?.to_dtype(DType::F64)?.to_vec1()).collect()
}

#[test]
fn forty_steps_are_those_of_the_scalar_rule() -> AnyResult {
    for config in configs() {
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 3e-6)] {
            let mut optimizer = config.build(network(dtype)?)?;
            let start = values(optimizer.params())?;
            let mut scalars: Vec<Vec<Scalar>> = start
                .iter()
                .map(|values| values.iter().map(|&p| Scalar { p, ..Scalar::default() }).collect())
                .collect();
            for step in 0..40 {
                step_all(&mut *optimizer, step)?;
                for (i, scalars) in scalars.iter_mut().enumerate().filter(|(i, _)| has_gradient(step, *i)) {
                    scalars.iter_mut().zip(gradient(step, i)).for_each(|(s, g)| s.step(&config, lr_at(step), g));
                }
            }
            assert_eq!(optimizer.steps(), 40);
            for (got, expected) in values(optimizer.params())?.iter().zip(&scalars) {
                got.iter().zip(expected).for_each(|(g, e)| assert_close(*g, e.p, tolerance));
            }
            // It has moved: the comparison above is about something.
            let moved = values(optimizer.params())?.iter().zip(&start).all(|(now, then)| now != then);
            assert!(moved, "{config:?}");
        }
    }
    Ok(())
}

#[test]
fn large_parameters_are_the_same_on_any_number_of_threads() -> AnyResult {
    // 100 000 numbers: several tasks, the last of them short.
    let n = 100_000;
    let run = |threads: usize, config: &OptimizerConfig| -> Result<(Vec<f32>, f64)> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let tensor = |seed| Tensor::new(numbers(seed, n), &CPU)?.to_dtype(DType::F32);
            let p = Var::from_tensor(&tensor(1)?)?;
            let mut optimizer = config.build(vec![("p".into(), p.clone())]).expect("a valid configuration");
            let mut norm = 0.;
            for step in 0..3 {
                let grads = grads_of(&[(&p, &tensor(2 + step)?)]);
                norm += grad_norm(&grads, optimizer.params())?;
                optimizer.step(&grads)?;
            }
            Ok((p.to_vec1()?, norm))
        })
    };
    for config in configs() {
        assert_eq!(run(1, &config)?, run(3, &config)?, "{config:?}");
    }
    Ok(())
}

#[test]
fn a_parameter_without_gradient_is_left_alone() -> AnyResult {
    let used = Var::new(&[1f64, 2.], &CPU)?;
    let unused = Var::new(&[3f64, 4.], &CPU)?;
    for config in configs() {
        let params = vec![("used".to_string(), used.clone()), ("unused".to_string(), unused.clone())];
        let mut optimizer = config.build(params)?;
        optimizer.step(&used.sqr()?.sum_all()?.backward()?)?;
        // Not even decayed, though all these configurations have a weight decay.
        assert_eq!(unused.to_vec1::<f64>()?, [3., 4.]);
        let state = optimizer.state()?;
        assert!(!state.iter().any(|(name, _)| name.starts_with("unused.") && name != "unused.step"));
    }
    assert_ne!(used.to_vec1::<f64>()?, [1., 2.]);
    Ok(())
}

#[test]
fn a_strided_gradient_is_applied_where_it_belongs() -> AnyResult {
    let p = Var::zeros((2, 3), DType::F32, &CPU)?;
    let grad = Tensor::new(&[[1f32, 4.], [2., 5.], [3., 6.]], &CPU)?.t()?;
    assert!(!grad.is_contiguous());
    let mut sgd = Sgd::new(vec![("p".into(), p.clone())], SgdConfig { lr: 1., ..SgdConfig::default() })?;
    sgd.step(&grads_of(&[(&p, &grad)]))?;
    assert_eq!(p.to_vec2::<f32>()?, [[-1., -2., -3.], [-4., -5., -6.]]);
    Ok(())
}

#[test]
fn a_restored_optimizer_goes_on_to_the_bit() -> AnyResult {
    for config in configs() {
        for dtype in [DType::F32, DType::F64] {
            let mut straight = config.build(network(dtype)?)?;
            let mut halted = config.build(network(dtype)?)?;
            // Seven steps: the second parameter has skipped three, so its own count matters to AdamW.
            for step in 0..7 {
                step_all(&mut *straight, step)?;
                step_all(&mut *halted, step)?;
            }
            // Through a file, and with fresh variables, as a resumed run.
            let dir = tempfile::tempdir()?;
            let file = dir.path().join("optimizer.safetensors");
            candle_core::safetensors::save(&halted.state()?.into_iter().collect(), &file)?;
            let saved: Vec<_> = candle_core::safetensors::load(&file, &CPU)?.into_iter().collect();
            let params = network(dtype)?;
            for ((_, to), (_, from)) in params.iter().zip(halted.params()) {
                to.set(&from.as_detached_tensor().copy()?)?;
            }
            drop(halted);
            let mut resumed = config.build(params)?;
            resumed.load_state(&saved)?;
            assert_eq!(resumed.steps(), 7);
            for step in 7..12 {
                step_all(&mut *straight, step)?;
                step_all(&mut *resumed, step)?;
            }
            assert_eq!(values(straight.params())?, values(resumed.params())?, "{config:?}");
            let same = |a: &Tensor, b: &Tensor| -> Result<bool> {
                let bits = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
                Ok(a.dtype() == b.dtype() && a.dims() == b.dims() && bits(a)? == bits(b)?)
            };
            for ((a_name, a), (b_name, b)) in straight.state()?.iter().zip(&resumed.state()?) {
                assert!(a_name == b_name && same(a, b)?, "{a_name}, {b_name}");
            }
        }
    }
    Ok(())
}

#[test]
fn state_has_the_documented_names_sorted() -> AnyResult {
    let names = |config: &OptimizerConfig| -> std::result::Result<Vec<String>, Box<dyn std::error::Error>> {
        let b = Var::new(&[1f64], &CPU)?;
        let a = Var::new(&[[1f64, 2.]], &CPU)?;
        let mut optimizer = config.build(vec![("b".into(), b.clone()), ("a".into(), a.clone())])?;
        optimizer.step(&(b.sum_all()? + a.sum_all()?)?.backward()?)?;
        assert_eq!(optimizer.params()[0].0, "b", "the caller's order stays");
        Ok(optimizer.state()?.into_iter().map(|(name, _)| name).collect())
    };
    let [plain, _, momentum, adamw] = configs();
    assert_eq!(names(&plain)?, ["a.step", "b.step", "steps"]);
    assert_eq!(names(&momentum)?, ["a.momentum_buffer", "a.step", "b.momentum_buffer", "b.step", "steps"]);
    let expected = ["a.exp_avg", "a.exp_avg_sq", "a.step", "b.exp_avg", "b.exp_avg_sq", "b.step", "steps"];
    assert_eq!(names(&adamw)?, expected);
    // Before the first step there are only counts, and they load.
    let fresh = adamw.build(one_param(1.)?)?.state()?;
    assert_eq!(fresh.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["p.step", "steps"]);
    adamw.build(one_param(1.)?)?.load_state(&fresh)?;
    Ok(())
}

#[test]
fn a_state_that_does_not_fit_is_refused_whole() -> AnyResult {
    let [_, _, sgd, adamw] = configs();
    let mut trained = adamw.build(network(DType::F32)?)?;
    (0..3).try_for_each(|step| step_all(&mut *trained, step))?;
    let good = trained.state()?;

    let without = |name: &str| good.iter().filter(|(n, _)| n != name).cloned().collect::<Vec<_>>();
    let with = |name: &str, tensor: Tensor| {
        let mut state = without(name);
        state.push((name.to_string(), tensor));
        state
    };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &CPU);
    let cases = [
        ("conv1.weight.exp_avg is missing", without("conv1.weight.exp_avg")),
        ("sn1.tgim.step is missing", without("sn1.tgim.step")),
        ("steps is missing", without("steps")),
        ("fc.bias.exp_avg_sq: expected shape [10] of type F32", with("fc.bias.exp_avg_sq", zeros(&[11], DType::F32)?)),
        ("got shape [10] of type F64", with("fc.bias.exp_avg_sq", zeros(&[10], DType::F64)?)),
        ("sn1.tgim.step: expected a count", with("sn1.tgim.step", zeros(&[1], DType::I64)?)),
        ("steps: expected a count", with("steps", Tensor::new(-1i64, &CPU)?)),
        ("layer9.weight.exp_avg belongs to no parameter", with("layer9.weight.exp_avg", zeros(&[1], DType::F32)?)),
        ("steps: expected one entry", [good.clone(), vec![("steps".into(), Tensor::new(1i64, &CPU)?)]].concat()),
    ];
    let mut target = adamw.build(network(DType::F32)?)?;
    step_all(&mut *target, 0)?;
    let before = format!("{:?}", values_of(&target.state()?)?);
    for (expected, state) in cases {
        let error = target.load_state(&state).expect_err(expected).to_string();
        assert!(error.starts_with("optimizer state: ") && error.contains(expected), "{error}");
        assert_eq!(format!("{:?}", values_of(&target.state()?)?), before, "{expected}");
    }
    // Another rule's state: what it lacks is named.
    let error = sgd.build(network(DType::F32)?)?.load_state(&good).unwrap_err();
    assert!(matches!(&error, Error::MissingState { name } if name == "conv1.weight.momentum_buffer"), "{error}");
    target.load_state(&good)?;
    assert_eq!(values_of(&target.state()?)?, values_of(&good)?);
    Ok(())
}

fn values_of(state: &[(String, Tensor)]) -> Result<Vec<(String, Vec<f64>)>> {
    let values = state.iter().map(|(name, t)| Ok((name.clone(), t.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)));
    values.collect()
}

#[test]
fn a_gradient_that_does_not_fit_moves_nothing() -> AnyResult {
    let a = Var::new(&[1f32, 2.], &CPU)?;
    let b = Var::new(&[3f32, 4.], &CPU)?;
    let mut sgd = Sgd::new(vec![("a".into(), a.clone()), ("fc.bias".into(), b.clone())], SgdConfig::default())?;
    let good = Tensor::new(&[1f32, 1.], &CPU)?;
    for bad in [Tensor::new(&[1f32, 1., 1.], &CPU)?, Tensor::new(&[1f64, 1.], &CPU)?] {
        let error = sgd.step(&grads_of(&[(&a, &good), (&b, &bad)])).unwrap_err().to_string();
        assert!(error.contains("fc.bias: expected a gradient of shape [2], type F32"), "{error}");
        assert!(error.contains(&format!("{:?}", bad.dtype())), "{error}");
    }
    assert_eq!(a.to_vec1::<f32>()?, [1., 2.]);
    assert_eq!(sgd.steps(), 0);
    Ok(())
}

#[test]
fn invalid_settings_and_parameters_are_named() -> AnyResult {
    let nan = f64::NAN;
    let sgd = SgdConfig::default();
    let adamw = AdamWConfig::default();
    for (field, config) in [
        ("lr", OptimizerConfig::Sgd(SgdConfig { lr: -1., ..sgd })),
        ("lr", OptimizerConfig::AdamW(AdamWConfig { lr: nan, ..adamw })),
        ("momentum", OptimizerConfig::Sgd(SgdConfig { momentum: 1., ..sgd })),
        ("momentum", OptimizerConfig::Sgd(SgdConfig { momentum: nan, ..sgd })),
        ("momentum", OptimizerConfig::Sgd(SgdConfig { nesterov: true, ..sgd })),
        ("weight_decay", OptimizerConfig::Sgd(SgdConfig { weight_decay: -0.1, ..sgd })),
        ("weight_decay", OptimizerConfig::AdamW(AdamWConfig { weight_decay: f64::INFINITY, ..adamw })),
        ("beta1", OptimizerConfig::AdamW(AdamWConfig { beta1: -0.1, ..adamw })),
        ("beta2", OptimizerConfig::AdamW(AdamWConfig { beta2: 1., ..adamw })),
        ("eps", OptimizerConfig::AdamW(AdamWConfig { eps: -1e-8, ..adamw })),
    ] {
        assert!(config.validate().is_err());
        match config.build(one_param(1.)?).err() {
            Some(Error::InvalidOptimizer { field: named, .. }) => assert_eq!(named, field, "{config:?}"),
            other => panic!("{config:?} gave {other:?}"),
        }
    }
    let mut optimizer = OptimizerConfig::Sgd(sgd).build(one_param(1.)?)?;
    assert!(optimizer.set_lr(nan).is_err());
    assert_eq!(optimizer.lr(), sgd.lr);
    optimizer.set_lr(0.5)?;
    assert_eq!(optimizer.lr(), 0.5);

    let var = Var::new(&[1f32], &CPU)?;
    let half = Var::zeros(1, DType::BF16, &CPU)?;
    let message = |params: &[(&str, &Var)]| {
        let params = params.iter().map(|(name, var)| (name.to_string(), (*var).clone())).collect();
        Sgd::new(params, sgd).expect_err("bad parameters").to_string()
    };
    assert!(message(&[("", &var)]).contains("a name"));
    assert!(
        message(&[("a", &var), ("a", &Var::new(&[1f32], &CPU)?)]).contains("parameter a: expected a name of its own")
    );
    assert!(
        message(&[("a", &var), ("b", &var)])
            .contains("parameter b: expected a variable of its own, got the variable of a")
    );
    assert!(message(&[("a", &half)]).contains("BF16"));
    Ok(())
}

#[test]
fn configurations_are_read_and_written() -> AnyResult {
    for config in configs() {
        assert_eq!(serde_json::from_str::<OptimizerConfig>(&serde_json::to_string(&config)?)?, config);
    }
    let text = r#"{"kind": "sgd", "lr": 0.025, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4}"#;
    let published = SgdConfig { lr: 0.025, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    assert_eq!(serde_json::from_str::<OptimizerConfig>(text)?, OptimizerConfig::Sgd(published));
    let adamw: OptimizerConfig = serde_json::from_str(r#"{"kind": "adamw"}"#)?;
    assert_eq!(adamw, OptimizerConfig::AdamW(AdamWConfig::default()));
    for wrong in [r#"{"lr": 1}"#, r#"{"kind": "adam"}"#, r#"{"kind": "sgd", "beta1": 0.9}"#] {
        assert!(serde_json::from_str::<OptimizerConfig>(wrong).is_err(), "{wrong}");
    }
    Ok(())
}

#[test]
fn the_norm_runs_over_all_parameters_and_strides() -> AnyResult {
    let a = Var::zeros((2, 2), DType::F32, &CPU)?;
    let b = Var::zeros(3, DType::F64, &CPU)?;
    let unused = Var::zeros(1, DType::F32, &CPU)?;
    let params = [("a".to_string(), a.clone()), ("unused".to_string(), unused), ("b".to_string(), b.clone())];
    let a_grad = Tensor::new(&[[1f32, 2., 9.], [3., 4., 9.]], &CPU)?.narrow(1, 0, 2)?;
    let b_grad = Tensor::new(&[5f64, 8., 11.], &CPU)?;
    // 1 + 4 + 9 + 16 + 25 + 64 + 121
    assert_close(grad_norm(&grads_of(&[(&a, &a_grad), (&b, &b_grad)]), &params)?, 240f64.sqrt(), 1e-14);
    assert_eq!(grad_norm(&GradStore::default(), &params)?, 0.);
    // The square of 1e30 is beyond f32.
    let large = Tensor::full(1e30f32, (2, 2), &CPU)?;
    assert_close(grad_norm(&grads_of(&[(&a, &large)]), &params)? / 2e30, 1., 1e-7);
    Ok(())
}

#[test]
fn the_first_gradient_that_is_not_finite_is_named() -> AnyResult {
    let n = 40_000;
    let params: Vec<(String, Var)> = ["a", "b", "c"]
        .iter()
        .map(|name| Ok((name.to_string(), Var::zeros(n, DType::F32, &CPU)?)))
        .collect::<Result<_>>()?;
    let clean = Tensor::ones(n, DType::F32, &CPU)?;
    let with = |at: usize, value: f32| {
        let mut values = vec![1f32; n];
        values[at] = value;
        Tensor::new(values, &CPU)
    };
    let grads = |b: &Tensor, c: &Tensor| grads_of(&[(&params[0].1, &clean), (&params[1].1, b), (&params[2].1, c)]);
    assert_eq!(find_non_finite(&grads(&clean, &clean), &params)?, None);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, n / 2, n - 1] {
            let bad = with(at, value)?;
            assert_eq!(find_non_finite(&grads(&clean, &bad), &params)?.as_deref(), Some("c"));
            assert_eq!(find_non_finite(&grads(&bad, &bad), &params)?.as_deref(), Some("b"));
            assert!(!grad_norm(&grads(&bad, &clean), &params)?.is_finite());
        }
    }
    // The largest finite number is finite.
    assert_eq!(find_non_finite(&grads(&with(1, f32::MAX)?, &clean), &params)?, None);
    Ok(())
}

#[test]
fn gradients_of_a_loss_bring_it_down() -> AnyResult {
    // 40 steps on a quadratic, from Candle's own backward: the whole way from loss to parameter.
    for config in configs() {
        let p = Var::from_vec(numbers(9, 20), 20, &CPU)?;
        let target = Tensor::new(numbers(10, 20), &CPU)?;
        let mut optimizer = config.build(vec![("p".into(), p.clone())])?;
        let loss = || (p.as_tensor() - &target)?.sqr()?.sum_all();
        let first = loss()?.to_scalar::<f64>()?;
        for _ in 0..60 {
            optimizer.step(&loss()?.backward()?)?;
        }
        let last = loss()?.to_scalar::<f64>()?;
        assert!(last < first / 4., "{config:?}: from {first} to {last}");
    }
    Ok(())
}
