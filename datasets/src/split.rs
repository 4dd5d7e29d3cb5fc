//! The parts of a data set.

use serde::{Deserialize, Serialize};

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The images to learn from.
    Train,
    /// The images to measure on.
    Test,
}

impl Split {
    /// `train` or `test`, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// For messages: what it is for.
    pub(crate) fn purpose(self) -> &'static str {
        match self {
            Self::Train => "learn from",
            Self::Test => "measure on",
        }
    }

    /// For messages: the names that are taken without being asked for.
    pub(crate) fn usual(self) -> &'static str {
        match self {
            Self::Train => "`train`",
            Self::Test => "`test` or `validation`",
        }
    }

    /// For messages: a part of the first of these splits.
    pub(crate) fn example(self, found: &[String]) -> String {
        let name = found.first().map_or("all", String::as_str);
        match self {
            Self::Train => format!("{name}[:80%]"),
            Self::Test => format!("{name}[80%:]"),
        }
    }
}

/// The split that a name stands for, spelled as here: `val` is `validation`.
pub(crate) fn canonical(name: &str) -> &str {
    match name.to_ascii_lowercase().as_str() {
        "train" | "training" => "train",
        "validation" | "valid" | "val" | "dev" => "validation",
        "test" | "testing" | "eval" | "evaluation" => "test",
        _ => name,
    }
}

/// Whether a name is one of the usual ones.
pub(crate) fn is_usual(name: &str) -> bool {
    ["train", "validation", "test"].contains(&canonical(name))
}
