//! What the parts gave: a file of JSON to go on from, and a record for `docs/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use lmht_nn::atomic::write_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parts::{PARTS, Part};
use super::setup::{Plan, Size};

/// How a part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Passed,
    Failed,
    TimedOut,
    /// It was not run, for a reason that is no failure.
    Skipped,
    /// A training that goes on when the command is given again.
    Unfinished,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED OUT",
            Self::Skipped => "skipped",
            Self::Unfinished => "unfinished",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) outcome: Outcome,
    pub(super) seconds: f64,
    /// The most that the GPU's memory grew, by nvidia-smi.
    pub(super) memory_mib: Option<f64>,
    /// Why it failed or was skipped.
    pub(super) message: String,
    pub(super) result: Value,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) device: String,
    pub(super) size: Size,
    pub(super) commit: String,
    date: String,
    commands: Vec<String>,
    parts: BTreeMap<String, Entry>,
}

impl Results {
    /// Those of a file, if they are of the same build and device, or none yet.
    pub(super) fn open(path: &Path, device: String, size: Size, commit: String) -> Result<Self> {
        let command = crate::provenance::command();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (commands, parts) = (vec![command], BTreeMap::new());
                return Ok(Self { device, size, commit, date: crate::compare::today(), commands, parts });
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut there: Self =
            serde_json::from_str(&text).with_context(|| format!("{}: expected results of gpu-run", path.display()))?;
        if (&there.device, there.size, &there.commit) != (&device, size, &commit) {
            bail!(
                "{}: expected results of {device}, size {size:?}, commit {commit}, got those of {}, size {:?}, commit {}; \
                 give another --out",
                path.display(),
                there.device,
                there.size,
                there.commit
            );
        }
        if !there.commands.contains(&command) {
            there.commands.push(command);
        }
        Ok(there)
    }

    pub(super) fn set(&mut self, part: &Part, entry: Entry) {
        self.parts.insert(part.name.to_string(), entry);
    }

    pub(super) fn has_passed(&self, part: &Part) -> bool {
        self.parts.get(part.name).is_some_and(|entry| entry.outcome == Outcome::Passed)
    }

    pub(super) fn has_result(&self, part: &Part) -> bool {
        self.parts.get(part.name).is_some_and(|entry| !entry.result.is_null())
    }

    /// Epochs and images of a run that has been planned.
    pub(super) fn plan(&self, part: &str) -> Option<Plan> {
        serde_json::from_value(self.parts.get(part)?.result.clone()).ok()
    }

    /// Names of the parts that failed or took too long, with why.
    pub(super) fn failures(&self) -> Vec<String> {
        let failed = |entry: &Entry| matches!(entry.outcome, Outcome::Failed | Outcome::TimedOut);
        let all = PARTS.iter().filter_map(|part| Some((part.name, self.parts.get(part.name)?)));
        all.filter(|(_, entry)| failed(entry))
            .map(|(name, entry)| format!("{name}: {}", first_line(&entry.message)))
            .collect()
    }

