//! The suite through OpenCL, where there is one.

use lmht_gpu::opencl::OpenCl;
use lmht_gpu::suite::{Hosted, checks};

#[test]
fn every_check_passes() {
    let machine = match OpenCl::first() {
        Ok(machine) => Hosted(machine),
        Err(reason) => return println!("skipped: {reason}"),
    };
    let failures: Vec<String> = checks().into_iter().filter_map(|check| (check.run)(&machine).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
