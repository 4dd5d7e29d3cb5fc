//! The tests of `lmht-datasets`, in one binary.

mod batches;
mod damage;
mod images;
mod reading;
mod sample;
mod tables;
