//! Learning rates with values worked by hand.

use lmht_train::Error;
use lmht_train::schedule::{Decay, Position, ScheduleConfig, UpdateEvery};

use crate::assert_close;

fn at(epoch: usize, epochs: usize) -> Position {
    Position { epoch, step: 0, epochs, steps_per_epoch: 4 }
}

fn lrs(schedule: &ScheduleConfig, base_lr: f64, epochs: usize) -> Vec<f64> {
    (0..=epochs).map(|epoch| schedule.lr(base_lr, &at(epoch, epochs)).expect("a valid schedule")).collect()
}

#[track_caller]
fn assert_lrs(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).for_each(|(g, e)| assert_close(*g, *e, 1e-15));
}

#[test]
fn cosine_goes_from_the_base_to_the_minimum() {
    let root = 3f64.sqrt() / 2.;
    // cos 0, 30°, 60°, … 180°; between 1 and 0.2 the middle is 0.6, the half width 0.4.
    let schedule = ScheduleConfig { decay: Decay::Cosine { min_lr: 0.2 }, ..ScheduleConfig::default() };
    let cosines = [1., root, 0.5, 0., -0.5, -root, -1.];
    assert_lrs(&lrs(&schedule, 1., 6), &cosines.map(|cos| 0.6 + 0.4 * cos));
    // As published: to zero.
    assert_lrs(&lrs(&ScheduleConfig::default(), 0.5, 2), &[0.5, 0.25, 0.]);
}

#[test]
fn warm_up_comes_first_and_the_cosine_takes_the_rest() {
    let schedule = ScheduleConfig { warmup_epochs: 4, warmup_start_factor: 0.2, ..ScheduleConfig::default() };
    // Four epochs of warm-up from 0.2 in equal parts, then a cosine over the two that remain.
    assert_lrs(&lrs(&schedule, 1., 6), &[0.2, 0.4, 0.6, 0.8, 1., 0.5, 0.]);
}

#[test]
fn per_step_moves_within_the_epoch() -> Result<(), Error> {
    let per_epoch = ScheduleConfig { warmup_epochs: 1, warmup_start_factor: 0.5, ..ScheduleConfig::default() };
    let per_step = ScheduleConfig { update_every: UpdateEvery::Step, ..per_epoch.clone() };
    let position = |epoch, step| Position { epoch, step, epochs: 3, steps_per_epoch: 4 };
    for (epoch, step, expected) in [
        (0, 0, 0.5),
        (0, 2, 0.75),
        (1, 0, 1.),
        // Half an epoch of two: 45°.
        (1, 2, (1. + 0.5f64.sqrt()) / 2.),
        (2, 0, 0.5),
        (2, 2, (1. - 0.5f64.sqrt()) / 2.),
        (3, 0, 0.),
        // The run is over: no way past its end.
        (3, 3, 0.),
    ] {
        assert_close(per_step.lr(1., &position(epoch, step))?, expected, 1e-15);
        assert_eq!(per_epoch.lr(1., &position(epoch, step))?, per_epoch.lr(1., &position(epoch, 0))?);
    }
    Ok(())
}

#[test]
fn constant_and_steps() {
    let constant = ScheduleConfig { decay: Decay::Constant {}, ..ScheduleConfig::default() };
    assert_lrs(&lrs(&constant, 0.3, 3), &[0.3; 4]);
    let step = ScheduleConfig { decay: Decay::Step { every_epochs: 2, gamma: 0.5 }, ..ScheduleConfig::default() };
    assert_lrs(&lrs(&step, 8., 6), &[8., 8., 4., 4., 2., 2., 1.]);
    let decay = Decay::MultiStep { milestones: vec![1, 4], gamma: 0.5 };
    let multi_step = ScheduleConfig { decay: decay.clone(), ..ScheduleConfig::default() };
    assert_lrs(&lrs(&multi_step, 8., 5), &[8., 4., 4., 4., 2., 2.]);
    // Milestones count from the start of the run; at the end of the warm-up the first is due at once.
    let warm = ScheduleConfig { decay, warmup_epochs: 1, warmup_start_factor: 0.25, ..ScheduleConfig::default() };
    assert_lrs(&lrs(&warm, 8., 5), &[2., 4., 4., 4., 2., 2.]);
    // Milestones stay at the start of an epoch, also when the rest moves per step.
    let warm = ScheduleConfig { update_every: UpdateEvery::Step, ..warm };
    for (epoch, step, expected) in [(0, 2, 5.), (1, 3, 4.), (3, 3, 4.), (4, 0, 2.)] {
        let position = Position { epoch, step, epochs: 5, steps_per_epoch: 4 };
        assert_close(warm.lr(8., &position).expect("a valid schedule"), expected, 1e-15);
    }
}

