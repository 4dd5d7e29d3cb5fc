//! What conversions leave as it was: the operations.

use candle_core::{DType, Device};
use lmht_bench::CostCounter;
use lmht_convert::{Model, Result, reparameterize};
use lmht_nn::{ModelConfig, Pass, Schedule, Tgim};

use crate::networks::{lmht, random_input, random_model, small_networks};

/// Every spike goes through the same synapses as before, so the operations are the same, layer by layer.
#[test]
fn front_loaded_costs_the_same_operations() -> Result<()> {
    for (config, side) in small_networks() {
        let config = ModelConfig { neuron: lmht(3, Tgim::Full, 0.5), ..config };
        let model = random_model(&config, 19)?;
        let images = random_input(&config, side, true, 19)?;
        let sops = |model: &Model| -> Result<Vec<(String, f64)>> {
            let (network, _) = model.build(DType::F64, &Device::Cpu)?;
            let mut counter = CostCounter::new();
            network.forward(&images, &mut Pass::eval().observed_by(&mut counter))?;
            let layers = counter.report(2).layers;
            Ok(layers.into_iter().map(|layer| (layer.name, layer.sops)).collect())
        };
        let (before, after) = (sops(&model)?, sops(&reparameterize(&model, Schedule::FrontLoaded)?)?);
        assert!(before.iter().any(|(_, sops)| *sops > 0.), "{:?}", config.backbone);
        assert_eq!(before, after, "{:?}", config.backbone);
    }
    Ok(())
}
