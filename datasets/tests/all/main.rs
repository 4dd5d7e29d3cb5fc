//! The tests of `lmht-datasets`, in one binary.

mod batches;
mod bounds;
mod damage;
mod idx;
mod images;
mod layouts;
mod operations;
mod pictures;
mod preprocessor;
mod reading;
mod sample;
mod tables;
