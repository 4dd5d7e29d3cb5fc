//! The README's example: an LM-HT ResNet-18 on four images. Run with `cargo run --release --package lmht-nn --example forward`.

use candle_core::{DType, Device, Tensor};
use lmht_nn::{ModelConfig, Network, NeuronConfig, ParamStore, Pass, readout};

fn main() -> lmht_nn::Result<()> {
    let config = ModelConfig { timesteps: 2, neuron: NeuronConfig::lmht(2), ..ModelConfig::resnet18(10) };
    let params = ParamStore::new(42); // the seed of every initial weight
    let network = Network::new(&config, params.builder(DType::F32, &Device::Cpu))?;
    let images = Tensor::ones((4, 3, 32, 32), DType::F32, &Device::Cpu)?;
    let logits = network.forward(&images, &mut Pass::eval())?; // one set of logits at every timestep
    let classes = readout(&logits)?.argmax(1)?; // their mean over time decides
    println!("{} parameters, logits {:?}, classes {:?}", params.n_params(), logits.dims(), classes.dims());
    Ok(())
}
