//! Tests of lmht-bench: counts by hand, by other tools, and of whole networks.

mod activity;
mod connections;
mod definitions;
mod energy;
mod forms;
mod networks;
#[cfg(feature = "report")]
mod report;
mod shared;
mod signed;
