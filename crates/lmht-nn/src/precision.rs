//! The number type of a pass.

use std::fmt;

use candle_core::DType;
use serde::{Deserialize, Serialize};

/// The type that maps, products and their gradients have in a pass. Parameters, statistics, potentials and what is summed over
/// them keep the type of the parameters.
///
/// Other types than that of the parameters are for GPUs; the engine of the CPU refuses them.
///
/// ```
/// use lmht_nn::Precision;
/// assert_eq!(serde_json::to_string(&Precision::Bf16).unwrap(), r#""bf16""#);
/// assert_eq!(Precision::F16.to_string(), "f16");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The type of the parameters.
    #[default]
    F32,
    /// 8 bits of mantissa and the range of f32.
    Bf16,
    /// 11 bits of mantissa up to 65504; gradients below 6e-8 are lost unless the loss is scaled up.
    F16,
}

impl Precision {
    /// The type of maps, if it is not that of the parameters.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}
