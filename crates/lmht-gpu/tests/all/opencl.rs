//! Some of the suite through OpenCL, where there is one.

use lmht_gpu::opencl::OpenCl;
use lmht_gpu::suite::{Hosted, checks};

/// Those of a kernel with barriers and sums, and of a sum over rows; all of them are a part of `lmht_gpu::check::run`,
/// since PoCL compiles for minutes.
#[test]
fn some_operations_pass() {
    let machine = match OpenCl::first() {
        Ok(machine) => Hosted(machine),
        Err(reason) => return println!("skipped: {reason}"),
    };
    for check in checks().into_iter().filter(|check| ["qcfs", "loss", "cast"].contains(&check.operation)) {
        if let Err(message) = (check.run)(&machine) {
            panic!("{message}");
        }
    }
}
