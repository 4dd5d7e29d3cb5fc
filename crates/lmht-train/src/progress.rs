//! Progress bars on standard error, or silence.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How a long task tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars where standard error is a terminal, one line per epoch where it is not.
    Shown,
    /// Nothing: for tests and programs with an interface of their own.
    Silent,
}

impl Progress {
    /// A bar of `length` steps that starts at `done`.
    pub(crate) fn bar(self, what: &str, length: usize, done: usize) -> ProgressBar {
        let target = match self {
            Self::Shown => ProgressDrawTarget::stderr(),
            Self::Silent => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(length as u64), target);
        // The template is a constant; a wrong one would show in the first test that draws it.
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(what.to_string());
        bar.set_position(done as u64);
        bar.reset_eta();
        bar
    }

    /// One line, above any bar.
    pub(crate) fn line(self, line: &str) {
        if self == Self::Shown {
            eprintln!("{line}");
        }
    }
}
