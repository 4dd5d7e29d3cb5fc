//! Tests of lmht-convert, in one binary because linking is slow.

mod absorb;
mod hybrid;
mod reparameterize;
mod support;
