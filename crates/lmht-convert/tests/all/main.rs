//! Tests of lmht-convert, in one binary because linking is slow.

mod absorb;
mod hybrid;
#[cfg(feature = "nir")]
mod nir;
mod reparameterize;
mod support;
