//! Tests of lmht-convert, in one binary because linking is slow.

mod absorb;
mod archive;
mod baselines;
mod checkpoint;
mod costs;
mod hostile;
mod hybrid;
mod imports;
mod model;
mod networks;
#[cfg(feature = "nir")]
mod nir;
mod own;
mod reparameterize;
mod support;
mod torchvision;
