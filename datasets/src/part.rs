//! A part of a split, `all[:80%]`: how it is written.

use crate::Split;
use crate::error::{Error, Result};

/// A split, or a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// Per cent of each class at which it begins and ends.
    pub(crate) slice: Slice,
}

/// From and to, in per cent of the images of a class.
pub(crate) type Slice = (usize, usize);
/// All of them.
pub(crate) const WHOLE: Slice = (0, 100);

impl Part {
    /// `train`, `train[:80%]`, `train[80%:]` or `train[10%:20%]`.
    pub(crate) fn parse(words: &str, split: Split) -> Result<Self> {
        let wrong = || {
            Error::Config(format!(
                "ReadOptions::{}_split: expected the name of a split or a part of one, such as `all[:80%]`, found \
                 `{words}`",
                split.name()
            ))
        };
        let Some((name, range)) = words.split_once('[') else {
            return Ok(Self { name: words.to_owned(), slice: WHOLE });
        };
        let (from, to) = range.strip_suffix(']').and_then(|range| range.split_once(':')).ok_or_else(wrong)?;
        let percent = |text: &str, otherwise| match text {
            "" => Ok(otherwise),
            text => text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong),
        };
        let slice = (percent(from, WHOLE.0)?, percent(to, WHOLE.1)?);
        if slice.0 >= slice.1 || slice.1 > WHOLE.1 {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), slice })
    }

    pub(crate) fn words(&self) -> String {
        let (name, (from, to)) = (&self.name, self.slice);
        match (from, to) {
            WHOLE => name.clone(),
            (0, to) => format!("{name}[:{to}%]"),
            (from, 100) => format!("{name}[{from}%:]"),
            (from, to) => format!("{name}[{from}%:{to}%]"),
        }
    }
}
