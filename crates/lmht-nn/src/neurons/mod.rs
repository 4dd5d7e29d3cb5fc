//! Kinds of neurons, one file each: what it is called, its configuration and checks, its parameters and what they are for,
//! its equations as tensor operations, what the engine walks over, what its gradients become, and what a conversion may know.
//!
//! The mathematics of a kind is one file of `lmht-core`. A new kind is that file, a file here, its two lines below and
//! its two lines in `list.rs`; every match over kinds comes from that list, so that none can be forgotten.

mod cell;
mod cos;
mod ilif;
mod integrate_and_fire;
mod kind;
mod leaky;
mod list;
mod lmht;
mod mht;
mod qcfs;
mod relu;
mod reparameterized;
mod snm;
mod spiking;
mod srp;
mod ternary;

pub use cell::NeuronCell;
pub use cos::Cos;
pub use ilif::Ilif;
pub use integrate_and_fire::If;
pub use kind::{Equation, Leak, NeuronTraits, Site};
pub use leaky::Lif;
pub use list::NeuronConfig;
pub(crate) use list::param_kind;
pub use lmht::Lmht;
pub use mht::Mht;
pub use qcfs::Qcfs;
pub use relu::Relu;
pub use reparameterized::Reparameterized;
pub use snm::Snm;
pub use srp::Srp;
pub use ternary::Ternary;
