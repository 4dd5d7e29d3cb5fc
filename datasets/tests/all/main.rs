//! The tests of `lmht-datasets`, in one binary.

mod batches;
mod damage;
mod images;
mod operations;
mod reading;
mod sample;
mod tables;
