//! Ctrl-C and SIGTERM: the first asks a run to stop, the second ends the process at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The number of the signal that came, 0 if none did.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// A flag that becomes true when one of the signals comes.
pub(crate) fn requested() -> Result<Arc<AtomicBool>> {
    let requested = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Registered first, so that only a second signal finds the flag set.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&requested))?;
        flag::register(signal, Arc::clone(&requested))?;
        flag::register_usize(signal, Arc::clone(&RECEIVED), signal as usize)?;
    }
    Ok(requested)
}

/// The exit status of a process that a signal stopped, by the shell's convention: 130 after Ctrl-C, 143 after SIGTERM.
pub(crate) fn exit_code() -> u8 {
    128 + RECEIVED.load(Ordering::Relaxed) as u8
}
