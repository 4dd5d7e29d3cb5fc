//! What a named tensor is for.

/// What a named tensor is for: this decides whether an optimizer moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// Weights, biases and the scales of batch norm: trained.
    Weight,
    /// Parameters of a neuron: T-GIM logits, leak logit. Trained.
    Neuron,
    /// A parameter of a neuron that means nothing at or below 0, as the ceiling of QCFS: trained, and kept above.
    Positive,
    /// Running statistics, firing thresholds and what stands for one: saved with the network, never moved by an optimizer.
    Buffer,
}
