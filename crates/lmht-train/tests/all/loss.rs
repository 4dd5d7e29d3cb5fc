//! Losses against their formulas, against finite differences, and at the ends of the range.

use candle_core::{DType, Device, Result, Tensor, Var};
use lmht_train::loss::{
    cross_entropy, cumulative_readout, cumulative_top1, readout, smooth_targets, soft_cross_entropy, top1,
};

use crate::{assert_close, numbers};

const CPU: Device = Device::Cpu;

/// Softmax of one row, by the book.
fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let exps: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// `(1 - ε) one_hot + ε / K`
fn smoothed(label: u32, n_classes: usize, label_smoothing: f64) -> Vec<f64> {
    (0..n_classes)
        .map(|k| label_smoothing / n_classes as f64 + if k == label as usize { 1. - label_smoothing } else { 0. })
        .collect()
}

#[test]
fn a_case_for_the_pencil() -> Result<()> {
    // Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
    let logits = Tensor::new(&[[0., 2f64.ln(), 5f64.ln()]], &CPU)?;
    let label = Tensor::new(&[2u32], &CPU)?;
    assert_close(cross_entropy(&logits, &label, 0.)?.to_scalar()?, (8f64 / 5.).ln(), 1e-15);
    // ε = 0.3: targets 0.1, 0.1, 0.8.
    let expected = 0.1 * 8f64.ln() + 0.1 * 4f64.ln() + 0.8 * (8f64 / 5.).ln();
    assert_close(cross_entropy(&logits, &label, 0.3)?.to_scalar()?, expected, 1e-15);
    let targets = Tensor::new(&[[0.1, 0.1, 0.8]], &CPU)?;
    assert_close(soft_cross_entropy(&logits, &targets)?.to_scalar()?, expected, 1e-15);
    Ok(())
}

