//! Firing rates by hand.

use candle_core::{Device, Tensor};
use lmht_bench::ActivityCounter;
use lmht_nn::{NeuronEvent, Observer, PassEvent, SignalKind, Values};

fn show(counter: &mut ActivityCounter, output: &[f32], signal: SignalKind, levels: u32) -> lmht_nn::Result<()> {
    // T = 2, B = 2, 3 units.
    let output = Tensor::from_slice(output, (4, 3), &Device::Cpu).unwrap();
    counter.begin(&PassEvent { timesteps: 2, n_images: 2 })?;
    counter.neuron(&NeuronEvent::new("sn1", 2, Values::Tensor(&output), signal, levels))
}

const SPIKES: SignalKind = SignalKind::Spikes { v_threshold: 0.5 };

// Levels of units a, b, c:   image 0: t=0: 0 1 2, t=1: 0 1 2;   image 1: t=0: 0 2 2, t=1: 0 0 2.
const OUTPUT: [f32; 12] = [0., 0.5, 1., 0., 1., 1., 0., 0.5, 1., 0., 0., 1.];

#[test]
fn rates_by_hand() {
    let mut counter = ActivityCounter::new();
    show(&mut counter, &OUTPUT, SPIKES, 2).unwrap();
    let layer = counter.report().remove(0);
    assert_eq!((layer.n_units, layer.timesteps, layer.levels), (3, 2, 2));
    assert_eq!(layer.rate_nz, 7. / 12.);
    assert_eq!(layer.rate_eq, 12. / 24.);
    assert_eq!(layer.histogram, [5. / 12., 2. / 12., 5. / 12.]);
    assert_eq!((layer.silent, layer.saturated), (1. / 3., 1. / 3.));
    // a and c are the same at both timesteps of both images, b in image 0.
    assert_eq!(layer.uniform, 5. / 6.);
    assert_eq!(layer.uniform_firing, Some(3. / 4.));
    assert_eq!(layer.rate_by_timestep, [7. / 12., 5. / 12.]);
    let raster = counter.rasters().remove(0);
    assert_eq!(raster.spikes, [[0, 1, 2], [0, 1, 2]]);
}

#[test]
fn a_second_pass_adds_to_the_first() {
    let mut counter = ActivityCounter::new();
    show(&mut counter, &OUTPUT, SPIKES, 2).unwrap();
    // Now a fires once, at level 2.
    show(&mut counter, &[1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.], SPIKES, 2).unwrap();
    let layer = counter.report().remove(0);
    assert_eq!((layer.silent, layer.saturated), (0., 0.));
    assert_eq!((layer.rate_nz, layer.rate_eq), (8. / 24., 14. / 48.));
    assert_eq!(layer.uniform, 10. / 12.);
}

#[test]
fn a_layer_that_never_fires_has_no_share_of_firing_units() {
    let mut counter = ActivityCounter::new();
    show(&mut counter, &[0.; 12], SPIKES, 2).unwrap();
    let layer = counter.report().remove(0);
    assert_eq!((layer.silent, layer.uniform, layer.uniform_firing), (1., 1., None));
}

#[test]
fn activations_of_an_ann_have_only_zeros_to_count() {
    let mut counter = ActivityCounter::new();
    show(&mut counter, &[0.3, 0., 0., 0.3, 0., 7., 0.3, 0., 0., 0.2, 0., 0.], SignalKind::Analog, 4).unwrap();
    let layer = counter.report().remove(0);
    assert_eq!((layer.rate_nz, layer.silent, layer.is_spiking), (5. / 12., 1. / 3., false));
    assert!(layer.histogram.is_empty() && counter.rasters().is_empty());
}

#[test]
fn images_of_another_size_are_refused() {
    let mut counter = ActivityCounter::new();
    show(&mut counter, &OUTPUT, SPIKES, 2).unwrap();
    let message = show(&mut counter, &OUTPUT, SPIKES, 3).unwrap_err().to_string();
    assert!(message.contains("sn1") && message.contains("2 levels"), "{message}");
}

// A ternary neuron's spikes of -1 are spikes: units a, b, c are -1 0 1, then -1 0 0; in the other image 0 0 -1, then 0 0 -1.
#[test]
fn a_spike_of_either_sign_counts() {
    let mut counter = ActivityCounter::new();
    let spikes = [-0.5, 0., 0.5, 0., 0., -0.5, -0.5, 0., 0., 0., 0., -0.5];
    show(&mut counter, &spikes, SPIKES, 1).unwrap();
    let layer = counter.report().remove(0);
    assert_eq!((layer.rate_nz, layer.rate_eq), (5. / 12., 5. / 12.));
    assert_eq!((layer.silent, layer.histogram), (1. / 3., vec![7. / 12., 5. / 12.]));
    assert_eq!(counter.rasters()[0].spikes, [[1, 0, 1], [1, 0, 0]]);
    // A learned amplitude may have any sign.
    let mut turned = ActivityCounter::new();
    show(&mut turned, &spikes.map(|s| -s), SignalKind::Spikes { v_threshold: -0.5 }, 1).unwrap();
    assert_eq!(turned.report(), counter.report());
}
