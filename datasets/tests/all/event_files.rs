//! Files of recordings: what each format gives, and what is said of a file that is foreign, damaged or hostile.

use lmht_datasets::events::{EventOptions, Events, Recording, parse, read};

use crate::recordings::{
    EVENTS, Event, HEADER3, aedat2, aedat3, aedat4, all, archive, bin, compress, dat, davis, element, hdf5, head3,
    head4, matlab, matrix, npy, npz, packet4, spiketrain,
};

fn events_of(name: &str, bytes: &[u8], options: &EventOptions) -> Events {
    match parse(bytes, name, options).unwrap_or_else(|error| panic!("{error}")).swap_remove(0) {
        (Recording::Events(events), _) => events,
        (Recording::Frames(_), _) => panic!("{name} has frames"),
    }
}

fn listed(events: &Events) -> Vec<Event> {
    (0..events.len()).map(|i| (events.t()[i], events.x()[i], events.y()[i], events.p()[i])).collect()
}

/// The error of parsing, with all of `parts` in its message.
#[track_caller]
fn fails(name: &str, bytes: &[u8], parts: &[&str]) {
    let message = parse(bytes, name, &EventOptions::default()).unwrap_err().to_string();
    for part in [&[name, "expected"], parts].concat() {
        assert!(message.contains(part), "{part} in: {message}");
    }
}

#[test]
fn every_format_gives_the_events_that_were_written() {
    for (name, bytes) in all().into_iter().filter(|(name, _)| !name.ends_with(".h5")) {
        let events = events_of(name, &bytes, &EventOptions::default());
        assert_eq!(listed(&events), EVENTS, "{name}");
        let sensor = match name {
            "a.aedat" | "b.aedat" => (128, 128),
            "davis.aedat" => (260, 346),
            "a.mat" | "b.mat" => (10, 10),
            name if name.ends_with("4") => (8, 9),
            _ => (34, 34),
        };
        assert_eq!((events.sensor(), events.n_polarities(), events.span()), (sensor, 2, 300), "{name}");
    }
    // Several recordings, each sorted when that is asked for.
    let shd = hdf5(&[(&[(0.5, 3), (0.25, 699)], 4), (&[(1.0, 0)], 0)]);
    let found = parse(&shd, "shd_test.h5", &EventOptions { sort: true, ..EventOptions::default() }).unwrap();
    let labels: Vec<_> = found.iter().map(|(_, label)| *label).collect();
    assert_eq!(labels, [Some(4), Some(0)]);
    let Recording::Events(first) = &found[0].0 else { panic!("frames") };
    assert_eq!(listed(first), [(250_000, 699, 0, 0), (500_000, 3, 0, 0)]);
    assert_eq!((first.sensor(), first.n_polarities()), ((1, 700), 1));
    fails("shd_test.h5", &shd, &["recording 0", "event 1 goes back in time", "`sort`"]);
}

