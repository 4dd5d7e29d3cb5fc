//! The factor on the loss of a run in f16, whose small gradients would be 0 otherwise.

use serde::{Deserialize, Serialize};

/// Steps in a row without an overflow after which the factor is doubled, as in `torch.amp.GradScaler`.
const PATIENCE: u32 = 2000;

/// The factor now: halved by a step whose gradients are not finite, which is left out, and doubled after many that are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LossScale {
    factor: f64,
    steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: 65536., steps: 0 }
    }
}

impl LossScale {
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// After a step whose gradients were finite.
    pub(crate) fn grow(&mut self) {
        self.steps += 1;
        if self.steps == PATIENCE {
            *self = Self { factor: self.factor * 2., steps: 0 };
        }
    }

    /// After one whose gradients were not. False if no factor helps: they overflow without one.
    pub(crate) fn shrink(&mut self) -> bool {
        let helps = self.factor > 1.;
        *self = Self { factor: (self.factor / 2.).max(1.), steps: 0 };
        helps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_once_and_doubles_slowly() {
        let mut scale = LossScale::default();
        assert!(scale.shrink());
        assert_eq!(scale.factor(), 32768.);
        (1..PATIENCE).for_each(|_| scale.grow());
        assert_eq!(scale.factor(), 32768.);
        scale.grow();
        assert_eq!(scale.factor(), 65536.);
        assert_eq!((0..16).filter(|_| scale.shrink()).count(), 16);
        assert!(!scale.shrink(), "at 1 it is not the factor");
    }
}
