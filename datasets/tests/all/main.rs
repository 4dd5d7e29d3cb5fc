//! The tests of `lmht-datasets`, in one binary.

mod batches;
mod bounds;
mod damage;
mod events;
mod idx;
mod images;
mod layouts;
mod operations;
mod pictures;
mod preprocessor;
mod reading;
mod recordings;
mod sample;
mod tables;
