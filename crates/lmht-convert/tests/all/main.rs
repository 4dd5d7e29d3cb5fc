//! Integration tests of `lmht-convert`, one binary because linking Candle is slow.

mod checkpoint;
mod hostile;
mod model;
mod support;
