//! Ctrl-C and SIGTERM: the first asks a run to stop, another one after that ends the process at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The number of the signal that came, 0 if none did.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// One act of a person can arrive twice: `timeout` signals its child and then the group that the child is in.
const SAME_ACT: Duration = Duration::from_secs(1);

/// A flag that becomes true when one of the signals comes.
pub(crate) fn requested() -> Result<Arc<AtomicBool>> {
    let (requested, is_armed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_armed))?;
        flag::register(signal, Arc::clone(&requested))?;
        flag::register_usize(signal, Arc::clone(&RECEIVED), signal as usize)?;
    }
    let flag = Arc::clone(&requested);
    // Ends with the process.
    std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            std::thread::sleep(SAME_ACT / 10);
        }
        std::thread::sleep(SAME_ACT);
        is_armed.store(true, Ordering::Relaxed);
    });
    Ok(requested)
}

/// The exit status of a process that a signal stopped, by the shell's convention: 130 after Ctrl-C, 143 after SIGTERM.
pub(crate) fn exit_code() -> u8 {
    128 + RECEIVED.load(Ordering::Relaxed) as u8
}