#[test]
fn loss_and_gradient_are_those_of_the_formula() -> Result<()> {
    let (b, n_classes) = (7, 5);
    let values: Vec<f64> = numbers(1, b * n_classes).iter().map(|x| 4. * x).collect();
    let labels: Vec<u32> = (0..b as u32).map(|i| (i * 3) % n_classes as u32).collect();
    let label_tensor = Tensor::new(labels.as_slice(), &CPU)?;
    for label_smoothing in [0., 0.1, 1.] {
        let logits = Var::from_vec(values.clone(), (b, n_classes), &CPU)?;
        let q: Vec<Vec<f64>> = labels.iter().map(|&label| smoothed(label, n_classes, label_smoothing)).collect();
        let targets = Tensor::new(q.concat(), &CPU)?.reshape((b, n_classes))?;

        let hard = cross_entropy(&logits, &label_tensor, label_smoothing)?;
        let soft = soft_cross_entropy(&logits, &targets)?;
        let mut expected = 0.;
        let mut expected_grad = Vec::new();
        for (row, q) in values.chunks(n_classes).zip(&q) {
            let p = softmax(row);
            expected -= p.iter().zip(q).map(|(p, q)| q * p.ln()).sum::<f64>() / b as f64;
            expected_grad.extend(p.iter().zip(q).map(|(p, q)| (p - q) / b as f64));
        }
        for loss in [hard, soft] {
            assert_close(loss.to_scalar()?, expected, 1e-14);
            let grads = loss.backward()?;
            let grad = grads.get(&logits).expect("the logits have a gradient").flatten_all()?.to_vec1::<f64>()?;
            for (g, e) in grad.iter().zip(&expected_grad) {
                assert_close(*g, *e, 1e-16);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_agree_with_finite_differences_through_the_readout() -> Result<()> {
    let (timesteps, b, n_classes) = (3, 4, 6);
    let n = timesteps * b * n_classes;
    let values = numbers(2, n);
    let labels = Tensor::new(&[5u32, 0, 2, 2], &CPU)?;
    let targets: Vec<f64> = numbers(3, b * n_classes).chunks(n_classes).flat_map(softmax).collect();
    let targets = Tensor::new(targets, &CPU)?.reshape((b, n_classes))?;

    type Loss<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;
    let losses: [Loss; 3] = [
        Box::new(|logits| cross_entropy(&readout(logits)?, &labels, 0.)),
        Box::new(|logits| cross_entropy(&readout(logits)?, &labels, 0.1)),
        Box::new(|logits| soft_cross_entropy(&readout(logits)?, &targets)),
    ];
    for loss in losses {
        let at = |values: &[f64]| -> Result<f64> {
            loss(&Tensor::from_slice(values, (timesteps, b, n_classes), &CPU)?)?.to_scalar()
        };
        let logits = Var::from_slice(&values, (timesteps, b, n_classes), &CPU)?;
        let grads = loss(&logits)?.backward()?;
        let grad = grads.get(&logits).expect("the logits have a gradient").flatten_all()?.to_vec1::<f64>()?;
        let h = 1e-5;
        for i in 0..n {
            let (mut above, mut below) = (values.clone(), values.clone());
            above[i] += h;
            below[i] -= h;
            // The error of a central difference is h² times a third derivative, plus rounding over h: some 1e-11.
            assert_close(grad[i], (at(&above)? - at(&below)?) / (2. * h), 1e-10);
        }
    }
    Ok(())
}

#[test]
fn large_logits_neither_overflow_nor_vanish() -> Result<()> {
    for dtype in [DType::F64, DType::F32] {
        let logits = Var::from_tensor(&Tensor::new(&[[1e4, -1e4, 0.], [-1e4, -1e4, -1e4]], &CPU)?.to_dtype(dtype)?)?;
        let labels = Tensor::new(&[1u32, 0], &CPU)?;
        let loss = cross_entropy(&logits, &labels, 0.)?;
        // Row 0: 1e4 - (-1e4). Row 1: three equal logits, ln 3.
        let expected = (2e4 + 3f64.ln()) / 2.;
        let relative = if dtype == DType::F64 { 1e-15 } else { 1e-7 };
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        assert_close(value, expected, expected * relative);
        let grads = loss.backward()?;
        let grad = grads.get(&logits).expect("the logits have a gradient").to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let third = 1. / 3.;
        let expected = [[0.5, -0.5, 0.], [(third - 1.) / 2., third / 2., third / 2.]];
        for (g, e) in grad.iter().flatten().zip(expected.iter().flatten()) {
            assert_close(*g, *e, relative);
        }
    }
    Ok(())
}

#[test]
fn narrow_floats_are_summed_in_f32() -> Result<()> {
    let logits = Tensor::new(&[[0f32, 10., 20.], [1., 2., 3.]], &CPU)?;
    let labels = Tensor::new(&[0u32, 2], &CPU)?;
    let expected = cross_entropy(&logits, &labels, 0.1)?.to_scalar::<f32>()?;
    for dtype in [DType::F16, DType::BF16] {
        // These logits are exact in either, so the loss must be the same number.
        let var = Var::from_tensor(&logits.to_dtype(dtype)?)?;
        let loss = cross_entropy(&var, &labels, 0.1)?;
        assert_eq!(loss.dtype(), DType::F32);
        assert_eq!(loss.to_scalar::<f32>()?, expected);
        assert_eq!(loss.backward()?.get(&var).expect("the logits have a gradient").dtype(), dtype);
    }
    Ok(())
}

#[test]
fn no_gradient_reaches_the_targets() -> Result<()> {
    let logits = Var::new(&[[0.5f64, 1.]], &CPU)?;
    let targets = Var::new(&[[0.25f64, 0.75]], &CPU)?;
    let grads = soft_cross_entropy(&logits, &targets)?.backward()?;
    assert!(grads.get(&logits).is_some());
    assert!(grads.get(&targets).is_none());
    Ok(())
}

#[test]
fn labels_of_a_strided_view_are_read_right() -> Result<()> {
    let labels = Tensor::new(&[[0u32, 9], [1, 9]], &CPU)?.narrow(1, 0, 1)?.squeeze(1)?;
    assert!(!labels.is_contiguous());
    let logits = Tensor::new(&[[2f64, 0.], [0., 2.]], &CPU)?;
    let expected = (1. + (-2f64).exp()).ln();
    assert_close(cross_entropy(&logits, &labels, 0.)?.to_scalar()?, expected, 1e-15);
    assert_eq!(top1(&logits, &labels)?, 2);
    Ok(())
}

#[test]
fn top1_takes_the_first_maximum_and_never_a_nan() -> Result<()> {
    let nan = f64::NAN;
    let logits = [[1., 1., 0.], [0., 1., 1.], [-3., -2., -1.], [nan, 0., 1.], [2., nan, 1.], [1., 0., nan]];
    let logits = Tensor::new(&logits, &CPU)?;
    let predicted = [0u32, 1, 2];
    // The rows with a NaN get the labels that a naive maximum would have chosen.
    let right = Tensor::new([predicted.as_slice(), &[0, 0, 0]].concat(), &CPU)?;
    assert_eq!(top1(&logits, &right)?, 3);
    let second_of_tie = Tensor::new(&[1u32, 2, 2, 2, 0, 0], &CPU)?;
    assert_eq!(top1(&logits, &second_of_tie)?, 1);
    Ok(())
}

#[test]
fn readouts_accumulate_over_the_timesteps() -> Result<()> {
    // Two images, three timesteps; image 0 turns right at the second, image 1 wrong at the third.
    let logits = Tensor::new(&[[[3f64, 0.], [0., 1.]], [[0., 5.], [0., 1.]], [[1., 1.], [6., 1.]]], &CPU)?;
    let labels = Tensor::new(&[1u32, 1], &CPU)?;
    let cumulative = cumulative_readout(&logits)?.to_vec3::<f64>()?;
    assert_eq!(cumulative[0], [[3., 0.], [0., 1.]]);
    assert_eq!(cumulative[1], [[1.5, 2.5], [0., 1.]]);
    assert_eq!(cumulative[2], readout(&logits)?.to_vec2::<f64>()?);
    assert_close(cumulative[2][0][0], 4. / 3., 1e-15);
    assert_eq!(cumulative_top1(&logits, &labels)?, [1, 2, 1]);
    Ok(())
}

#[test]
fn the_last_cumulative_readout_is_the_readout_to_the_bit() -> Result<()> {
    let values: Vec<f32> = numbers(4, 7 * 3 * 10).iter().map(|&x| x as f32).collect();
    let logits = Tensor::from_vec(values, (7, 3, 10), &CPU)?;
    let last = cumulative_readout(&logits)?.get(6)?.to_vec2::<f32>()?;
    assert_eq!(last, readout(&logits)?.to_vec2::<f32>()?);
    Ok(())
}

/// Smoothing one-hot targets is the smoothing of labels, and smoothing a mixture is mixing what was smoothed.
#[test]
fn smoothed_targets_are_smoothed_labels() -> Result<()> {
    let logits = Tensor::from_vec(numbers(5, 6), (2, 3), &CPU)?;
    let labels = Tensor::new(&[2u32, 0], &CPU)?;
    let one_hot = Tensor::new(&[[0f64, 0., 1.], [1., 0., 0.]], &CPU)?;
    for label_smoothing in [0., 0.1, 1.] {
        let soft = soft_cross_entropy(&logits, &smooth_targets(&one_hot, label_smoothing)?)?.to_scalar::<f64>()?;
        assert_close(soft, cross_entropy(&logits, &labels, label_smoothing)?.to_scalar()?, 1e-15);
    }
    // By hand, ε = 0.3: a quarter of class 0 and three of class 2 become 0.7 of that and 0.1 more.
    let mixed = smooth_targets(&Tensor::new(&[[0.25f64, 0., 0.75]], &CPU)?, 0.3)?.to_vec2::<f64>()?;
    for (found, expected) in mixed[0].iter().zip([0.275, 0.1, 0.625]) {
        assert_close(*found, expected, 1e-15);
    }
    let error = smooth_targets(&labels, 0.1).unwrap_err().to_string();
    assert!(error.contains("[B, K]") && error.contains("U32"), "{error}");
    let error = smooth_targets(&one_hot, f64::NAN).unwrap_err().to_string();
    assert!(error.contains("label_smoothing"), "{error}");
    Ok(())
}

#[test]
fn bad_input_is_an_error_that_says_what_came() -> Result<()> {
    let logits = Tensor::zeros((2, 3), DType::F32, &CPU)?;
    let labels = Tensor::new(&[0u32, 1], &CPU)?;
    let out_of_range = Tensor::new(&[0u32, 3], &CPU)?;
    let empty = Tensor::zeros((0, 3), DType::F32, &CPU)?;
    let no_labels = Tensor::zeros(0, DType::U32, &CPU)?;
    let message = |result: Result<Tensor>| result.expect_err("bad input").to_string();

    let error = message(cross_entropy(&logits, &out_of_range, 0.));
    assert!(error.contains("below 3") && error.contains("got 3 for image 1"), "{error}");
    let error = top1(&logits, &out_of_range).unwrap_err().to_string();
    assert!(error.contains("got 3 for image 1"), "{error}");
    let error = message(cross_entropy(&logits, &labels.to_dtype(DType::I64)?, 0.));
    assert!(error.contains("I64"), "{error}");
    let error = message(cross_entropy(&logits, &labels.narrow(0, 0, 1)?, 0.));
    assert!(error.contains("shape [2]") && error.contains("[1]"), "{error}");
    for label_smoothing in [-0.1, 1.1, f64::NAN] {
        let error = message(cross_entropy(&logits, &labels, label_smoothing));
        assert!(error.contains("label_smoothing"), "{error}");
    }
    let error = message(cross_entropy(&logits.unsqueeze(0)?, &labels, 0.));
    assert!(error.contains("[1, 2, 3]") && error.contains("readout"), "{error}");
    assert!(message(cross_entropy(&empty, &no_labels, 0.)).contains("[0, 3]"));
    assert!(message(cross_entropy(&labels.unsqueeze(1)?, &labels, 0.)).contains("U32"));

    let error = message(soft_cross_entropy(&logits, &labels));
    assert!(error.contains("[2, 3]") && error.contains("cross_entropy"), "{error}");
    let error = message(soft_cross_entropy(&logits, &Tensor::zeros((2, 3), DType::U32, &CPU)?));
    assert!(error.contains("U32"), "{error}");

    assert!(message(readout(&logits)).contains("[T, B, K]"));
    assert!(message(cumulative_readout(&Tensor::zeros((0, 2, 3), DType::F32, &CPU)?)).contains("[0, 2, 3]"));
    assert!(cumulative_top1(&logits, &labels).is_err());
    Ok(())
}