/// The clock of the camera runs over: AEDAT 3.1 says so in a packet, `.bin` by an event in row 240, AEDAT 2 by time that
/// begins anew.
#[test]
fn overflows_of_the_clock_go_on() {
    let mut bytes = aedat3(&EVENTS[..1]);
    bytes.extend(head3(1, 8, 1, 1, 1));
    bytes.extend([7, 0, 0, 0, 5, 0, 0, 0]);
    let events = events_of("a.aedat", &bytes, &EventOptions::default());
    assert_eq!(listed(&events), [EVENTS[0], ((1 << 31) + 5, 0, 1, 1)]);
    let over = bin(&[(100, 1, 2, 1), (0, 0, 240, 0), (7, 3, 4, 0)]);
    assert_eq!(listed(&events_of("a.bin", &over, &EventOptions::default())), [(100, 1, 2, 1), (8199, 3, 4, 0)]);
    let (last, after) = ((1 << 32) - 2, (1 << 32) + 5);
    let mut bytes = aedat2(&[(last, 1, 2, 1)]);
    bytes.extend(&aedat2(&[(5, 3, 4, 0)])[58..]);
    let over = listed(&events_of("a.aedat", &bytes, &EventOptions::default()));
    assert_eq!(over, [(last, 1, 2, 1), (after, 3, 4, 0)]);
    // Seen by an event that is of no pixel; one that is out of order is no overflow.
    let at = |times: &[u32]| {
        let event = |t: &u32| [0u32.to_be_bytes(), t.to_be_bytes()].concat();
        [davis(&[]), times.iter().flat_map(event).collect()].concat()
    };
    let times = |bytes: &[u8]| events_of("a.aedat", bytes, &EventOptions { sort: true, sensor: None }).t().to_vec();
    let mut motion = at(&[0x7000_0000, 0xd000_0000, 0x2000_0000]);
    let of_motion = motion.len() - 16;
    motion[of_motion] = 0x80;
    assert_eq!(times(&motion), [0x7000_0000, 0x1_2000_0000]);
    fails("a.aedat", &at(&[5, 0xf000_0000, 6]), &["event 1 goes back in time, from 5 to -268435456"]);
    fails("a.aedat", &at(&[10, 0xffff_fffb, 11]), &["event 1 goes back in time, from 10 to -5"]);
    assert_eq!(times(&at(&[0xffff_fffe, 1, 0xffff_ffff, 2])), [-2, -1, 1, 2].map(|t| t + (1 << 32)));
    // Not of a pixel, or marked as void by the file itself.
    let mut special = aedat2(&EVENTS[..1]);
    special.extend([0, 0, 0x80, 0, 0, 0, 0, 0]);
    assert_eq!(events_of("a.aedat", &special, &EventOptions::default()).len(), 1);
    let mut void = aedat3(&EVENTS[..1]);
    void.extend(head3(1, 8, 0, 1, 1));
    void.extend([6, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(events_of("a.aedat", &void, &EventOptions::default()).len(), 1);
}

#[test]
fn events_outside_of_the_sensor_and_back_in_time_are_refused_by_number() {
    let outside = [(0, 1, 2, 1), (5, 200, 2, 1)];
    fails("a.aedat", &aedat3(&outside), &["event 1 is at x = 200, y = 2", "128x128"]);
    fails("a.aedat4", &aedat4(&[(0, 1, 2, 1), (5, 8, 8, 0)], 1), &["event 1 is at x = 8, y = 8", "8x9"]);
    let far = [(0, 700, 2, 1)];
    fails("a.npz", &npz(&far, true), &["3x701", "`sensor`"]);
    let small = EventOptions { sensor: Some((4, 4)), sort: false };
    let message = parse(&bin(&EVENTS), "a.bin", &small).unwrap_err().to_string();
    assert!(message.contains("event 2 is at x = 0, y = 5, outside of the sensor of 4x4"), "{message}");
    let back = [(9, 1, 2, 1), (5, 1, 2, 1), (20, 0, 0, 0)];
    let sorted = [(5, 1, 2, 1), (9, 1, 2, 1), (20, 0, 0, 0)];
    for (name, bytes) in [
        ("a.bin", bin(&back)),
        ("a.aedat", aedat2(&back)),
        ("b.aedat", aedat3(&back)),
        ("a.aedat4", aedat4(&back, 3)),
        ("a.npz", npz(&back, false)),
    ] {
        fails(name, &bytes, &["event 1 goes back in time, from 9 to 5 microseconds"]);
        assert_eq!(listed(&events_of(name, &bytes, &EventOptions { sort: true, sensor: None })), sorted, "{name}");
    }
    fails("a.aedat4", &aedat4(&[(0, 1, 2, 7)], 0), &["polarity 7"]);
    fails("a.npz", &npz(&[(0, 1, 2, 2)], false), &["polarity 2"]);
}

/// A file cut off at any byte is an error, or, where the format cannot tell, the events before.
#[test]
fn truncated_files_are_errors() {
    for (name, bytes) in all() {
        let options = EventOptions { sort: true, sensor: None };
        let mut whole = 0;
        for n in 0..bytes.len() {
            match parse(&bytes[..n], name, &options) {
                Ok(found) => {
                    let Recording::Events(events) = &found[0].0 else { panic!("frames") };
                    assert_eq!(listed(events), EVENTS[..events.len()], "{name}, {n} bytes");
                    whole += 1;
                }
                Err(error) => assert!(error.to_string().contains(name), "{error}"),
            }
        }
        // Between events of `.bin` and AEDAT 2, within the text of the latter; between packets, and within the last line end
        // before them.
        let most = match name {
            "a.bin" => 4,
            "a.aedat" => 60,
            "davis.aedat" => 60,
            "a.dat" => 4,
            "b.aedat" => 5,
            name if name.ends_with(".aedat4") => 4,
            _ => 0,
        };
        assert!(whole <= most, "{name}: {whole} of {}", bytes.len());
    }
}

#[test]
fn foreign_and_damaged_files_say_what_is_wrong() {
    fails("a.txt", b"hello", &["5 bytes do not start like one"]);
    fails("a.bin", &bin(&EVENTS)[..9], &["9 bytes end within an event of 5"]);
    let mut strange = aedat2(&EVENTS);
    strange.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    fails("a.aedat", &strange, &["event 4 has the address 0x1000000"]);
    let (start, first) =
        (b"% Data file containing Event2d events.\n", b"% Data file containing Event2d events.\n% Version 1\n");
    fails("a.dat", start, &["`% Version 2`, found none"]);
    fails("a.dat", first, &["`% Version 2`, found 1"]);
    fails("a.dat", &start[..start.len() - 1], &["ends within the lines at its start"]);
    fails("a.dat", &dat(&EVENTS)[..60], &["7 bytes after the start end within an event of 8"]);
    fails("a.dat", &[&start[..], b"% Version 2\n\x01\x08"].concat(), &["kind 1 and 8 bytes"]);
    let sized = |size: &[u8]| [&start[..], b"% Version 2\n", size, &dat(&EVENTS)[51..]].concat();
    assert_eq!(events_of("a.dat", &sized(b"% Height 50\n% Width 60\n"), &EventOptions::default()).sensor(), (50, 60));
    fails("a.dat", &sized(b"% Height 2\n% Width 60\n"), &["outside"]);
    fails("a.aedat", b"#!AER-DAT3.1\r\n#Format: RAW\r\n", &["#!END-HEADER"]);
    let unknown = b"#!AER-DAT3.1\r\n#Source 1: Eye\r\n#!END-HEADER\r\n";
    fails("a.aedat", unknown, &["`Eye`", "DVS128", "`sensor`"]);
    let serial = b"#!AER-DAT3.1\r\n#Format: SERIAL_TS\r\n#!END-HEADER\r\n";
    fails("a.aedat", serial, &["SERIAL_TS"]);
    let mut bytes = HEADER3.to_vec();
    bytes.extend(head3(1, 16, 0, 1, 1));
    bytes.extend([0; 16]);
    fails("a.aedat", &bytes, &["packet 0 has 1 events of 16 bytes"]);
    fails("a.aedat4", &[&head4(9, (8, 8))[..], &packet4(b"abc")].concat(), &["packet 0", "a way (9)"]);
    fails("a.aedat4", &[&head4(1, (8, 8))[..], &packet4(b"abc")].concat(), &["packet 0", "decompressed"]);
    fails("a.aedat4", &[&head4(0, (8, 8))[..], &packet4(b"abc")].concat(), &["packet 0 is no packet of events"]);
    fails("a.npz", &archive(&[("t.npy", npy("<i8", "(1,)", &[0; 8]))], false), &["no array `x`"]);
    fails("a.npz", &archive(&[("t.npy", npy("<i8", "(2,)", &[0; 8]))], true), &["`t` has 8 bytes"]);
    fails("a.npz", &archive(&[("t.npy", npy("|O", "(1,)", &[0; 8]))], false), &["`t` has the description"]);
    fails("a.npz", &archive(&[("t.npy", b"text".to_vec())], false), &["`t` is no array"]);
    let mut changed = npz(&EVENTS, false);
    let at = changed.windows(6).position(|bytes| bytes == b"\x93NUMPY").unwrap() + 90;
    changed[at] ^= 1;
    fails("a.npz", &changed, &["`t` is not what its checksum says"]);
    let half = archive(&[("t.npy", npy("<f8", "(1,)", &0.5f64.to_le_bytes()))], false);
    fails("a.npz", &half, &["no array `x`"]);
    let mut changed = hdf5(&[(&[(0.5, 3)], 4)]);
    let at = changed.windows(6).rposition(|bytes| bytes == b"labels").unwrap();
    changed[at] = b'L';
    fails("shd.h5", &changed, &["is missing or damaged"]);
    let message = read("nowhere.bin").unwrap_err().to_string();
    assert!(message.contains("nowhere.bin: cannot read the recording"), "{message}");
}

/// What jAER writes of a DAVIS: the camera by its class, upright pictures, samples of pictures and motion left out.
#[test]
fn a_davis_is_read_by_the_name_of_its_camera() {
    let of = |chip: &str| format!("#!AER-DAT2.0\n# AEChip: {chip}\n").into_bytes();
    for (chip, sensor) in [
        ("eu.seebetter.ini.chips.davis.Davis346red", (260, 346)),
        ("eu.seebetter.ini.chips.davis.Davis346BColor", (260, 346)),
        ("eu.seebetter.ini.chips.davis.DAVIS240C", (180, 240)),
        ("eu.seebetter.ini.chips.davis.Davis128", (128, 128)),
        ("eu.seebetter.ini.chips.davis.Davis640", (480, 640)),
        ("ch.unizh.ini.jaer.chip.retina.DVS128", (128, 128)),
    ] {
        let events = events_of("a.aedat", &of(chip), &EventOptions::default());
        assert_eq!((events.len(), events.sensor()), (0, sensor), "{chip}");
    }
    let said = EventOptions { sensor: Some((260, 346)), sort: false };
    for chip in ["eu.seebetter.ini.chips.davis.DavisRGBW640", "Davis1280", "CochleaAMS1c", "MultiDVS128CameraChip", ""]
    {
        fails("a.aedat", &of(chip), &[&format!("its camera is `{chip}`"), "DAVIS346", "`sensor`", "AEDAT 4"]);
        assert_eq!(events_of("a.aedat", &of(chip), &said).sensor(), (260, 346), "{chip}");
    }
    fails("a.aedat", &of(&"x".repeat(100)), &[&format!("`{}…`", "x".repeat(60))]);
    // Corners by hand: the address counts from the lower right.
    let word = |address: u32, t: u32| [address.to_be_bytes(), t.to_be_bytes()].concat();
    let mut bytes = davis(&[]);
    bytes.extend([word(0, 1), word(259 << 22 | 345 << 12 | 1 << 11, 2)].concat());
    // From outside, of a picture, of motion.
    bytes.extend([word(1 << 10, 3), word(1 << 31, 4), word(1 << 31 | 3 << 10, 5)].concat());
    let events = events_of("a.aedat", &bytes, &EventOptions::default());
    assert_eq!(listed(&events), [(1, 345, 259, 0), (2, 0, 0, 1)]);
    // An event that begins as a line of text does.
    let first = [(7, 1, 119, 1), (9, 0, 0, 0)];
    let bytes = davis(&first);
    let text = bytes.len() - 16;
    assert_eq!(bytes[text], b'#');
    assert_eq!(listed(&events_of("a.aedat", &bytes, &EventOptions::default())), first);
    let read = |bytes: &[u8]| listed(&events_of("a.aedat", bytes, &EventOptions::default()));
    assert_eq!(read(&[&of("Davis346red")[..], &bytes[text..]].concat()), first);
    // As that one, with an end of line in its second byte, in its third, or in its time; with and without the end of the lines.
    for (word, t) in [(0x230a_0800, 7), (0x2314_0a00, 7), (0x2314_0800, 0x0a0a_2320)] {
        let after = [word, t, 0x4000_0000, t + 1].map(u32::to_be_bytes).concat();
        for end in ["", "#End Of ASCII Header\r\n", "# End of ASCII Header\r\n", "#\n", "# Note: \x07\x1b[0m\n"] {
            let events = read(&[&of("Davis346red")[..], end.as_bytes(), &after].concat());
            let told: Vec<_> = events.iter().map(|event| event.0).collect();
            assert_eq!(told, [t.into(), i64::from(t) + 1], "{word:#x} {end:?}");
        }
    }
    let whole = [&of("Davis346red")[..], &bytes[text..]].concat();
    for n in 1..8 {
        fails("a.aedat", &whole[..whole.len() - n], &["end within an event of 8 bytes"]);
    }
    // The camera is not named.
    let unnamed = [b"#!AER-DAT2.0\r\n", &bytes[text..]].concat();
    fails("a.aedat", &unnamed, &["event 0 has the address 0x2315", "`sensor`, 180x240 or 260x346"]);
    assert_eq!(listed(&events_of("a.aedat", &unnamed, &said)), first);
    let outside = [&davis(&[])[..], &word(260 << 22, 0), &word(346 << 12, 0)].concat();
    fails("a.aedat", &outside, &["event 0 has the address 0x41000000, column 0 of row 260", "260x346"]);
    fails("a.aedat", &[&davis(&[])[..], &outside[outside.len() - 8..]].concat(), &["column 346 of row 0"]);
}

#[test]
fn files_of_matlab_say_what_is_wrong() {
    let file = |element: Vec<u8>| matlab(&[element], true);
    fails("a.mat", b"MATLAB 7.3 MAT-file, Platform: PCWIN64", &["version 7.3", "`-v7`"]);
    let mut big = matlab(&[], false);
    big[126..].copy_from_slice(b"MI");
    fails("a.mat", &big, &["big-endian"]);
    fails("a.mat", b"hello", &["5 bytes do not start like a file of MATLAB's versions 5 to 7"]);
    fails("a.mat", &matlab(&[], false), &["no matrix `spiketrain`", "has none"]);
    let other = || matrix("LUT", 6, &[1, 1], 9, &[0; 8]);
    fails("a.mat", &matlab(&[other(), element(7, &[0; 4])], false), &["no matrix `spiketrain`", "has `LUT`"]);
    fails("a.mat", &file(matrix("spiketrain", 5, &[101, 1], 9, &[0; 808])), &["no full matrix of real numbers"]);
    fails("a.mat", &file(matrix("spiketrain", 6 | 1 << 11, &[101, 1], 9, &[0; 808])), &["no full matrix"]);
    fails("a.mat", &file(matrix("spiketrain", 6, &[101, 1, 1], 9, &[0; 808])), &["has 3 dimensions"]);
    fails("a.mat", &file(matrix("spiketrain", 6, &[1, 101], 9, &[0; 808])), &["is 1 x 101, expected 101 x N"]);
    fails("a.mat", &file(matrix("spiketrain", 6, &[101, 2], 9, &[0; 808])), &["808 bytes, but is 101 x 2 of 8"]);
    fails("a.mat", &file(matrix("spiketrain", 6, &[101, -1], 9, &[0; 808])), &["101 x 4294967295 of 8"]);
    fails("a.mat", &file(matrix("spiketrain", 6, &[101, 1], 16, &[0; 101])), &["holds no numbers (type 16)"]);
    fails("a.mat", &file(matrix("a\nb\x1b", 6, &[1, 1], 9, &[0; 8])), &["`a\u{fffd}b\u{fffd}`"]);
    let long = matlab(&vec![matrix(&"\u{7f}".repeat(99), 6, &[1, 1], 9, &[0; 8]); 99], false);
    let message = parse(&long, "a.mat", &EventOptions::default()).unwrap_err().to_string();
    assert!(message.chars().count() < 1000, "{message}");
    fails("a.mat", &file(element(14, &[])), &["a matrix without flags"]);
    fails("a.mat", &matlab(&[vec![1, 0, 9, 0, 0, 0, 0, 0]], false), &["an element of 9 bytes where 4 have room"]);
    fails("a.mat", &[&matlab(&[], false)[..], &element(15, b"abc")].concat(), &["cannot be decompressed"]);
    let with = |at: usize, value: f64| {
        let mut values = [0.0; 202];
        values[at] = value;
        let bytes: Vec<u8> = values.iter().flat_map(|value: &f64| value.to_le_bytes()).collect();
        file(matrix("spiketrain", 6, &[101, 2], 9, &bytes))
    };
    let with_time = |time: f64| {
        let values: Vec<u8> =
            [vec![1.0; 100], vec![time]].concat().iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        file(matrix("spiketrain", 6, &[101, 1], 9, &values))
    };
    fails("a.mat", &with(108, 0.5), &["column 1 of `spiketrain` has the value 0.5 for taxel 7", "-1, 0 or 1"]);
    fails("a.mat", &with(108, f64::NAN), &["has the value NaN for taxel 7"]);
    let endless = [with_time(f64::INFINITY), with_time(f64::NAN)];
    fails("a.mat", &endless[0], &["column 0 of `spiketrain` has an event at inf"]);
    fails("a.mat", &endless[1], &["column 0 of `spiketrain` has an event at NaN"]);
    fails("a.mat", &matlab(&[spiketrain(&[(9, 0, 0, 1), (5, 0, 0, 1)])], true), &["event 1 goes back in time"]);
    // Whole numbers in one byte each, as MATLAB stores them; several events at once, and none.
    let mut values = [0u8; 303];
    (values[3], values[17], values[100], values[202 + 99], values[302]) = (1, 255, 1, 1, 2);
    let small = file(matrix("spiketrain", 6, &[101, 3], 1, &values));
    let events = listed(&events_of("a.mat", &small, &EventOptions::default()));
    assert_eq!(events, [(1_000_000, 3, 0, 1), (1_000_000, 7, 1, 0), (2_000_000, 9, 9, 1)]);
}

/// Sizes that a file claims take no memory before they are there.
#[test]
fn hostile_sizes_are_refused() {
    let mut bytes = HEADER3.to_vec();
    bytes.extend(head3(1, u32::MAX, 0, u32::MAX, u32::MAX));
    fails("a.aedat", &bytes, &["it ends within packet 0"]);
    fails("a.aedat", &[HEADER3, &head3(1, 8, u32::MAX, 0, 0)].concat(), &["ran over 4294967295 times"]);
    let mut bytes = head4(0, (8, 8));
    bytes.extend(0i32.to_le_bytes());
    bytes.extend(i32::MAX.to_le_bytes());
    fails("a.aedat4", &bytes, &["it ends within packet 0"]);
    fails("a.aedat4", &head4(0, (usize::MAX, 8)), &["1 to 8192 pixels"]);
    for compression in [1, 3] {
        let bomb = compress(compression, &vec![0; (1 << 26) + 9]);
        let bytes = [&head4(compression, (8, 8))[..], &packet4(&bomb)].concat();
        fails("a.aedat4", &bytes, &["packet 0 becomes more than 67108864 bytes"]);
    }
    let large = vec![0; (1 << 25) + 1];
    fails("a.mat", &matlab(&[large.clone(), large], true), &["become more than 67108864 bytes"]);
    let huge = npy("<i8", "(99999999999999999999,)", &[]);
    fails("a.npz", &archive(&[("t.npy", huge)], true), &["has the description"]);
    let overflow = npy("<i8", "(4611686018427387904, 4)", &[]);
    fails("a.npz", &archive(&[("t.npy", overflow)], true), &["its shape is"]);
    let claims = npy("<f4", "(1, 2, 65536, 65536)", &[0; 4]);
    fails("a.npz", &archive(&[("frames.npy", claims)], true), &["`frames` has 4 bytes"]);
    // More than an entry says that it has.
    let mut lies = archive(&[("t.npy", npy("<i8", "(4096,)", &[0; 8 * 4096]))], true);
    for at in [22, lies.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap() + 24] {
        lies[at..at + 4].copy_from_slice(&100u32.to_le_bytes());
    }
    fails("a.npz", &lies, &["`t`"]);
}

/// Bytes of good files changed, cut, repeated and joined at places from a seed: an error that names the file, or events in
/// order on their sensor; never a panic. `LMHT_FUZZ_ROUNDS` says how many of each.
#[test]
fn changed_recordings_never_panic() {
    let rounds: u64 = std::env::var("LMHT_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2_000);
    for (name, original) in all() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ original.len() as u64;
        let mut below = |n: usize| {
            // splitmix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % n as u64) as usize
        };
        let (mut n_read, mut n_refused) = (0u64, 0u64);
        for _ in 0..rounds {
            let mut bytes = original.clone();
            for _ in 0..1 + below(4) {
                let at = below(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
                match below(6) {
                    0 => bytes.truncate(at),
                    1 => bytes.extend_from_within(at..),
                    2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
                    3 if bytes.len() >= at + 4 => {
                        let word = [0u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 1 << 20][below(6)];
                        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
                    }
                    _ if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
                    _ => (),
                }
            }
            match parse(&bytes, name, &EventOptions { sensor: None, sort: below(2) == 0 }) {
                Ok(found) => {
                    n_read += 1;
                    for (recording, _) in found {
                        let Recording::Events(events) = recording else { continue };
                        let (h, w) = events.sensor();
                        assert!(events.t().windows(2).all(|pair| pair[0] <= pair[1]), "{name}");
                        assert!(events.x().iter().all(|x| usize::from(*x) < w), "{name}");
                        assert!(events.y().iter().all(|y| usize::from(*y) < h), "{name}");
                    }
                }
                Err(error) => {
                    n_refused += 1;
                    let message = error.to_string();
                    assert!(message.starts_with(name) && !message.contains("gave up on it"), "{message}");
                }
            }
        }
        println!("{name}: {rounds} inputs, {n_read} read, {n_refused} refused");
        assert!(n_read > 0 && n_refused > 0, "{name}: {n_read} read, {n_refused} refused");
    }
}
