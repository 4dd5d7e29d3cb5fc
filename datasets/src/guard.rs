//! Nothing that a file holds may end the program.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Error, Result};

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread reads a file within a guard, so that a panic becomes an error that names the file. For the panic hook of
/// a program, which may then stay silent.
///
/// ```
/// let usual = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !lmht_datasets::is_decoding() {
///         usual(panic);
///     }
/// }));
/// ```
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Runs `work` on the file at `path` and turns a panic into an error.
///
/// The decoders of pages and images are meant to answer damaged input with an error. Should one of them panic instead
/// (an index past a buffer, a capacity overflow), the damage is still that of one file, and a program that loads data
/// must not end there. Nothing that `work` touches is used after a panic, hence the assertion. The panic hook of the
/// program still runs, and [`is_decoding`] tells it where; with `panic = "abort"` nothing can be caught.
pub(crate) fn guard<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    guard_as(work, |reason| Error::Parquet { path: path.to_path_buf(), reason })
}

/// [`guard`] with the error that the caller makes of the reason.
pub(crate) fn guard_as<T>(work: impl FnOnce() -> Result<T>, error: impl FnOnce(String) -> Error) -> Result<T> {
    let outer = DECODING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    DECODING.set(outer);
    result.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()))
            .unwrap_or_else(|| "no message".to_owned());
        Err(error(format!("a decoder gave up on it ({words})")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_within_a_file_becomes_an_error_that_names_it() {
        let path = Path::new("some/train.parquet");
        // As a decoder panics: with formatted words, with plain ones, and with something else.
        let out_of_bounds = || assert_eq!([1, 2, 3][std::hint::black_box(3)], 0);
        let panics: [fn(); 3] = [out_of_bounds, || panic!("plain"), || std::panic::panic_any(7)];
        for (panic, words) in panics.into_iter().zip(["index is 3", "plain", "no message"]) {
            let error = guard(path, || {
                panic();
                Ok(())
            });
            let message = error.unwrap_err().to_string();
            assert!(message.starts_with("some/train.parquet: expected") && message.contains(words), "{message}");
        }
        assert!(guard(path, || Ok(is_decoding())).unwrap());
        assert!(!is_decoding());
    }
}
