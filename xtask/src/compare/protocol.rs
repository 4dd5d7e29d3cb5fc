//! What the driver asks and what a side answers: one line of JSON each, over standard input and output.
//!
//! A side is a process that stays: its networks are warm, and rounds of two sides can take turns. Our side is this
//! program with a hidden command, the others are `benches/compare/worker.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

/// What a side is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Who are you?
    Hello,
    /// Build a case, run it twice, keep it under this name.
    Prepare {
        /// Name for later requests.
        id: String,
        /// What is measured.
        case: Case,
    },
    /// Run a prepared case.
    Run {
        /// Its name.
        id: String,
        /// Untimed steps before, which bring the side's data back into the caches.
        warm: usize,
        /// Timed steps.
        steps: usize,
    },
    /// Free a prepared case.
    Drop {
        /// Its name.
        id: String,
    },
    /// Measure the memory of a case. Asked of a fresh process only.
    Memory {
        /// What is measured.
        case: Case,
        /// How many steps.
        steps: usize,
    },
    /// Compute, so that the sides can be held against each other.
    Outputs {
        /// The network and its images.
        network: NetworkCase,
        /// `f32` or `f64`.
        dtype: Number,
    },
    /// Train a network a little, so that its firing rates are those of a trained one. Asked of our side only.
    Fit {
        /// The network, as in `config.json`.
        model: Box<lmht_nn::ModelConfig>,
        /// A parquet folder, or `sample`.
        data: PathBuf,
        /// Updates.
        steps: usize,
        /// The model folder to write.
        out: PathBuf,
    },
}

/// The number type of [`Request::Outputs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Number {
    /// As everything is timed.
    F32,
    /// Where two correct implementations agree to rounding, since no spike sits on a threshold by chance.
    F64,
}

/// What is measured; a step of it is what is repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Case {
    /// Forward, loss, backward, update.
    Train(NetworkCase),
    /// Logits, loss and hits of a batch.
    Eval(NetworkCase),
    /// Forward and backward of a neuron layer, as a user of the framework calls it.
    Neuron {
        /// `[T, B, C, H, W]`.
        shape: [usize; 5],
        /// L.
        levels: u32,
    },
    /// The same over preallocated slices.
    NeuronCore {
        /// `[T, B, C, H, W]`.
        shape: [usize; 5],
        /// L.
        levels: u32,
    },
    /// The bytes that a neuron's forward and backward cannot avoid moving: three reads and two writes.
    Copy {
        /// How many numbers the tensor has.
        len: usize,
    },
    /// A convolution with k/2 padding.
    Conv(ConvCase),
    /// A product of two square matrices.
    Matmul {
        /// Rows.
        size: usize,
    },
}

/// A network on a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkCase {
    /// The model folder.
    pub(crate) model: PathBuf,
    /// A safetensors file with `images` `[N, C, H, W]` and `labels` `[N]`.
    pub(crate) images: PathBuf,
    /// The first so many of them.
    pub(crate) batch: usize,
    /// T; the LIF network has its own.
    pub(crate) timesteps: usize,
    /// Whether a training step computes once more what it does not keep. Asked of our side only.
    #[serde(default)]
    pub(crate) recomputes: bool,
}

/// A convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConvCase {
    /// Images, T·B.
    pub(crate) n: usize,
    /// Input channels.
    pub(crate) c_in: usize,
    /// Output channels.
    pub(crate) c_out: usize,
    /// Height and width of the input.
    pub(crate) side: usize,
    /// Side of the kernel.
    pub(crate) kernel: usize,
    /// Its step.
    pub(crate) stride: usize,
    /// What of it.
    pub(crate) pass: ConvPass,
}

/// What is computed of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConvPass {
    /// The outputs, by the framework's operation.
    Forward,
    /// dLoss/dx alone, from gradients at hand.
    InputGradient,
    /// dLoss/dw alone.
    WeightGradient,
    /// The operation and all of the framework's backward pass.
    All,
}

impl ConvCase {
    /// Operations, a multiply-accumulate counted as two, padding as if computed; each gradient is as much as the outputs.
    pub(crate) fn flop(&self) -> f64 {
        let side = (self.side + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1;
        let forward = 2 * self.n * self.c_in * self.c_out * self.kernel * self.kernel * side * side;
        (if self.pass == ConvPass::All { 3 * forward } else { forward }) as f64
    }
}

/// What a side answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Hello`], from a side whose library is not installed; what is missing.
    Missing(String),
    /// To [`Request::Prepare`].
    Prepared {
        /// Duration of the second step.
        seconds: f64,
        /// How the side chose to run it, if it had a choice.
        #[serde(default)]
        note: Option<String>,
    },
    /// To [`Request::Run`]: duration of all timed steps.
    Seconds(f64),
    /// To [`Request::Drop`] and [`Request::Fit`].
    Done,
    /// To [`Request::Memory`].
    Memory(Memory),
    /// To [`Request::Outputs`].
    Outputs(Outputs),
    /// What went wrong.
    Error(String),
}

/// A side introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Names and versions.
    pub(crate) versions: BTreeMap<String, String>,
    /// Threads that it computes with.
    pub(crate) threads: usize,
}

/// Resident memory of a process, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Before the network was built: program, libraries, images.
    pub(crate) before_kib: f64,
    /// The peak (`VmHWM`) from there to the end of the last step.
    pub(crate) peak_kib: f64,
}

/// What a network computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outputs {
    /// Of an evaluation, `[T, B, K]` in one list.
    pub(crate) logits: Vec<f64>,
    /// Of a training pass on the same images.
    pub(crate) loss: f64,
    /// `sqrt(Σ g²)` over all trained parameters, of the same pass.
    pub(crate) grad_norm: f64,
    /// Share of values other than 0 in each neuron layer of the evaluation; of our side only.
    #[serde(default)]
    pub(crate) rates: Vec<Rate>,
}

