//! The machines that tests run on.

use lmht_gpu::emulator::{Emulator, Order};

/// The emulators in every order of threads, or none, said in a line, without a C++ compiler.
pub(crate) fn emulators() -> Vec<Emulator> {
    if Emulator::compiler().is_none() {
        println!("skipped: no C++ compiler to run kernels with; install g++ or clang++, or set CXX");
        return Vec::new();
    }
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels");
    let orders = [Order::Ascending, Order::Descending, Order::Shuffled(7)];
    orders.map(|order| Emulator { order, ..Emulator::new(folder) }).to_vec()
}
