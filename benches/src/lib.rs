//! The package of the benchmarks; the code is in `benches/benches/`, the results in `docs/performance.md`.
//!
//! ```text
//! cargo bench -p lmht-benches                 all groups, then the ratios
//! cargo bench -p lmht-benches -- neuron       the groups whose name contains "neuron"
//! cargo bench -p lmht-benches -- ratio        only the ratios
//! ```