    /// Writes `results.json` and `record.md`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_file(&folder.join("results.json"), (serde_json::to_string_pretty(self)? + "\n").as_bytes())?;
        Ok(write_file(&folder.join("record.md"), self.markdown().as_bytes())?)
    }

    fn result(&self, part: &str) -> Option<&Value> {
        self.parts.get(part).map(|entry| &entry.result)
    }

    /// The record.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("# {}, {}\n\n", self.device, self.date);
        let said = |key: &str| self.result("machine").and_then(|machine| machine[key].as_str()).unwrap_or("unknown");
        let torch = self.result("pytorch").and_then(|result| result["torch"].as_str()).unwrap_or("not measured");
        text += &format!("- GPU: {}\n- processor: {}\n- PyTorch: {torch}\n", said("gpu"), said("cpu"));
        text += &format!("- commit: {}\n", self.commit);
        self.commands.iter().for_each(|command| text += &format!("- `{command}`\n"));
        if self.size == Size::Small {
            text += "\n**The smallest networks and a few steps: a rehearsal, no measurement.**\n";
        }
        text += "\n| part | | outcome | s |\n|---|---|---|---:|\n";
        for part in &PARTS {
            let (outcome, seconds) = match self.parts.get(part.name) {
                Some(entry) => (entry.outcome.name(), format!("{:.1}", entry.seconds)),
                None => ("not run", "–".to_string()),
            };
            text += &format!("| `{}` | {} | {outcome} | {seconds} |\n", part.name, part.title);
        }
        text += &self.messages();
        text += &self.neuron();
        text += &self.step();
        text += &self.training();
        text += &self.without_cudnn();
        text
    }

    fn messages(&self) -> String {
        let mut text = String::new();
        for part in &PARTS {
            let Some(entry) = self.parts.get(part.name).filter(|entry| !entry.message.is_empty()) else { continue };
            text += &format!("\n`{}`, {}:\n\n```text\n{}\n```\n", part.name, entry.outcome.name(), entry.message);
        }
        text
    }

    fn neuron(&self) -> String {
        let Some(result) = self.result("neuron").filter(|result| result["rows"].is_array()) else {
            return String::new();
        };
        let mut text = format!("\n## The neuron's kernels, {}\n\n", result["shape"]);
        text +=
            "| type | copy, GB/s | forward | of the copy | backward | of the copy |\n|---|---:|---:|---:|---:|---:|\n";
        for row in rows(result) {
            let rate = |key: &str| number(&row[key], 0, 1.);
            let share = |key: &str| number(&row[key], 1, 100.);
            text += &format!(
                "| {} | {} | {} | {} % | {} | {} % |\n",
                row["dtype"].as_str().unwrap_or_default(),
                rate("copy_gb_s"),
                rate("forward_gb_s"),
                share("forward_of_copy"),
                rate("backward_gb_s"),
                share("backward_of_copy")
            );
        }
        text + "\nBytes that have to be moved over time: two tensors forward, three backward, two in a copy.\n"
    }

    fn step(&self) -> String {
        let sides =
            [("step", "ours"), ("step-f32", "ours"), ("pytorch", "PyTorch"), ("pytorch-compiled", "PyTorch, compiled")];
        let sides = sides.into_iter().filter_map(|(part, name)| Some((name, self.parts.get(part)?)));
        let sides: Vec<_> = sides.filter(|(_, entry)| entry.result["step_ms"].is_number()).collect();
        if sides.is_empty() {
            return String::new();
        }
        let base = self.result("pytorch").and_then(|result| result["images_per_second"].as_f64());
        let of = self.result("step").map(|result| format!("{}, batch {}", text(&result["network"]), result["batch"]));
        let mut out = format!("\n## The training step{}\n\n", of.map_or(String::new(), |of| format!(": {of}")));
        out += "| | ms | images/s | of PyTorch's | memory, MiB | allocated by PyTorch, MiB |\n|---|---:|---:|---:|---:|---:|\n";
        for (name, Entry { result, memory_mib, .. }) in sides {
            let factor = result["images_per_second"].as_f64().zip(base).map(|(a, b)| format!("{:.2}", a / b));
            out += &format!(
                "| {name}, {} | {} | {} | {} | {} | {} |\n",
                text(&result["precision"]),
                number(&result["step_ms"], 2, 1.),
                number(&result["images_per_second"], 0, 1.),
                factor.unwrap_or("–".into()),
                memory_mib.map_or("–".into(), |mib| format!("{mib:.0}")),
                number(&result["allocated_mib"], 0, 1.)
            );
        }
        out + "\nMemory is what nvidia-smi saw the process take, from its start on.\n"
    }

    /// Convolutions that cuDNN had no algorithm for.
    fn without_cudnn(&self) -> String {
        let of = |part: &Part| self.result(part.name)?["without_cudnn"].as_array().cloned();
        let all: BTreeSet<String> =
            PARTS.iter().filter_map(of).flatten().filter_map(|shape| Some(shape.as_str()?.to_owned())).collect();
        if all.is_empty() {
            return String::new();
        }
        let lines: Vec<String> = all.iter().map(|shape| format!("- `{shape}`\n")).collect();
        format!("\n## By columns and products, since cuDNN has no algorithm\n\n{}", lines.concat())
    }

    fn training(&self) -> String {
        let runs = PARTS.iter().filter_map(|part| Some((part, self.result(part.name)?)));
        let runs: Vec<_> = runs.filter(|(_, result)| result["history"].is_array()).collect();
        if runs.is_empty() {
            return String::new();
        }
        let mut out = "\n## Training\n\n| run | epochs | images an epoch | precision | images/s | train top-1, % | top-1, % | best, % |\n\
                       |---|---:|---:|---|---:|---:|---:|---:|\n"
            .to_string();
        for (part, result) in runs {
            let history = result["history"].as_array().map_or(&[][..], |lines| lines);
            let last = history.last().unwrap_or(&Value::Null);
            let best = history.iter().filter_map(|line| line["test"]["top1"].as_f64()).fold(f64::NAN, f64::max);
            let speed = result["timing"].as_array().and_then(|lines| lines.last()?.get("images_per_second"));
            out += &format!(
                "| {} | {} of {} | {} | {} | {} | {} | {} | {} |\n",
                part.title,
                history.len(),
                result["epochs"],
                result["images_per_epoch"],
                text(&result["precision"]),
                number(speed.unwrap_or(&Value::Null), 0, 1.),
                number(&last["train_top1"], 2, 100.),
                number(&last["test"]["top1"], 2, 100.),
                if best.is_nan() { "–".into() } else { format!("{:.2}", 100. * best) }
            );
        }
        out
    }
}

