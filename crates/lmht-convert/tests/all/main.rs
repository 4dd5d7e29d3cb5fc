//! Tests of lmht-convert, in one binary because linking is slow.

mod absorb;
mod hybrid;
mod relatives;
mod reparameterize;
mod support;
