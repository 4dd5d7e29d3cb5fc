//! Prices, and what is made of them.

use lmht_bench::{CostReport, EnergyModel, InputKind, LayerCost, NeuronCost, ProductCost};

/// A stem of 100 MACs that runs once, and a linear layer of 10 x 2 with 30 SOPs, T = 2.
fn cost() -> CostReport {
    CostReport {
        n_images: 1,
        timesteps: 2,
        window: 1,
        layers: vec![
            LayerCost {
                name: "conv1".into(),
                macs: 100.,
                dense: 100.,
                runs: 1.,
                input: InputKind::Image,
                inputs: 9.,
                outputs: 10.,
                n_weights: 9,
                ..LayerCost::default()
            },
            LayerCost {
                name: "fc".into(),
                sops: 30.,
                paper_sops: 30.,
                dense: 40.,
                runs: 2.,
                inputs: 20.,
                outputs: 4.,
                n_weights: 20,
                ..LayerCost::default()
            },
        ],
        neurons: vec![NeuronCost {
            name: "sn1".into(),
            n_units: 10,
            is_spiking: true,
            updates: 20.,
            tgim_macs: 40.,
            leak_muls: 20.,
        }],
        products: vec![ProductCost { name: "q_k".into(), acs: 6., macs: 0., effective: 5., dense: 8. }],
    }
}

#[track_caller]
fn assert_close(actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= 1e-12 * expected.abs(), "expected {expected}, got {actual}");
}

#[test]
fn every_part_at_its_price() {
    let estimate = EnergyModel::default().estimate(&cost());
    assert_close(estimate.sops_mj, 0.9e-9 * 30.);
    assert_close(estimate.macs_mj, 4.6e-9 * 100.);
    assert_close(estimate.attention_mj, 0.9e-9 * 6.);
    // Two additions an update, 3.7 pJ for a multiplication by λ, 4.6 pJ for an entry of Ω.
    assert_close(estimate.neurons_mj, 1e-9 * (0.9 * 40. + 3.7 * 20. + 4.6 * 40.));
    let parts = [estimate.sops_mj, estimate.macs_mj, estimate.attention_mj, estimate.neurons_mj];
    assert_close(estimate.total_mj, parts.iter().sum());
    assert_eq!(estimate.memory_mj, None);
    assert_close(estimate.paper_mj, 0.9e-9 * 30.);
    // The dense network runs every layer once: 100 + 40 / 2 + 8 / 2.
    assert_close(estimate.ann_mj, 4.6e-9 * 124.);
}

#[test]
fn the_quantized_ann_is_the_dense_one_at_int8_prices() {
    assert_close(EnergyModel::named("int8-45nm").unwrap().estimate(&cost()).ann_mj, 0.23e-9 * 124.);
}

#[test]
fn memory_is_priced_by_access() {
    let estimate = EnergyModel::named("float32-45nm-memory").unwrap().estimate(&cost());
    // All memories are small: 5 pJ for 32 bits. Stem: weight and activation for each MAC, 10 outputs written; linear:
    // three accesses a SOP; neurons: two an update; attention: two a pair.
    assert_close(estimate.memory_mj.unwrap(), 5e-9 * (200. + 10. + 90. + 40. + 12.));
}

#[test]
fn training_keeps_outputs_and_both_sides_of_neurons() {
    assert_eq!(cost().training_bytes(4), 4. * (10. + 4. + 2. * 20.));
}

#[test]
fn a_model_with_a_mistake_is_refused() {
    for (change, part) in [
        (r#"{"mac_pj": null}"#, "mac_pj"),
        (r#"{"memory": {"source": "", "access_bits": 64, "access_pj": []}}"#, "access_pj"),
        (r#"{"memory": {"source": "", "access_bits": 0, "access_pj": [[1, 1]]}}"#, "access_bits"),
        (r#"{"memory": {"source": "", "access_bits": 64, "access_pj": [[8, 1], [4, 2]]}}"#, "ascending"),
        (r#"{"value_bits": 0}"#, "value_bits"),
        (r#"{"prize": 3}"#, "prize"),
    ] {
        let mut model = serde_json::to_value(EnergyModel::default()).unwrap();
        let change: serde_json::Map<String, serde_json::Value> = serde_json::from_str(change).unwrap();
        model.as_object_mut().unwrap().extend(change);
        // JSON has no NaN, so a price that is no number is made here.
        let read = match model["mac_pj"].is_null() {
            true => Ok(EnergyModel { mac_pj: f64::NAN, ..EnergyModel::default() }),
            false => serde_json::from_value::<EnergyModel>(model),
        };
        let check = |model: EnergyModel| model.check().map_err(|error| error.to_string());
        let message = read.map_err(|error| error.to_string()).and_then(check).unwrap_err();
        assert!(message.contains(part), "{part}: {message}");
    }
    for model in EnergyModel::all() {
        assert!(model.check().is_ok(), "{}", model.name);
        assert!(model.source.contains("ISSCC 2014"));
    }
}
