//! The client against a Hub on the loopback that misbehaves in every way that has been seen or thought of.

mod cache;
mod faults;
mod hostile;
mod python;
mod server;
mod world;
