//! Rounds in which the sides take turns, and what is made of them.
//!
//! In every round each side runs the case once, one right after the other, in an order that turns with the rounds. What is
//! reported of two sides is the median of the quotients within rounds, with the quartiles: load from elsewhere and a
//! processor that changes its clock then hit both alike.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::protocol::{Ask, Case, Reply, Request, step_seconds, unexpected};

/// A side shorter than this runs an untimed step before the timed ones: the other sides have emptied the caches.
const SHORT: f64 = 0.2;
/// A pause between two sides, in which threads that wait actively go to sleep.
const PAUSE: Duration = Duration::from_millis(20);
/// The most steps of a round.
const MOST_STEPS: usize = 500;

/// One side of a measurement: which process runs what.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// What the report calls it.
    pub(crate) name: String,
    /// Number of its process.
    pub(crate) worker: usize,
    /// What it runs.
    pub(crate) case: Case,
}

/// What was measured of a case: a row of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What is measured.
    pub(crate) case: String,
    /// Images, or floating-point operations, of a step.
    pub(crate) work: f64,
    /// The sides, ours first.
    pub(crate) sides: Vec<Times>,
}

/// Times of one side, and what follows from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// What the report calls it.
    pub(crate) side: String,
    /// Steps in a round.
    pub(crate) steps: usize,
    /// How it chose to run, if it had a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// Seconds of a step, one for each round.
    pub(crate) seconds: Vec<f64>,
    /// Lower quartile, median, upper quartile of them.
    pub(crate) quartiles: [f64; 3],
    /// The same of the quotients within rounds: this side's seconds over those of the first side.
    pub(crate) ratio: [f64; 3],
}

impl Row {
    /// A row of the seconds of each side in each round.
    pub(crate) fn new(case: &str, work: f64, mut sides: Vec<Times>) -> Result<Self> {
        ensure!(!sides.is_empty(), "{case}: expected at least one side");
        let first = sides[0].seconds.clone();
        for times in &mut sides {
            let (n, expected) = (times.seconds.len(), first.len());
            ensure!(n == expected && n > 0, "{case}, {}: expected {expected} rounds, got {n}", times.side);
            times.quartiles = quartiles(times.seconds.clone());
            times.ratio = quartiles(times.seconds.iter().zip(&first).map(|(other, first)| other / first).collect());
        }
        Ok(Self { case: case.to_string(), work, sides })
    }

    /// The side of a name.
    pub(crate) fn side(&self, name: &str) -> Option<&Times> {
        self.sides.iter().find(|times| times.side == name)
    }
}

/// Measures a case, side by side.
///
/// `seconds` is how long a round of one side should last; `tick` is called after each of them.
pub(crate) fn measure<W: Ask>(
    workers: &mut [W],
    case: &str,
    work: f64,
    sides: &[Side],
    rounds: usize,
    seconds: f64,
    tick: &dyn Fn(),
) -> Result<Row> {
    let mut all = Vec::with_capacity(sides.len());
    let id = |number: usize| format!("{case} {number}");
    for (number, side) in sides.iter().enumerate() {
        let reply = workers[side.worker].ask(&Request::Prepare { id: id(number), case: side.case.clone() })?;
        let Reply::Prepared { seconds: step, note } = reply else { return Err(unexpected("prepared", &reply)) };
        ensure!(step.is_finite() && step > 0., "{}, {case}: expected a positive duration, got {step} s", side.name);
        let steps = ((seconds / step).round() as usize).clamp(1, MOST_STEPS);
        let times = Times { side: side.name.clone(), steps, note, seconds: vec![], quartiles: [0.; 3], ratio: [0.; 3] };
        all.push((times, usize::from(step < SHORT)));
    }
    for round in 0..rounds {
        for i in 0..sides.len() {
            let number = (i + round) % sides.len();
            let (times, warm) = &mut all[number];
            std::thread::sleep(PAUSE);
            let request = Request::Run { id: id(number), warm: *warm, steps: times.steps };
            let reply = workers[sides[number].worker].ask(&request)?;
            times.seconds.push(step_seconds(&reply, times.steps)?);
            tick();
        }
    }
    for (number, side) in sides.iter().enumerate() {
        workers[side.worker].ask(&Request::Drop { id: id(number) })?;
    }
    Row::new(case, work, all.into_iter().map(|(times, _)| times).collect())
}

