//! Files of the Hugging Face Hub, in the cache that Python's `huggingface_hub` uses, each verified by its own digest before
//! it counts as present.
//!
//! A crate of its own, since networks (`lmht-nn`) and data sets (`lmht-datasets`) both need it and neither knows the other;
//! without Candle, since files are not tensors. `docs/hub.md` tells how it behaves and why it is not `hf-hub`.
//!
//! ```no_run
//! use lmht_hub::{Hub, Repo, RepoKind};
//!
//! let repo = Repo::parse(RepoKind::Model, "owner/name@main")?;
//! let folder = Hub::from_env()?.model(&repo, &|it| eprintln!("{}: {} of {} bytes", it.file, it.done, it.size))?;
//! # Ok::<(), lmht_hub::Error>(())
//! ```

mod cache;
mod card;
mod digest;
mod error;
mod http;
mod hub;
mod name;
mod settings;

pub use cache::RemoteFile;
pub use card::{Evaluation, ModelCardHead};
pub use error::{Error, Result};
pub use hub::{Doing, Hub, Listing, MODEL_FILES, Observer, Progress};
pub use name::{Repo, RepoKind};
pub use settings::{Settings, Token};
