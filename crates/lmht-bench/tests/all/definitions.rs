//! Our counts against those of NeuroBench, SpikingJelly and syops: `tests/fixtures/make_definitions.py` ran their code.

use candle_core::{Device, Tensor};
use lmht_bench::{Connections, CostCounter, Tally, tally_analog, tally_spikes};
use lmht_nn::{Observer, ProductEvent, SignalKind};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../fixtures/definitions.json")).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("the fixture lacks {key}"))
}

fn floats(value: &Value, key: &str) -> Vec<f32> {
    list(value, key).iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn sizes(value: &Value, key: &str) -> Vec<usize> {
    list(value, key).iter().map(|value| value.as_u64().unwrap() as usize).collect()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("the fixture lacks {key}"))
}

/// A layer of the fixture, and the tally of all its inputs.
fn count(layer: &Value, is_spikes: bool, v_threshold: f32) -> (Connections, Tally) {
    let (weight_shape, shape) = (sizes(layer, "weight_shape"), sizes(layer, "input_shape"));
    let size = |key| number(layer, key) as usize;
    let (h, w) = if shape.len() == 4 { (shape[2], shape[3]) } else { (1, 1) };
    let connections = Connections {
        c_in: shape[1],
        c_out: weight_shape[0],
        kernel: size("kernel"),
        stride: size("stride"),
        padding: size("padding"),
        groups: size("groups"),
        h,
        w,
    };
    let (weight, input) = (floats(layer, "weight"), floats(layer, "input"));
    let mut total = Tally::default();
    for row in input.chunks(connections.n_inputs() as usize) {
        total += if is_spikes {
            tally_spikes(&connections, Some(&weight), row, v_threshold).unwrap()
        } else {
            tally_analog(&connections, Some(&weight), row).unwrap()
        };
    }
    (connections, total)
}

/// Calls `check` for every layer of every case: kind of values, threshold, the layer, its sizes, batch, its tally.
fn for_each_layer(mut check: impl FnMut(&str, f32, &Value, &Connections, u64, &Tally)) {
    let fixture = fixture();
    let mut n = 0;
    for case in list(&fixture, "cases") {
        let kind = case["kind"].as_str().unwrap();
        let theta = case["v_threshold"].as_f64().unwrap() as f32;
        for layer in list(case, "layers") {
            let (connections, tally) = count(layer, kind != "analog", theta);
            check(kind, theta, layer, &connections, sizes(layer, "input_shape")[0] as u64, &tally);
            n += 1;
        }
    }
    assert_eq!(n, 6 * 4);
}

#[test]
fn neurobench_counts_our_effective_and_dense_operations() {
    for_each_layer(|kind, theta, layer, connections, batch, tally| {
        let theirs = &layer["neurobench"];
        assert_eq!(tally.effective, number(theirs, "effective"), "{kind} {theta}");
        assert_eq!(batch * connections.dense(), number(theirs, "dense"), "{kind} {theta}");
        // It calls them ACs where all values are 1 or -1, so no spike of θ other than 1.
        let ones = floats(layer, "input").iter().all(|value| [-1., 0., 1.].contains(value));
        assert_eq!(theirs["is_ac"].as_bool().unwrap(), ones);
    });
    // And for whole networks, per sample.
    for case in list(&fixture(), "cases") {
        let theta = case["v_threshold"].as_f64().unwrap() as f32;
        let layers = list(case, "layers");
        let counted = layers.iter().map(|layer| count(layer, case["kind"] != "analog", theta));
        let (effective, dense) =
            counted.fold((0, 0), |sum, (connections, tally)| (sum.0 + tally.effective, sum.1 + connections.dense()));
        let theirs = &case["neurobench"];
        let of = |key: &str| theirs[key].as_f64().unwrap();
        assert_eq!(effective as f64 / 2., of("Effective_ACs") + of("Effective_MACs"));
        assert_eq!(dense as f64, of("Dense")); // of one sample
    }
}

#[test]
fn spikingjelly_counts_our_sops_of_binary_spikes() {
    let mut n_binary = 0;
    for_each_layer(|kind, theta, layer, _, _, tally| {
        let theirs = number(layer, "spikingjelly_synops");
        if floats(layer, "input").iter().all(|value| [0., 1.].contains(value)) {
            assert_eq!(tally.sops, theirs, "{kind} {theta}");
            n_binary += usize::from(kind == "binary");
        } else {
            // Anything but 0 and 1 is no spike to it.
            assert_eq!(theirs, 0, "{kind} {theta}");
        }
        // A level-k spike is k binary ones of the network that single-threshold hardware runs.
        if kind != "analog" {
            assert_eq!(tally.sops, number(layer, "spikingjelly_synops_of_slots"), "{kind} {theta}");
        }
    });
    assert!(n_binary >= 4);
}

#[test]
fn syops_counts_our_rate_times_padded_operations_and_the_bias() {
    for_each_layer(|kind, theta, layer, connections, batch, tally| {
        let theirs = &layer["syops"];
        let of = |key: &str| theirs[key].as_f64().unwrap();
        let is_linear = sizes(layer, "input_shape").len() == 2;
        let bias = match (layer["has_bias"].as_bool().unwrap(), is_linear) {
            (false, _) => 0,
            // It counts the bias of a linear layer once for the whole batch.
            (true, true) => connections.c_out as u64,
            (true, false) => batch * connections.n_outputs(),
        };
        let dense = batch * connections.dense_padded() + bias;
        assert_eq!(of("total"), dense as f64, "{kind} {theta}");
        let input = floats(layer, "input");
        let mut values = input.clone();
        values.sort_by(f32::total_cmp);
        values.dedup();
        if values.len() <= 2 && values.iter().all(|value| (0. ..=1.).contains(value)) {
            // Spikes to it; the rate is the mean of the values, so θ scales it. Its mean is a float32.
            let rate = f64::from(theta) * tally.spikes as f64 / input.len() as f64;
            assert!((of("ac") - dense as f64 * rate).abs() <= 1e-6 * dense as f64, "{kind} {theta}");
            assert_eq!(of("mac"), 0.);
        } else {
            assert_eq!((of("ac"), of("mac")), (0., dense as f64), "{kind} {theta}");
        }
    });
}

#[test]
fn spikingjelly_counts_our_attention_products() {
    let fixture = fixture();
    let tensor = |product: &Value, side: &str| {
        let shape = sizes(product, &format!("{side}_shape"));
        let shape = [shape[0], 1, shape[1], shape[2]];
        Tensor::from_vec(floats(product, side), &shape, &Device::Cpu).unwrap()
    };
    let signal = |is_spikes| if is_spikes { SignalKind::Spikes { v_threshold: 1. } } else { SignalKind::Analog };
    let kinds = [(true, true), (false, true), (true, false)];
    for (product, (left_is_spikes, right_is_spikes)) in list(&fixture, "products").iter().zip(kinds) {
        let (left, right) = (tensor(product, "left"), tensor(product, "right"));
        let mut counter = CostCounter::new();
        let sides = ((&left, signal(left_is_spikes)), (&right, signal(right_is_spikes)));
        let event = ProductEvent::new("block.0.attn.q_k", sides.0, sides.1);
        counter.product(&event).unwrap();
        let counted = &counter.products()[0];
        assert_eq!(counted.acs, number(product, "spikingjelly_synops"), "{}", product["name"]);
        assert_eq!((counted.macs, counted.dense), (0, 3 * 4 * 5 * 6));
    }
}
