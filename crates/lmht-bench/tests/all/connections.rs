//! Counts that a person can check.

use lmht_bench::{Connections, tally_analog, tally_spikes};

/// 3x3, padding 1, on 4x4, one channel in and out.
const CONV: Connections = Connections { c_in: 1, c_out: 1, kernel: 3, stride: 1, padding: 1, groups: 1, h: 4, w: 4 };

/// A 4x4 map with one value at (y, x).
fn map(y: usize, x: usize, value: f32) -> Vec<f32> {
    let mut map = vec![0.; 16];
    map[y * 4 + x] = value;
    map
}

#[track_caller]
fn sops(connections: &Connections, values: &[f32]) -> u64 {
    tally_spikes(connections, None, values, 0.5).unwrap().sops
}

// Along an axis the four positions are seen by 2, 3, 3, 2 outputs: 10, and 10 · 10 in the plane. With padding each of 16
// outputs multiplies 9 times.
#[test]
fn a_full_map_has_100_taps_and_144_with_padding() {
    let conv = Connections { c_in: 2, c_out: 3, ..CONV };
    assert_eq!((conv.dense(), conv.dense_padded()), (100 * 2 * 3, 144 * 2 * 3));
    assert_eq!(sops(&conv, &[0.5; 32]), 100 * 2 * 3);
    assert_eq!(conv.n_outputs(), 16 * 3);
}

// Stride 2 gives two outputs, which see positions -1..=1 and 1..=3: 1, 2, 1, 1 taps, 5 along an axis. Padded: 4 · 9.
#[test]
fn stride_counts_as_it_is() {
    let conv = Connections { stride: 2, ..CONV };
    assert_eq!((conv.dense(), conv.dense_padded()), (25, 36));
    assert_eq!(sops(&conv, &[0.5; 16]), 25);
    assert_eq!(sops(&conv, &map(1, 1, 0.5)), 4);
    assert_eq!(sops(&conv, &map(0, 1, 0.5)), 2);
    assert_eq!(sops(&conv, &map(0, 0, 0.5)), 1);
}

// A 1x1 convolution of stride 2 reads every other position: the others have no synapse.
#[test]
fn positions_that_nothing_reads_cost_nothing() {
    let conv = Connections { kernel: 1, stride: 2, padding: 0, c_out: 7, ..CONV };
    assert_eq!(conv.dense(), 4 * 7);
    assert_eq!((sops(&conv, &map(2, 2, 0.5)), sops(&conv, &map(2, 1, 0.5)), sops(&conv, &map(3, 3, 0.5))), (7, 0, 0));
}

// An even kernel without padding on 5: outputs at 0 and 2 see positions 0..=3, the last position none.
#[test]
fn a_remainder_has_no_synapse() {
    let conv = Connections { kernel: 2, stride: 2, padding: 0, h: 5, w: 5, ..CONV };
    assert_eq!((conv.fan_out(0, 0), conv.fan_out(3, 3), conv.fan_out(4, 0), conv.dense()), (1, 1, 0, 16));
}

#[test]
fn corner_edge_and_middle() {
    let conv = Connections { c_out: 5, ..CONV };
    assert_eq!(sops(&conv, &map(0, 0, 0.5)), 4 * 5);
    assert_eq!(sops(&conv, &map(3, 1, 0.5)), 6 * 5);
    assert_eq!(sops(&conv, &map(2, 1, 0.5)), 9 * 5);
}

// Level 3 in the middle: 27 accumulates, as three binary spikes have; NeuroBench counts 9.
#[test]
fn a_spike_counts_its_level() {
    let tally = tally_spikes(&CONV, None, &map(1, 2, 1.5), 0.5).unwrap();
    assert_eq!((tally.spikes, tally.active, tally.sops, tally.effective), (3, 1, 27, 9));
}

#[test]
fn a_negative_spike_is_one_operation() {
    assert_eq!(tally_spikes(&CONV, None, &map(1, 2, -0.5), 0.5).unwrap().sops, 9);
}

// Four channels in two groups, six outputs: a channel reaches three of them.
#[test]
fn groups_share_the_outputs() {
    let conv = Connections { c_in: 4, c_out: 6, groups: 2, ..CONV };
    assert_eq!((conv.fan_out(1, 1), conv.dense(), conv.n_weights()), (9 * 3, 100 * 4 * 3, 6 * 2 * 9));
    let mut values = vec![0.; 64];
    values[3 * 16 + 5] = 1.0; // level 2 at (1, 1) of channel 3
    assert_eq!(sops(&conv, &values), 2 * 9 * 3);
}

// Weights of channel 1: only the middle tap of output 0 is not 0.
#[test]
fn weights_of_zero_do_not_count_as_effective() {
    let conv = Connections { c_in: 2, c_out: 2, ..CONV };
    let mut weight = vec![1f32; 36];
    weight[9..18].fill(0.); // output 0, channel 1
    weight[9 + 4] = -2.;
    weight[27..36].fill(0.); // output 1, channel 1
    let mut values = vec![0f32; 32];
    values[0] = 1.0; // channel 0, corner, level 2
    values[16 + 5] = 0.5; // channel 1, middle
    let tally = tally_spikes(&conv, Some(&weight), &values, 0.5).unwrap();
    assert_eq!(tally.sops, 2 * 4 * 2 + 9 * 2);
    assert_eq!(tally.effective, 4 * 2 + 1);
    let analog = tally_analog(&conv, Some(&weight), &values).unwrap();
    assert_eq!((analog.effective, analog.sops, analog.spikes, analog.active), (4 * 2 + 1, 0, 0, 2));
}

#[test]
fn a_linear_layer_fans_out_to_all() {
    let linear = Connections::linear(3, 7);
    assert_eq!((linear.dense(), linear.dense_padded()), (21, 21));
    assert_eq!(sops(&linear, &[0., 0.5, 1.0]), 3 * 7);
}

// More channels than the 32-bit sums take at a time, each at the largest spike that is counted.
#[test]
fn the_largest_sums_do_not_overflow() {
    let n = 5000;
    let values = vec![0.5 * (1 << 20) as f32; n];
    assert_eq!(sops(&Connections { c_in: n, kernel: 1, padding: 0, h: 1, w: 1, ..CONV }, &values), (n as u64) << 20);
    let conv = Connections { c_in: n, h: 1, w: 2, ..CONV };
    assert_eq!(sops(&conv, &vec![0.5 * (1 << 20) as f32; 2 * n]), (2 * 2 * n as u64) << 20);
}

#[test]
fn what_is_no_multiple_of_the_threshold_is_no_spike() {
    for value in [0.3, f32::NAN, f32::INFINITY, 1e9, -0.2] {
        let message = tally_spikes(&CONV, None, &map(1, 1, value), 0.5).unwrap_err().to_string();
        assert!(message.contains("0.5"), "{message}");
    }
    // 2/3 is no f32: three of it are not exactly twice 1, and are spikes all the same.
    let third = 2f32 / 3.;
    assert_eq!(tally_spikes(&CONV, None, &map(1, 1, third + third + third), third).unwrap().spikes, 3);
}

#[test]
fn lengths_are_checked() {
    assert!(tally_spikes(&CONV, None, &[0.; 15], 1.).unwrap_err().to_string().contains("16"));
    assert!(tally_spikes(&CONV, Some(&[1.; 8]), &[0.; 16], 1.).unwrap_err().to_string().contains('9'));
}