/// How one neuron layer fires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    /// Its name.
    pub(crate) name: String,
    /// Units.
    pub(crate) n_units: usize,
    /// Share of values other than 0.
    pub(crate) nonzero: f64,
    /// Mean of s / L.
    pub(crate) rate: f64,
}

/// Something that answers.
pub(crate) trait Ask {
    /// One question, one answer; [`Reply::Error`] is returned as an error.
    fn ask(&mut self, request: &Request) -> Result<Reply>;
}

/// A side in a process of its own. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    child: Child,
    /// Closed first when dropped: the end of its input is how a worker knows that it is done.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a process.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| {
            format!("{name}: cannot start {program}; for Python give the path of an interpreter with --python")
        })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a piped output is there")?;
        Ok(Self { name: name.to_string(), child, stdin, stdout: BufReader::new(stdout) })
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Ask for Worker {
    fn ask(&mut self, request: &Request) -> Result<Reply> {
        let name = self.name.clone();
        let line = serde_json::to_string(request)? + "\n";
        let stdin = self.stdin.as_mut().context("a running worker has an input")?;
        // A worker that died is told apart below, where its exit status is known.
        let sent = stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush());
        let mut answer = String::new();
        let read = self.stdout.read_line(&mut answer);
        if sent.is_err() || !matches!(read, Ok(1..)) {
            self.stdin = None;
            let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            bail!(
                "{name}: the process ended ({status}) while it was asked {}; what it printed above says why. A signal 9 \
                 is often too little memory: use a smaller --batch",
                line.trim_end()
            );
        }
        match serde_json::from_str(&answer) {
            Ok(Reply::Error(message)) => Err(anyhow!("{name}: {message}")),
            Ok(reply) => Ok(reply),
            Err(error) => bail!("{name}: expected a reply in JSON, got {:.300?}: {error}", answer.trim_end()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stdin = None;
        // One that does not read its input any more is not waited for.
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The error for an answer to another question.
pub(crate) fn unexpected(expected: &str, reply: &Reply) -> anyhow::Error {
    anyhow!("expected the reply {expected}, got {reply:.300?}; the two sides of the protocol are of different versions")
}

/// Duration of a step, from the reply to a run of so many.
pub(crate) fn step_seconds(reply: &Reply, steps: usize) -> Result<f64> {
    let Reply::Seconds(seconds) = reply else { return Err(unexpected("seconds", reply)) };
    ensure!(
        seconds.is_finite() && *seconds > 0. && steps > 0,
        "expected a positive duration of {steps} steps, got {seconds} s"
    );
    Ok(seconds / steps as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that is a shell script.
    #[cfg(unix)]
    fn script(text: &str) -> Worker {
        Worker::start("fake", Command::new("sh").args(["-c", text])).expect("there is a shell")
    }

    #[cfg(unix)]
    fn message(text: &str) -> String {
        script(text).ask(&Request::Hello).expect_err("this worker does not answer well").to_string()
    }

    #[test]
    fn requests_are_lines_that_python_reads() {
        let case = Case::Matmul { size: 8 };
        let request = Request::Prepare { id: "a".into(), case };
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(json, r#"{"op":"prepare","id":"a","case":{"kind":"matmul","size":8}}"#);
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
        assert_eq!(serde_json::to_string(&Reply::Done).unwrap(), r#""done""#);
        assert_eq!(serde_json::from_str::<Reply>(r#"{"seconds": 0.5}"#).unwrap(), Reply::Seconds(0.5));
    }

    #[cfg(unix)]
    #[test]
    fn a_worker_answers_line_by_line() {
        let mut worker = script(r#"while read -r line; do echo '{"seconds": 3}'; done"#);
        let run = Request::Run { id: "a".into(), warm: 0, steps: 2 };
        for _ in 0..3 {
            assert_eq!(step_seconds(&worker.ask(&run).unwrap(), 2).unwrap(), 1.5);
        }
    }

    #[cfg(unix)]
    #[test]
    fn errors_name_the_side_and_what_came() {
        assert!(message(r#"read -r line; echo '{"error": "no such case"}'"#).contains("fake: no such case"));
        assert!(message("read -r line; echo Segfault").contains(r#"expected a reply in JSON, got "Segfault""#));
        let ended = message("read -r line; exit 7");
        assert!(ended.contains("exit status: 7") && ended.contains(r#"{"op":"hello"}"#), "{ended}");
        let missing = Worker::start("fake", &mut Command::new("/no/such/python")).unwrap_err();
        assert!(format!("{missing:#}").contains("--python"), "{missing:#}");
    }

    #[test]
    fn a_duration_is_positive() {
        for seconds in [0., -1., f64::NAN, f64::INFINITY] {
            assert!(step_seconds(&Reply::Seconds(seconds), 1).is_err());
        }
        let error = step_seconds(&Reply::Done, 1).unwrap_err().to_string();
        assert!(error.contains("expected the reply seconds, got Done"), "{error}");
    }

    #[test]
    fn operations_of_a_convolution_by_hand() {
        let case = ConvCase { n: 1, c_in: 2, c_out: 3, side: 4, kernel: 3, stride: 2, pass: ConvPass::Forward };
        // 2 x 2 outputs of 3 channels, 18 multiply-accumulates each.
        assert_eq!(case.flop(), 2. * 4. * 3. * 18.);
        assert_eq!(ConvCase { pass: ConvPass::InputGradient, ..case }.flop(), case.flop());
        assert_eq!(ConvCase { pass: ConvPass::All, ..case }.flop(), 3. * case.flop());
    }
}