fn rows(result: &Value) -> impl Iterator<Item = &Value> {
    result["rows"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}

/// A number times a factor with some decimals; a dash for nothing.
fn number(value: &Value, decimals: usize, factor: f64) -> String {
    value.as_f64().map_or("–".to_string(), |value| format!("{:.decimals$}", value * factor))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_has_factors_shares_and_what_failed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let open = |device: &str| Results::open(&path, device.into(), Size::Full, "abc".into());
        let mut results = open("cuda:0").unwrap();
        let part = |name: &str| PARTS.iter().find(|part| part.name == name).unwrap();
        let entry = |outcome, message: &str, result| Entry {
            outcome,
            seconds: 1.5,
            memory_mib: Some(2048.),
            message: message.into(),
            result,
        };
        let row = json!({ "dtype": "f32", "copy_gb_s": 3000., "forward_gb_s": 2700., "forward_of_copy": 0.9 });
        results.set(part("neuron"), entry(Outcome::Passed, "", json!({ "shape": [4, 1], "rows": [row] })));
        let ours = json!({ "precision": "bf16", "step_ms": 10., "images_per_second": 3000., "batch": 256,
            "without_cudnn": ["Filter, BF16, n: 256"] });
        results.set(part("step"), entry(Outcome::Passed, "", ours));
        let theirs = json!({ "precision": "bf16", "step_ms": 20., "images_per_second": 2000., "torch": "2.11" });
        results.set(part("pytorch"), entry(Outcome::Passed, "", theirs));
        results.set(part("suite"), entry(Outcome::Failed, "pool, f64: index 3", Value::Null));
        let epoch = json!({ "train_top1": 0.5, "test": { "top1": 0.25 } });
        let run = json!({ "epochs": 3, "images_per_epoch": 100, "history": [epoch] });
        results.set(part("cifar10-lmht"), entry(Outcome::Unfinished, "", run));
        results.write(folder.path()).unwrap();

        let again = open("cuda:0").unwrap();
        assert!(again.has_passed(part("step")) && !again.has_passed(part("suite")));
        assert_eq!(again.plan("cifar10-lmht"), Some(Plan { epochs: 3, images_per_epoch: 100 }));
        assert_eq!(again.failures(), ["suite: pool, f64: index 3"]);
        let record = std::fs::read_to_string(folder.path().join("record.md")).unwrap();
        for expected in [
            "| f32 | 3000 | 2700 | 90.0 % |",
            "| 1.50 | 2048 |",
            "FAILED",
            "1 of 3",
            "25.00",
            "2.11",
            "- `Filter, BF16",
        ] {
            assert!(record.contains(expected), "{expected:?} in {record}");
        }
        assert!(open("cuda:1").unwrap_err().to_string().contains("--out"));
    }
}
