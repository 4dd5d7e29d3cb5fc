//! The tests of `lmht-datasets`, in one binary.

#[path = "../../../crates/lmht-convert/tests/all/archive.rs"]
mod archive;
mod batches;
mod bounds;
mod cifar;
mod damage;
mod event_files;
mod events;
#[cfg(feature = "hub")]
mod hub;
mod idx;
mod images;
mod layouts;
mod operations;
mod pictures;
mod preprocessor;
mod reading;
mod recordings;
mod sample;
#[cfg(feature = "hub")]
#[path = "../../../crates/lmht-hub/tests/all/server.rs"]
#[allow(dead_code, reason = "the tests of lmht-hub need more of it")]
mod server;
mod stream;
mod tables;
#[cfg(feature = "hub")]
#[path = "../../../crates/lmht-hub/tests/all/world.rs"]
#[allow(dead_code, reason = "the tests of lmht-hub need more of it")]
mod world;
