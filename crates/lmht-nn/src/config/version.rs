//! The version of the description.

use crate::{Error, Result};

/// The version of `config.json`. A reader refuses a newer one.
pub const FORMAT_VERSION: u32 = 1;

pub(super) fn format_version() -> u32 {
    FORMAT_VERSION
}

pub(super) fn check_version(version: u32) -> Result<()> {
    match version {
        1..=FORMAT_VERSION => Ok(()),
        0 => Err(Error::Config(format!("format_version is 0; expected a whole number in 1..={FORMAT_VERSION}"))),
        _ => Err(Error::Config(format!(
            "format_version is {version}; this program reads up to {FORMAT_VERSION}: use a newer one"
        ))),
    }
}
