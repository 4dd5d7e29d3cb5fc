//! Files and folders that are there whole or not at all, and memory that is used again: one binary, because linking is slow.
//!
//! Tests that stand beside what they test run here, too: compiled as unit tests of the library they would have the whole
//! engine compiled a second time, for minutes.

mod atomic;
#[allow(dead_code, unreachable_pub, reason = "the tests inside use a part of it")]
#[path = "../../src/atomic.rs"]
mod atomic_source;
#[allow(dead_code, unreachable_pub, reason = "the tests inside use a part of it")]
#[path = "../../src/engine/buffers.rs"]
mod buffers_source;
