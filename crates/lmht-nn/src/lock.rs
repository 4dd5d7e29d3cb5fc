//! Locks whose contents a panic elsewhere cannot leave half changed: they are taken or replaced whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
