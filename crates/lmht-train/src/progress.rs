//! Progress on standard error: a bar on a terminal, a plain line now and then anywhere else, or silence.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where there is no terminal: an epoch can last hours, and a log should not.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// How a long task tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars where standard error is a terminal; where it is not, a line every half minute and one per epoch.
    Shown,
    /// Nothing: for tests and programs with an interface of their own.
    Silent,
}

impl Progress {
    /// A bar of `length` steps that starts at `done`.
    pub(crate) fn bar(self, what: &str, length: usize, done: usize) -> Bar {
        let is_terminal = std::io::stderr().is_terminal();
        let target = match self {
            Self::Shown if is_terminal => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(length as u64), target);
        // The template is a constant; a wrong one would show in the first test that draws it.
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(what.to_string());
        bar.set_position(done as u64);
        bar.reset_eta();
        let writes_lines = self == Self::Shown && !is_terminal;
        Bar { bar, first: done, started: Instant::now(), last_line: writes_lines.then(Instant::now) }
    }

    /// One line, above any bar.
    pub(crate) fn line(self, line: &str) {
        if self == Self::Shown {
            eprintln!("{line}");
        }
    }
}

/// The progress of one task.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    /// Where it started.
    first: usize,
    started: Instant,
    /// When the last line was written, where lines are.
    last_line: Option<Instant>,
}

impl Bar {
    /// One more step is done.
    pub(crate) fn step(&mut self, message: impl FnOnce() -> String) {
        self.bar.inc(1);
        let is_due = self.last_line.is_some_and(|last| last.elapsed() >= BETWEEN_LINES);
        if is_due || !self.bar.is_hidden() {
            self.bar.set_message(message());
        }
        if is_due {
            self.last_line = Some(Instant::now());
            eprintln!("{}", self.line(self.started.elapsed()));
        }
    }

    /// What a line says after some time.
    fn line(&self, elapsed: Duration) -> String {
        let (done, length) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let here = done.saturating_sub(self.first as u64).max(1) as f64;
        let left = elapsed.mul_f64(length.saturating_sub(done) as f64 / here);
        let message = self.bar.message();
        let message = message.trim();
        let gap = if message.is_empty() { "" } else { "  " };
        format!("{}  {done}/{length}{gap}{message}  {} left", self.bar.prefix(), HumanDuration(left))
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_where_it_is_and_how_long_it_takes() {
        // Resumed at step 100 of 400; 50 steps took a minute, so the 250 that are left take five.
        let mut bar = Progress::Silent.bar("epoch 2/3", 400, 100);
        for _ in 0..50 {
            bar.step(String::new);
        }
        bar.bar.set_message("loss 1.0000  top-1 50.0 %  80 images/s ");
        let expected = "epoch 2/3  150/400  loss 1.0000  top-1 50.0 %  80 images/s  5 minutes left";
        assert_eq!(bar.line(Duration::from_secs(60)), expected);
    }
}
