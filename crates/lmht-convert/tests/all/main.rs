//! Tests of lmht-convert, in one binary because linking is slow.

mod absorb;
mod checkpoint;
mod hostile;
mod hybrid;
mod model;
mod networks;
#[cfg(feature = "nir")]
mod nir;
mod relatives;
mod reparameterize;
mod support;
