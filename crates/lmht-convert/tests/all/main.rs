//! Tests of lmht-convert, in one binary because linking is slow.

mod absorb;
mod checkpoint;
mod hostile;
mod hybrid;
mod model;
mod networks;
mod relatives;
mod reparameterize;
mod support;
