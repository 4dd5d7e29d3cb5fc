//! Spikes of a sign and of a size, in networks that a pencil can follow.

use candle_core::{DType, Device, Tensor};
use lmht_bench::Profiler;
use lmht_nn::layers::{Linear, Neuron, Site};
use lmht_nn::neurons::{Ilif, Ternary};
use lmht_nn::{NeuronConfig, ParamStore, Pass, Signal};

/// Four neurons are given `currents`, T·B = 2·1 rows of four, and send what they fire to a linear layer of five.
fn count(neuron: NeuronConfig, amplitude: Option<f32>, currents: &[f32]) -> Profiler {
    let params = ParamStore::new(1);
    let vb = params.builder(DType::F32, &Device::Cpu);
    let sn = Neuron::new(&neuron, 2, Site::Features, vb.pp("sn")).unwrap();
    let fc = Linear::new(4, 5, vb.pp("fc")).unwrap();
    for (name, var) in params.all() {
        if let Some(amplitude) = amplitude.filter(|_| name == "sn.fire_ratio") {
            var.set(&Tensor::new(&[amplitude], &Device::Cpu).unwrap()).unwrap();
        }
    }
    let mut profiler = Profiler::new();
    let mut pass = Pass::eval().observed_by(&mut profiler);
    pass.begin(2, 1).unwrap();
    let xs = Signal::analog(Tensor::from_slice(currents, (2, 4), &Device::Cpu).unwrap());
    let spikes = sn.forward(&xs, &mut pass).unwrap();
    fc.forward(&spikes, &mut pass).unwrap();
    profiler
}

// θ = 1/2, λ = 1/4. t = 0: 1 and -1/2 fire, -1/4 and 0 do not. t = 1: reset, 0; reset, -1; -1/16 - 1/2 fires; 0.
#[test]
fn a_ternary_spike_of_either_sign_is_one_operation() {
    let currents = [1., -0.5, -0.25, 0., 0., -1., -0.5, 0.];
    for amplitude in [1., 0.3, -2.] {
        let profiler = count(Ternary::default().into(), Some(amplitude), &currents);
        let fc = &profiler.cost.synapses()[0];
        assert_eq!((fc.total.spikes, fc.total.active, fc.total.sops, fc.total.effective), (4, 4, 20, 20));
        assert_eq!((fc.sops_at(0, 0), fc.sops_at(0, 1)), (10, 10));
        let sn = profiler.activity.report().remove(0);
        assert_eq!((sn.levels, sn.rate_nz, sn.rate_eq, sn.silent), (1, 0.5, 0.5, 0.25));
        assert_eq!(profiler.activity.rasters()[0].spikes, [[1, 1, 0, 0], [0, 1, 1, 0]]);
    }
}

// D = 4, λ = 1/4. t = 0: 1.4 rounds to 1, 2.6 to 3, 9 to at most 4, -1 to nothing. t = 1: 0.1 + 0 stays silent,
// -0.1 + 2 is 1.9 and 2, 5/4 + 0 is 1, -1/4 + 1 is 0.75 and 1.
#[test]
fn an_integer_spike_counts_its_level() {
    let profiler = count(Ilif::default().into(), None, &[1.4, 2.6, 9., -1., 0., 2., 0., 1.]);
    let fc = &profiler.cost.synapses()[0];
    assert_eq!((fc.total.spikes, fc.total.active, fc.total.sops, fc.total.effective), (12, 6, 60, 30));
    assert_eq!((fc.sops_at(0, 0), fc.sops_at(0, 1)), (5 * 8, 5 * 4));
    let sn = profiler.activity.report().remove(0);
    assert_eq!((sn.levels, sn.rate_nz, sn.rate_eq), (4, 6. / 8., 12. / 32.));
    assert_eq!(sn.histogram, [2. / 8., 3. / 8., 1. / 8., 1. / 8., 1. / 8.]);
    assert_eq!(profiler.activity.rasters()[0].spikes, [[1, 3, 4, 0], [0, 2, 1, 1]]);
}
