//! `cargo xtask convert`: models from and for other programs, and of other networks.

pub(crate) mod networks;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::Subcommand;
use lmht_convert::{Model, checkpoint};
use lmht_nn::{ModelCard, ModelConfig, save_pretrained};

use crate::experiment::Experiment;
use crate::provenance;

/// Convert models: hybrid training, single-threshold networks, folding, checkpoints in and out.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert hybrid runs/qcfs --levels 2 --timesteps 2 --out hybrid-start
  cargo xtask convert reparameterize runs/fashion-resnet18-L2T2-seed42 --out single
  cargo xtask convert fold single --out folded
  cargo xtask convert export runs/fashion-resnet18-if-T4-seed42 --profile norse --out network.nir
  cargo xtask convert import resnet18.pth --config config.json --out models/resnet18
  cargo xtask convert to-pytorch models/resnet18 --out resnet18.safetensors
  cargo xtask convert import --help")]
pub(crate) struct Args {
    #[command(subcommand)]
    conversion: Conversion,
}

#[derive(Subcommand)]
enum Conversion {
    Hybrid(networks::Hybrid),
    Inference(networks::Inference),
    Reparameterize(networks::Reparameterize),
    Fold(networks::Fold),
    Export(networks::Export),
    Import(Import),
    ToPytorch(ToPytorch),
}

/// Make a model folder of a PyTorch (.pth, .pt) or safetensors file.
///
/// The file is told by its content. Nothing in it is executed. Of a larger checkpoint the network under `model`,
/// `state_dict`, `net` or `model_state_dict` is taken, and a prefix `module.` that every name has is taken off. Names and
/// shapes must be those of the network that --config or --preset describes; if they are not, one message lists every
/// difference.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask convert import checkpoint.pth --config config.json --out models/imported
  cargo xtask convert import weights.safetensors --preset fashion-resnet18-L2T2 --out models/fashion
  cargo xtask eval models/fashion

A config.json is what every model folder has:
  { \"format_version\": 1, \"backbone\": \"resnet20\", \"width\": 16, \"n_classes\": 100, \"timesteps\": 1,
    \"neuron\": { \"kind\": \"qcfs\", \"quant_levels\": 4 } }")]
struct Import {
    /// The checkpoint.
    file: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    /// The model folder to write; a model folder there is replaced.
    #[arg(long)]
    out: PathBuf,
}

/// Which network a file belongs to.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct NetworkArgs {
    /// A config.json that describes the network.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The network of a preset, or of an experiment's TOML file.
    #[arg(long)]
    preset: Option<String>,
}

/// Write a model folder as a safetensors file for PyTorch.
///
/// The names are those of the published networks, complete for load_state_dict(strict=True): both T-GIM copies of every
/// neuron and the batch counters of batch norm are there.
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo xtask convert to-pytorch runs/fashion-resnet18-L2T2-seed42/model --out resnet18.safetensors

In Python:
  from safetensors.torch import load_file
  model.load_state_dict(load_file(\"resnet18.safetensors\"), strict=True)")]
struct ToPytorch {
    /// A model folder with config.json and model.safetensors.
    model: PathBuf,
    /// The file to write; a file there is replaced.
    #[arg(long)]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.conversion {
        Conversion::Hybrid(args) => args.run(),
        Conversion::Inference(args) => args.run(),
        Conversion::Reparameterize(args) => args.run(),
        Conversion::Fold(args) => args.run(),
        Conversion::Export(args) => args.run(),
        Conversion::Import(args) => import(args),
        Conversion::ToPytorch(args) => to_pytorch(args),
    }
}

impl NetworkArgs {
    fn load(&self) -> Result<ModelConfig> {
        if let Some(path) = &self.config {
            let shown = || path.display().to_string();
            let json = std::fs::read_to_string(path).with_context(shown)?;
            return ModelConfig::from_json(&json).with_context(shown);
        }
        Ok(Experiment::load(self.preset.as_deref().unwrap_or_default())?.model)
    }
}

fn import(args: &Import) -> Result<()> {
    let config = args.network.load()?;
    let checkpoint = checkpoint::read(&args.file)?;
    for note in &checkpoint.notes {
        println!("{}: {note}", args.file.display());
    }
    let model = checkpoint.into_model(&config)?;
    let (_network, params) = model.build(dtype(&model), &Device::Cpu)?;
    let card = ModelCard {
        command: provenance::command(),
        data: format!("not known here; the tensors are those of {}", file_name(&args.file)),
        top1: None,
        config: config.to_json(),
        preprocessor: None,
    };
    save_pretrained(&args.out, &config, &params, &card)?;
    println!("{}: {} with {} parameters", args.out.display(), config.backbone.title(), params.n_params());
    Ok(())
}

fn to_pytorch(args: &ToPytorch) -> Result<()> {
    let weights = args.model.join("model.safetensors");
    let config_path = args.model.join("config.json");
    let shown = || format!("{}: expected a model folder with config.json and model.safetensors", args.model.display());
    let json = std::fs::read_to_string(&config_path).with_context(shown)?;
    let config = ModelConfig::from_json(&json).with_context(|| config_path.display().to_string())?;
    let model = checkpoint::read(&weights)?.into_model(&config)?;
    checkpoint::write_published(&args.out, &model)?;
    println!("{}: load it with load_state_dict(load_file(path), strict=True)", args.out.display());
    Ok(())
}

/// The number type of a model: that of its tensors.
fn dtype(model: &Model) -> DType {
    model.tensors.values().next().map_or(DType::F32, |tensor| tensor.dtype())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