/// Lower quartile, median, upper quartile; between two values, the mean weighted by distance.
pub(crate) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|share| {
        let place = (values.len() - 1) as f64 * share;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        values[low] + (values[high] - values[low]) * (place - low as f64)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A side whose step takes so long, multiplied by the load of the round.
    struct Fake {
        step: f64,
        load: Vec<f64>,
        asked: Vec<Request>,
    }

    impl Fake {
        fn new(step: f64, load: &[f64]) -> Self {
            Self { step, load: load.to_vec(), asked: vec![] }
        }
    }

    impl Ask for Fake {
        fn ask(&mut self, request: &Request) -> Result<Reply> {
            self.asked.push(request.clone());
            Ok(match request {
                Request::Prepare { .. } => Reply::Prepared { seconds: self.step, note: None },
                Request::Run { steps, .. } => Reply::Seconds(self.step * self.load.remove(0) * *steps as f64),
                _ => Reply::Done,
            })
        }
    }

    fn sides() -> [Side; 2] {
        ["ours", "theirs"].map(|name| Side {
            name: name.into(),
            worker: usize::from(name == "theirs"),
            case: Case::Matmul { size: 1 },
        })
    }

    #[test]
    fn quartiles_by_hand() {
        assert_eq!(quartiles(vec![5., 1., 4., 2., 3.]), [2., 3., 4.]);
        assert_eq!(quartiles(vec![2., 1.]), [1.25, 1.5, 1.75]);
        assert_eq!(quartiles(vec![7.]), [7.; 3]);
    }

    #[test]
    fn load_that_hits_both_leaves_the_ratio() {
        // The second round is ten times as slow for everybody: the medians move, the quotients do not.
        let load = [1., 10., 10., 1.];
        let mut workers = [Fake::new(0.25, &load), Fake::new(1., &load)];
        let ticks = Cell::new(0);
        let tick = || ticks.set(ticks.get() + 1);
        let row = measure(&mut workers, "matmul", 2., &sides(), 4, 0.75, &tick).unwrap();
        assert_eq!(ticks.get(), 8);
        assert_eq!(row.sides[0].quartiles[1], 0.25 * 5.5);
        assert_eq!(row.side("theirs").unwrap().ratio, [4.; 3]);
        assert_eq!((row.sides[0].steps, row.sides[1].steps), (3, 1));
        // Nothing stays prepared, and a long step is not warmed up.
        assert_eq!(workers[0].asked.last(), Some(&Request::Drop { id: "matmul 0".into() }));
        assert!(matches!(workers[1].asked[1], Request::Run { warm: 0, steps: 1, .. }));
    }

    #[test]
    fn the_ratio_is_the_median_of_quotients_not_the_quotient_of_medians() {
        let times = |side: &str, seconds: &[f64]| Times {
            side: side.into(),
            steps: 1,
            note: None,
            seconds: seconds.to_vec(),
            quartiles: [0.; 3],
            ratio: [0.; 3],
        };
        let sides = vec![times("ours", &[1., 2., 4.]), times("theirs", &[8., 2., 4.])];
        let row = Row::new("case", 1., sides).unwrap();
        // Quotients 8, 1, 1; the medians are 2 and 4, whose quotient would be 2.
        assert_eq!(row.sides[1].ratio, [1., 1., 4.5]);
        assert_eq!(row.sides[0].ratio, [1.; 3]);
        let error = Row::new("case", 1., vec![times("ours", &[1.]), times("theirs", &[])]).unwrap_err().to_string();
        assert!(error.contains("theirs: expected 1 rounds, got 0"), "{error}");
    }

    #[test]
    fn a_side_that_answers_nonsense_ends_the_measurement() {
        let mut workers = [Fake::new(0.25, &[1.]), Fake::new(0., &[1.])];
        let error = measure(&mut workers, "matmul", 1., &sides(), 1, 1., &|| ()).unwrap_err().to_string();
        assert!(error.contains("theirs, matmul: expected a positive duration"), "{error}");
        let mut workers = [Fake::new(0.25, &[f64::NAN]), Fake::new(0.25, &[1.])];
        assert!(measure(&mut workers, "matmul", 1., &sides(), 1, 1., &|| ()).is_err());
    }
}
