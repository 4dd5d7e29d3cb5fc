//! Files and folders that are there whole or not at all: one binary, because linking is slow.

mod atomic;
