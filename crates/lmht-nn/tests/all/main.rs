//! Integration tests of `lmht-nn`, one binary because linking Candle is slow.

mod backbones;
mod batch_norm;
mod config;
mod conv2d;
mod engine;
mod gpu;
mod inference;
mod layers;
mod linear;
mod network;
mod neuron;
mod own;
mod params;
mod pool;
mod pretrained;
mod qcfs;
mod repeat_time;
mod support;
