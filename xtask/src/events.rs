//! `cargo xtask events`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lmht_datasets::events::{EventOptions, Events, Frames, Recording, SplitBy, recordings};
use lmht_nn::atomic::write_file;

use crate::repository;

/// Show what a recording of an event camera holds, or write its frames.
///
/// Reads AEDAT 2 (CIFAR10-DVS, and jAER's of a DAVIS), 3.1 (DVS128 Gesture, with NAME_labels.csv beside it) and 4, .bin
/// (N-MNIST, N-Caltech101), .dat (N-CARS), .npz (SpikingJelly), .mat (ST-MNIST) and HDF5 (SHD). Frames are [T, P, H, W],
/// float32, counts of events by SpikingJelly's rule: by number, each frame has as many events; by time, each lasts as long;
/// the rest goes to the last one. Polarity 0 is off.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask events 60004.bin
  cargo xtask events cifar10_cat_0.aedat --frames 10 --out cat.npy
  cargo xtask events user01_led.aedat --recording 3 --frames 16 --by time")]
pub(crate) struct Args {
    /// The file.
    file: PathBuf,
    /// Write so many frames as .npy.
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// By what the recording is divided into frames.
    #[arg(long, value_enum, default_value_t = By::Number, requires = "frames")]
    by: By,
    /// Where the frames go [default: the name of the recording with .npy, in this folder].
    #[arg(long, value_name = "FILE", requires = "frames")]
    out: Option<PathBuf>,
    /// Which recording of a file that holds several, from 0.
    #[arg(long, value_name = "I")]
    recording: Option<usize>,
    /// The size of the sensor where the file does not say it: HEIGHTxWIDTH.
    #[arg(long, value_name = "HxW", value_parser = sensor)]
    sensor: Option<(usize, usize)>,
    /// Bring events into the order of time in place of refusing those that are not.
    #[arg(long)]
    sort: bool,
}

/// By what a recording is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// As many events in each frame.
    Number,
    /// As many microseconds in each frame.
    Time,
}

fn sensor(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    sides.ok_or_else(|| "expected HEIGHTxWIDTH in pixels, such as 34x34".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let file = args.file.display();
    let options = EventOptions { sensor: args.sensor, sort: args.sort };
    let found = recordings(&args.file, &options)?;
    let n = found.len();
    if let Some(index) = args.recording {
        ensure!(index < n, "--recording {index}: {file} holds {n}, counted from 0");
    }
    let chosen = found.iter().enumerate().filter(|(i, _)| args.recording.is_none_or(|index| index == *i));
    for (i, (recording, label)) in chosen {
        let which = if n > 1 { format!("[{i}]") } else { String::new() };
        let label = label.map_or(String::new(), |label| format!(", class {label}"));
        match recording {
            Recording::Events(events) => println!("{file}{which}: {}{label}", describe(events)),
            Recording::Frames(frames) => println!("{file}{which}: frames {:?}, counts of events{label}", frames.dims()),
        }
    }
    let Some(n_frames) = args.frames else { return Ok(()) };
    ensure!(
        n == 1 || args.recording.is_some(),
        "{file} holds {n} recordings; choose one with --recording, 0 to {}",
        n.saturating_sub(1)
    );
    let (recording, _) =
        found.get(args.recording.unwrap_or(0)).with_context(|| format!("{file} holds no recording"))?;
    let Recording::Events(events) = recording else {
        anyhow::bail!("{file} holds frames already; --frames makes them of events");
    };
    let by = if args.by == By::Number { SplitBy::Number } else { SplitBy::Time };
    let frames = events.frames(n_frames, by).with_context(|| file.to_string())?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(args.file.file_stem().unwrap_or_default()).with_extension("npy"));
    repository::make_parent(&out)?;
    write_file(&out, &frames.to_npy())?;
    println!("{}: {}", out.display(), describe_frames(&frames));
    Ok(())
}

fn describe(events: &Events) -> String {
    let (h, w) = events.sensor();
    let n_on = events.p().iter().filter(|p| **p == 1).count();
    let span = events.span() as f64 / 1e6;
    let polarities = match events.n_polarities() {
        1 => "without polarity".to_owned(),
        _ => format!("{n_on} on, {} off", events.len() - n_on),
    };
    format!("sensor {h}x{w} (height x width), {} events in {span:.6} s, {polarities}", events.len())
}

fn describe_frames(frames: &Frames) -> String {
    let [t, p, h, w] = frames.dims();
    let counts = frames.counts().chunks_exact(p * h * w).map(|frame| frame.iter().sum::<f32>().to_string());
    format!("frames [{t}, {p}, {h}, {w}], float32, events in each: {}", counts.collect::<Vec<_>>().join(", "))
}
