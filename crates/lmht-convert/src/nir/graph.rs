//! A NIR graph as a value: what a file holds, between our network, HDF5 and the replay.

/// Nodes, edges between them by number, and metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NirGraph {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<(usize, usize)>,
    pub(super) metadata: Metadata,
}

/// A primitive under its name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) primitive: Primitive,
}

/// Numbers with a shape, row-major; of rank 0 if one number stands alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<f64>,
}

impl Array {
    /// The same number everywhere.
    pub(super) fn full(shape: &[usize], value: f64) -> Self {
        Self { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }
}

/// Height and width.
pub(super) type Pair = [usize; 2];

/// A node of the format, as far as our networks need it. Convolutions have no dilation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Primitive {
    Input {
        shape: Vec<usize>,
    },
    Output {
        shape: Vec<usize>,
    },
    Conv2d {
        weight: Array,
        bias: Array,
        stride: Pair,
        padding: Pair,
        groups: usize,
        input_shape: Pair,
    },
    Affine {
        weight: Array,
        bias: Array,
    },
    Scale {
        scale: Array,
    },
    If {
        r: Array,
        v_threshold: Array,
        v_reset: Array,
    },
    Lif {
        tau: Array,
        r: Array,
        v_leak: Array,
        v_threshold: Array,
        v_reset: Array,
    },
    AvgPool2d {
        kernel: Pair,
        stride: Pair,
        padding: Pair,
    },
    SumPool2d {
        kernel: Pair,
        stride: Pair,
        padding: Pair,
    },
    /// All axes into one.
    Flatten {
        input: Vec<usize>,
    },
}

/// What the format has no field for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Metadata {
    pub(super) generator: String,
    pub(super) profile: String,
    pub(super) reset: String,
    pub(super) integration: Integration,
    pub(super) absorbed: String,
    pub(super) dt: f64,
    pub(super) timesteps: usize,
    /// v(0) as a fraction of `v_threshold`.
    pub(super) v_init: f64,
}

/// The only reset of our neurons.
pub(super) const RESET: &str = "subtract";

/// How a LIF neuron goes one dt ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integration {
    Euler,
    Exponential,
}

impl Integration {
    pub(super) const ALL: [(&'static str, Self); 2] = [("euler", Self::Euler), ("exponential", Self::Exponential)];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::Exponential => "exponential",
        }
    }
}

/// The type of the numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    F64,
}

impl Precision {
    /// The largest number below `x` in this type: what `v > …` must say for `v >= x`.
    pub(super) fn below(self, x: f64) -> f64 {
        match self {
            Self::F32 => f64::from((x as f32).next_down()),
            Self::F64 => x.next_down(),
        }
    }

    /// The number of this type that is nearest to `x`.
    pub(super) fn rounded(self, x: f64) -> f64 {
        match self {
            Self::F32 => f64::from(x as f32),
            Self::F64 => x,
        }
    }
}
