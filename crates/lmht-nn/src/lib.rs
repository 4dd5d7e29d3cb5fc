//! Placeholder while the workspace is laid out.

pub mod atomic;
pub mod loss;
pub mod optim;
pub mod schedule;
pub mod tensorboard;
