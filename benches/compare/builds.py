"""Two builds of xtask against each other, in turns: training, evaluation, one image, memory.

    python benches/compare/builds.py BEFORE AFTER FOLDER [ROUNDS]

BEFORE and AFTER are two `target/release/xtask`; what they call a network and a request must be the same. FOLDER takes the networks,
trained for a few steps by BEFORE on the sample, and stays for the next call. Of each round the quotient is taken, and of the
rounds the median; the sides change places from round to round. Needs nothing but Python.
"""

import json
import random
import statistics
import struct
import subprocess
import sys
from pathlib import Path

N_IMAGES = 64
LMHT = {"kind": "lmht", "levels": 2, "tgim": "full"}


def network(backbone, width, neuron=LMHT, timesteps=2):
    """A `config.json` for images of 3x32x32 and ten classes."""
    config = {"format_version": 1, "backbone": backbone, "width": width, "in_channels": 3, "n_classes": 10}
    return config | {"timesteps": timesteps, "neuron": neuron}


NETWORKS = {
    "ResNet-18, LM-HT": network("resnet18", 64),
    "VGG-13, LM-HT": network("vgg13", 64),
    "ResNet-20, LM-HT": network("resnet20", 16),
    "ResNet-20, QCFS": network("resnet20", 16, {"kind": "qcfs", "quant_levels": 4, "scale": 2.0}, 1),
    "ResNet-20, ReLU": network("resnet20", 16, {"kind": "relu"}, 1),
    "Spikformer, LM-HT": network("spikformer", 384),
}

# Kind, network, images in a step, steps in a round.
CASES = [
    ("train", "ResNet-18, LM-HT", 16, 1),
    ("eval", "ResNet-18, LM-HT", 16, 4),
    ("eval", "ResNet-18, LM-HT", 1, 20),
    ("train", "VGG-13, LM-HT", 16, 1),
    ("train", "ResNet-20, LM-HT", 64, 1),
    ("eval", "ResNet-20, LM-HT", 64, 4),
    ("train", "ResNet-20, QCFS", 64, 1),
    ("eval", "ResNet-20, QCFS", 64, 4),
    ("train", "ResNet-20, ReLU", 64, 1),
    ("eval", "ResNet-20, ReLU", 64, 4),
    ("train", "Spikformer, LM-HT", 8, 1),
    ("eval", "Spikformer, LM-HT", 8, 1),
]
MEMORY = [case for case in CASES if case[2] > 1]


class Side:
    """A build as `xtask compare-worker`: a request a line, a reply a line."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program, "compare-worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        if isinstance(reply, dict) and "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def write_images(path):
    """Noise of mean 0 and variance 1, as normalized images have, in safetensors."""
    generator = random.Random(1)
    shape = [N_IMAGES, 3, 32, 32]
    n = N_IMAGES * 3 * 32 * 32
    images = struct.pack(f"<{n}f", *(generator.gauss(0, 1) for _ in range(n)))
    labels = struct.pack(f"<{N_IMAGES}q", *(i % 10 for i in range(N_IMAGES)))
    header = {
        "images": {"dtype": "F32", "shape": shape, "data_offsets": [0, len(images)]},
        "labels": {"dtype": "I64", "shape": [N_IMAGES], "data_offsets": [len(images), len(images) + len(labels)]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + images + labels)


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    programs, folder = sys.argv[1:3], Path(sys.argv[3])
    rounds = int(sys.argv[4]) if len(sys.argv) == 5 else 9
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images.safetensors"
    if not images.exists():
        write_images(images)
    models = {name: folder / name.replace(", ", "_") for name in NETWORKS}
    first = Side(programs[0])
    for name, model in models.items():
        if not model.exists():
            print(f"a few steps of {name}", flush=True)
            steps = 6 if NETWORKS[name]["width"] > 16 else 40
            first.ask(op="fit", model=NETWORKS[name], data="sample", steps=steps, out=str(model))
    first.close()

    def case(kind, name, batch):
        timesteps = NETWORKS[name]["timesteps"]
        return {"kind": kind, "model": str(models[name]), "images": str(images), "batch": batch, "timesteps": timesteps}

    print("| step | network | images | before, ms | after, ms | after / before |\n|---|---|---|---|---|---|")
    sides = [Side(program) for program in programs]
    for kind, name, batch, steps in CASES:
        for side in sides:
            side.ask(op="prepare", id="case", case=case(kind, name, batch))
        times = []
        for i in range(rounds):
            both = [0.0, 0.0]
            for which in (0, 1) if i % 2 == 0 else (1, 0):
                both[which] = sides[which].ask(op="run", id="case", warm=1, steps=steps)["seconds"] / steps
            times.append(both)
        for side in sides:
            side.ask(op="drop", id="case")
        before, after = (1e3 * statistics.median(both[i] for both in times) for i in (0, 1))
        low, middle, high = statistics.quantiles((b / a for a, b in times), n=4)
        quotient = f"{middle:.3f} [{low:.2f}, {high:.2f}]"
        print(f"| {kind} | {name} | {batch} | {before:.1f} | {after:.1f} | {quotient} |", flush=True)
    for side in sides:
        side.close()

    print("\n| peak of | network | images | before, MiB | after, MiB |\n|---|---|---|---|---|")
    for kind, name, batch, _ in MEMORY:
        peaks = []
        for program in programs:
            side = Side(program)
            memory = side.ask(op="memory", case=case(kind, name, batch), steps=3)["memory"]
            side.close()
            peaks.append((memory["peak_kib"] - memory["before_kib"]) / 1024)
        print(f"| {kind} | {name} | {batch} | {peaks[0]:.0f} | {peaks[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
