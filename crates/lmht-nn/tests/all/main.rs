//! Integration tests of `lmht-nn`, one binary because linking Candle is slow.

mod backbones;
mod batch_norm;
mod conv2d;
mod linear;
mod pool;
mod repeat_time;
mod support;
