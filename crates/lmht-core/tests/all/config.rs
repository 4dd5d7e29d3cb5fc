//! Configurations out of range are refused with the field, the value and what is allowed.

use lmht_core::{ConfigError, GradientMode, LmhtConfig, MAX_LEVELS, MAX_TIMESTEPS, Tgim, qcfs};

/// The error of a configuration, whose message must name all of `parts`.
fn error(config: LmhtConfig, parts: &[&str]) -> ConfigError {
    let error = config.check().expect_err(&format!("{config:?}"));
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is missing in {error}");
    }
    error
}

const GOOD: LmhtConfig = LmhtConfig {
    timesteps: 4,
    levels: 2,
    v_threshold: 1.0,
    v_init: 0.0,
    tgim: Tgim::Full,
    gradient: GradientMode::Detached,
    window: 1,
};

#[test]
fn timesteps() {
    assert_eq!(
        error(LmhtConfig { timesteps: 0, ..GOOD }, &["timesteps", "got 0", "1..=32768"]),
        ConfigError::Timesteps { timesteps: 0 }
    );
    for timesteps in [MAX_TIMESTEPS + 1, usize::MAX] {
        error(LmhtConfig { timesteps, ..GOOD }, &["timesteps", &format!("got {timesteps}")]);
    }
    assert!(LmhtConfig { timesteps: MAX_TIMESTEPS, ..GOOD }.check().is_ok());
}

#[test]
fn levels() {
    for levels in [0, MAX_LEVELS + 1, u32::MAX] {
        assert_eq!(
            error(LmhtConfig { levels, ..GOOD }, &["levels", &format!("got {levels}"), "1..=65536"]),
            ConfigError::Levels { levels }
        );
    }
    // The preset must not turn a bad L into a complaint about θ.
    assert_eq!(LmhtConfig::lmht(0, 2).check(), Err(ConfigError::Levels { levels: 0 }));
    assert!(LmhtConfig { levels: MAX_LEVELS, ..GOOD }.check().is_ok());
}

#[test]
fn v_threshold() {
    for v_threshold in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-300, 1e300, 1e-45] {
        error(LmhtConfig { v_threshold, ..GOOD }, &["v_threshold", &format!("got {v_threshold}"), "above 0"]);
    }
    // (L + 1/2)θ must exist in f32 too.
    error(LmhtConfig { v_threshold: 2e38, ..GOOD }, &["v_threshold", "(2 + 1/2)-fold"]);
    for v_threshold in [1e-30, 1e30] {
        assert!(LmhtConfig { v_threshold, ..GOOD }.check().is_ok());
    }
}

#[test]
fn v_init() {
    for v_init in [-0.25, 1.0, 2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        error(LmhtConfig { v_init, ..GOOD }, &["v_init", &format!("got {v_init}"), "0 <= v_init < 1"]);
    }
    for v_init in [0.0, 0.5, 1.0_f64.next_down()] {
        assert!(LmhtConfig { v_init, ..GOOD }.check().is_ok());
    }
}

#[test]
fn window() {
    for window in [0, 3, 5, 8, usize::MAX] {
        assert_eq!(
            error(LmhtConfig { window, ..GOOD }, &["window", &format!("got {window}"), "divisor of the 4 timesteps"]),
            ConfigError::Window { window, timesteps: 4 }
        );
    }
    for window in [1, 2, 4] {
        assert!(LmhtConfig { window, ..GOOD }.check().is_ok());
    }
}

#[test]
fn presets_are_the_published_neurons() {
    for (levels, v_threshold) in [(1, 1.0), (2, 1.0), (3, 2.0 / 3.0), (4, 0.5), (8, 0.25)] {
        let neuron = LmhtConfig::lmht(levels, 3).check().unwrap();
        assert_eq!((neuron.levels(), neuron.timesteps(), neuron.v_threshold()), (levels, 3, v_threshold));
        assert_eq!((neuron.v_init(), neuron.window()), (0.0, 1));
        assert_eq!((neuron.tgim(), neuron.gradient()), (Tgim::Full, GradientMode::Detached));
    }
    let lif = LmhtConfig::lif(3).check().unwrap();
    assert_eq!((lif.levels(), lif.v_threshold(), lif.v_init(), lif.window()), (1, 1.0, 0.0, 1));
    assert_eq!((lif.tgim(), lif.gradient()), (Tgim::Identity, GradientMode::Full));
}

#[test]
fn qcfs_parameters() {
    assert_eq!(qcfs::check(8.0, 0), Err(ConfigError::QuantLevels { quant_levels: 0 }));
    assert_eq!(qcfs::check(8.0, u32::MAX), Err(ConfigError::QuantLevels { quant_levels: u32::MAX }));
    for scale in [0.0, -8.0, f64::NAN, f64::INFINITY, 1e300, 1e-300] {
        let error = qcfs::check(scale, 4).unwrap_err().to_string();
        assert!(error.contains("scale") && error.contains(&format!("got {scale}")), "{error}");
    }
    assert_eq!(qcfs::check(8.0, 4), Ok(()));
}