#[test]
fn configurations_are_read_and_written() -> serde_json::Result<()> {
    let read = |text: &str| serde_json::from_str::<ScheduleConfig>(text);
    assert_eq!(read("{}")?, ScheduleConfig::default());
    let text = r#"{"decay": {"kind": "cosine", "min_lr": 0.001}, "warmup_epochs": 5, "update_every": "step"}"#;
    let expected = ScheduleConfig {
        decay: Decay::Cosine { min_lr: 0.001 },
        warmup_epochs: 5,
        update_every: UpdateEvery::Step,
        ..ScheduleConfig::default()
    };
    assert_eq!(read(text)?, expected);
    for decay in [
        Decay::Constant {},
        Decay::Cosine { min_lr: 0.1 },
        Decay::Step { every_epochs: 30, gamma: 0.1 },
        Decay::MultiStep { milestones: vec![3, 5], gamma: 0.2 },
    ] {
        let schedule = ScheduleConfig { decay, ..ScheduleConfig::default() };
        assert_eq!(read(&serde_json::to_string(&schedule)?)?, schedule);
    }
    for misspelt in [
        r#"{"warm_up_epochs": 5}"#,
        r#"{"decay": {"kind": "cosine", "eta_min": 0}}"#,
        r#"{"decay": {"kind": "constant", "min_lr": 0}}"#,
        r#"{"decay": {"kind": "exponential"}}"#,
        r#"{"decay": {"kind": "step", "gamma": 0.1}}"#,
        r#"{"update_every": "batch"}"#,
    ] {
        assert!(read(misspelt).is_err(), "{misspelt}");
    }
    Ok(())
}

#[test]
fn invalid_configurations_name_their_field() {
    let default = ScheduleConfig::default;
    let with = |decay| ScheduleConfig { decay, ..default() };
    let steps = |milestones: &[usize], gamma| with(Decay::MultiStep { milestones: milestones.into(), gamma });
    let cases = [
        ("warmup_epochs", ScheduleConfig { warmup_epochs: 10, ..default() }),
        ("warmup_start_factor", ScheduleConfig { warmup_start_factor: 0., ..default() }),
        ("warmup_start_factor", ScheduleConfig { warmup_start_factor: 1.5, ..default() }),
        ("warmup_start_factor", ScheduleConfig { warmup_start_factor: f64::NAN, ..default() }),
        ("min_lr", with(Decay::Cosine { min_lr: -0.1 })),
        ("min_lr", with(Decay::Cosine { min_lr: 1.1 })),
        ("min_lr", with(Decay::Cosine { min_lr: f64::NAN })),
        ("every_epochs", with(Decay::Step { every_epochs: 0, gamma: 0.1 })),
        ("gamma", with(Decay::Step { every_epochs: 1, gamma: 0. })),
        ("gamma", with(Decay::Step { every_epochs: 1, gamma: 1.1 })),
        ("gamma", steps(&[1], f64::NAN)),
        ("milestones", steps(&[3, 3], 0.1)),
        ("milestones", steps(&[5, 3], 0.1)),
        ("milestones", steps(&[0, 3], 0.1)),
        ("milestones", ScheduleConfig { warmup_epochs: 4, ..steps(&[3], 0.1) }),
        ("every_epochs", ScheduleConfig { warmup_epochs: 4, ..with(Decay::Step { every_epochs: 3, gamma: 0.1 }) }),
    ];
    for (expected, schedule) in cases {
        match schedule.lr(1., &at(0, 10)) {
            Err(Error::InvalidSchedule { field, .. }) => assert_eq!(field, expected, "{schedule:?}"),
            other => panic!("{schedule:?} gave {other:?}"),
        }
    }
    for base_lr in [-1., f64::NAN, f64::INFINITY] {
        let error = with(Decay::Constant {}).lr(base_lr, &at(0, 10)).unwrap_err();
        assert!(error.to_string().contains("base_lr"), "{error}");
    }
    let message = steps(&[5, 3], 0.1).validate(1., 10).unwrap_err().to_string();
    assert!(message.contains("increasing") && message.contains("[5, 3]"), "{message}");
}

#[test]
fn positions_outside_the_run_are_errors() {
    let position = |epoch, step, epochs, steps_per_epoch| Position { epoch, step, epochs, steps_per_epoch };
    for (field, position) in [
        ("epoch", position(11, 0, 10, 4)),
        ("step", position(0, 4, 10, 4)),
        ("steps_per_epoch", position(0, 0, 10, 0)),
        ("epochs", position(0, 0, 0, 4)),
    ] {
        let error = ScheduleConfig::default().lr(1., &position).unwrap_err().to_string();
        assert!(error.contains(&format!(" {field} ")), "{error}");
    }
}
