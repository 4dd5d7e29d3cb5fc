//! Wall-clock benchmarks of the workspace: one binary, since linking Candle takes longer than most of them.
//!
//! The groups are criterion's. After them come the ratios of [`benchmarks::ratio`] and [`benchmarks::choices`], where things
//! are measured in turns: on a machine that others use too, the quotient of neighbours says more than that of two separate
//! medians.
//! Run by `cargo test --benches`, everything runs once, on small inputs.

mod benchmarks;

use criterion::{Criterion, criterion_group};

/// The allocator of the binaries (`xtask`), so that what is measured here is what training does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group!(
    benches,
    benchmarks::neuron::bench,
    benchmarks::train_step::bench,
    benchmarks::backbones::bench,
    benchmarks::counting::bench,
    benchmarks::convert::bench
);

fn main() {
    if let Some(title) = benchmarks::memory::asked_for() {
        let printed = benchmarks::convert::printed_memory(&title) || benchmarks::backbones::printed_memory(&title);
        assert!(printed, "{title}: expected the title of a backbone or a conversion");
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    // As criterion reads its arguments: what is no option is a filter on names.
    let filter = benchmarks::arguments().skip(1).find(|argument| !argument.starts_with('-'));
    if filter.as_ref().is_none_or(|filter| "ratio".contains(filter)) {
        benchmarks::ratio::report();
    }
    if filter.is_none_or(|filter| "choices".contains(&filter)) {
        benchmarks::choices::report();
    }
}
