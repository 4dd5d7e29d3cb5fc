//! `cargo xtask fetch`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lmht_datasets::ReadOptions;
use lmht_hub::{Error, Hub, Repo, RepoKind};

use crate::hub::Bars;

/// Download a trained network or a data set from the Hugging Face Hub into the cache that Python's client uses.
///
/// Every file is verified by its digest, also what is there already. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and
/// HF_HUB_OFFLINE are followed; docs/hub.md says how.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fetch uoft-cs/cifar10                 a data set, for --data uoft-cs/cifar10
  cargo xtask fetch owner/name@v1.0                 a network at a tag
  cargo xtask fetch datasets/owner/name             a data set, where there is a network of that name, too")]
pub(crate) struct Args {
    /// owner/name or owner/name@revision: a network, or else a data set; datasets/owner/name is a data set.
    #[arg(value_name = "DATASET|MODEL")]
    name: String,
    /// The configuration of a data set that has several.
    #[arg(long)]
    configuration: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let hub = Hub::from_env()?;
    let bars = Bars::new()?;
    let name = args.name.strip_prefix("datasets/").filter(|name| name.contains('/'));
    let is_dataset = name.is_some() || args.configuration.is_some();
    let name = name.unwrap_or(&args.name);
    let model = match is_dataset {
        true => None,
        false => match hub.model(&Repo::parse(RepoKind::Model, name)?, &|it| bars.show(it)) {
            // A private network looks the same, and what the data set says then shows both.
            Err(Error::Status { status: 401 | 404, .. } | Error::Offline { .. }) => None,
            found => Some(found?),
        },
    };
    let (folder, kind) = match model {
        Some(folder) => (folder, RepoKind::Model),
        None => (dataset(&hub, name, args, &bars)?, RepoKind::Dataset),
    };
    for (file, size, has_come) in bars.finish() {
        println!("{:>12}  {file}  {size} bytes", if has_come { "downloaded" } else { "was there" });
    }
    println!("verified, in {}", folder.display());
    match kind {
        RepoKind::Model => println!("use it as {name}: cargo xtask eval {name}"),
        RepoKind::Dataset => println!("use it as {name}: cargo xtask train PRESET --data {name}"),
    }
    Ok(())
}

fn dataset(hub: &Hub, name: &str, args: &Args, bars: &Bars) -> Result<PathBuf> {
    let repo = Repo::parse(RepoKind::Dataset, name)?;
    let options = ReadOptions { configuration: args.configuration.clone(), ..ReadOptions::default() };
    let found = lmht_datasets::hub::fetch(hub, &repo, &options, &|it| bars.show(it));
    Ok(found.with_context(|| format!("{name}: there is no network of this name that can be read, and of data sets"))?.0)
}
