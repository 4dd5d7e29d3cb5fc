"""PyTorch's and SpikingJelly's sides of `cargo xtask compare`: requests on standard input, replies on standard output.

    python worker.py pytorch
    python worker.py spikingjelly

A request and a reply are a line of JSON each; `xtask/src/compare/protocol.rs` lists them. The process stays, so that
its networks are warm. Both sides run as fast as they can on a CPU without leaving the library: eager mode, the fused
optimizer, no graph in evaluations, and the faster of the two memory formats, tried when a case is prepared.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Callable

PACKAGES = "torch==2.15.0 safetensors==0.8.0 numpy==2.4.6"
"""What the sides were written with; other versions are stated in the report and may well do."""

SGD = {"lr": 1e-4, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
"""As in `xtask/src/compare/worker.rs`."""

try:
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    from networks import NeuronConfig, SpikingNeuron, build
except ImportError as error:
    # Said once, to whatever is asked first.
    sys.stdin.readline()
    hint = f"install what is missing with `{sys.executable} -m pip install {PACKAGES}`, or give another interpreter"
    print(json.dumps({"error": f"{sys.executable}: {error}; {hint} with --python PATH"}), flush=True)
    sys.exit(0)

Step = Callable[[], None]
Batch = tuple[torch.Tensor, torch.Tensor]
THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def seconds_of(step: Step, steps: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start


# Networks


def batch(case: dict, dtype: torch.dtype = torch.float32) -> Batch:
    tensors = load_file(case["images"])
    n = case["batch"]
    return tensors["images"][:n].to(dtype).contiguous(), tensors["labels"][:n].to(torch.int64)


def load_torch(case: dict) -> torch.nn.Module:
    """The network of a model folder, with its weights."""
    folder = Path(case["model"])
    config = json.loads((folder / "config.json").read_text())
    neuron = config["neuron"]
    if neuron["kind"] != "lmht":
        raise ValueError(f"{folder}: expected neurons of kind lmht, got {neuron['kind']}")
    network = build(
        config["backbone"],
        NeuronConfig(levels=neuron["levels"], timesteps=config["timesteps"]),
        config["n_classes"],
        width=config["width"],
        stem=config["stem"],
        in_channels=config["in_channels"],
    )
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network


def load_spikingjelly(case: dict) -> torch.nn.Module:
    """A LIF ResNet-18 of the same width; its weights are new ones, which costs a dense convolution the same."""
    from lif_resnet import LifResNet18

    config = json.loads((Path(case["model"]) / "config.json").read_text())
    torch.manual_seed(42)
    return LifResNet18(config["width"], config["in_channels"], config["n_classes"], case["timesteps"])


LOAD = {"pytorch": load_torch, "spikingjelly": load_spikingjelly}


def train_step(side: str, case: dict, data: Batch, memory_format: torch.memory_format) -> Step:
    network = LOAD[side](case).to(memory_format=memory_format).train()
    optimizer = torch.optim.SGD(network.parameters(), **SGD, fused=True)
    images, labels = data[0].to(memory_format=memory_format), data[1]

    def step():
        optimizer.zero_grad(set_to_none=True)
        readout = network(images).mean(0)
        loss = F.cross_entropy(readout, labels)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss is {loss.item()}; use other weights")
        optimizer.step()
        (readout.detach().argmax(1) == labels).sum().item()

    return step


def eval_step(side: str, case: dict, data: Batch, memory_format: torch.memory_format) -> Step:
    network = LOAD[side](case).to(memory_format=memory_format).eval()
    images, labels = data[0].to(memory_format=memory_format), data[1]
    steps = torch.arange(1, case["timesteps"] + 1).reshape(-1, 1, 1)

    @torch.inference_mode()
    def step():
        logits = network(images)
        F.cross_entropy(logits.mean(0), labels).item()
        # Accuracy after every timestep, as the other side.
        ((logits.cumsum(0) / steps).argmax(2) == labels).sum(1).tolist()

    return step


STEPS = {"train": train_step, "eval": eval_step}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def formats(channels: int) -> dict[str, torch.memory_format]:
    """The memory formats to try. With 4 channels, torch 2.15's channels_last writes beyond its memory and the process
    is aborted; with whole vector registers nothing was seen."""
    return {name: value for name, value in FORMATS.items() if name == "contiguous" or channels % 16 == 0}


def faster_format(side: str, case: dict) -> tuple[Step, str]:
    """The step in the faster memory format."""
    data, make = batch(case), STEPS[case["kind"]]
    width = json.loads((Path(case["model"]) / "config.json").read_text())["width"]
    fastest = None
    for name, memory_format in formats(width).items():
        step = make(side, case, data, memory_format)
        step()
        # The better of three, or of one where a step is long.
        seconds = seconds_of(step)
        if seconds < 0.5:
            seconds = min(seconds, seconds_of(step), seconds_of(step))
        if fastest is None or seconds < fastest[0]:
            fastest = seconds, step, name
    return fastest[1], fastest[2]


def outputs(case: dict, dtype: torch.dtype) -> dict:
    """An evaluation and a training pass, each on the network as it was saved."""
    images, labels = batch(case, dtype)
    network = load_torch(case).to(dtype).eval()
    with torch.inference_mode():
        logits = network(images)
    network.train()
    loss = F.cross_entropy(network(images).mean(0), labels)
    loss.backward()
    squares = sum(p.grad.double().square().sum().item() for p in network.parameters() if p.grad is not None)
    return {"logits": logits.double().flatten().tolist(), "loss": loss.item(), "grad_norm": math.sqrt(squares)}


def status_kib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    raise ValueError(f"/proc/self/status: expected a line {name}")


def first_step(side: str):
    """A training step of a tiny network: modules that PyTorch imports late, threads, buffers that stay."""
    if side == "pytorch":
        network = build("resnet18", NeuronConfig(), 10, width=4)
    else:
        from lif_resnet import LifResNet18

        network = LifResNet18(4, 3, 10, 2)
    optimizer = torch.optim.SGD(network.parameters(), **SGD, fused=True)
    F.cross_entropy(network(torch.rand(2, 3, 8, 8)).mean(0), torch.tensor([0, 1])).backward()
    optimizer.step()


def memory(side: str, case: dict, steps: int) -> dict:
    """The peak over some steps, from before the network is built; the images are there, and what a first step loads for
    good. Contiguous, the usual format."""
    data = batch(case)
    first_step(side)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    before = status_kib("VmRSS")
    seconds_of(STEPS[case["kind"]](side, case, data, torch.contiguous_format), steps)
    return {"before_kib": before, "peak_kib": status_kib("VmHWM")}


# Operations


def neuron_step(side: str, case: dict) -> Step:
    torch.manual_seed(3)
    shape = case["shape"]
    xs = (torch.rand(shape) * 4 - 1).requires_grad_()
    ones = torch.ones(shape)
    if side == "pytorch":
        neuron = SpikingNeuron(NeuronConfig(levels=case["levels"], timesteps=shape[0]), "maps")
        forward = neuron
    else:
        from lif_resnet import lif
        from spikingjelly.activation_based import functional

        neuron = lif()

        def forward(xs):
            functional.reset_net(neuron)
            return neuron(xs)

    def step():
        xs.grad = None
        neuron.zero_grad(set_to_none=True)
        forward(xs).backward(ones)

    return step


def copy_step(case: dict) -> Step:
    a, b = torch.rand(case["len"]), torch.rand(case["len"])
    c, d = torch.ones_like(a), torch.ones_like(a)

    def step():
        c.copy_(a)
        torch.add(a, b, out=d)

    return step


def conv_step(case: dict, memory_format: torch.memory_format) -> Step:
    torch.manual_seed(1)
    xs = (torch.rand(case["n"], case["c_in"], case["side"], case["side"]) * 2 - 1).to(memory_format=memory_format)
    weight = torch.rand(case["c_out"], case["c_in"], case["kernel"], case["kernel"]) * 2 - 1
    weight = weight.to(memory_format=memory_format)
    stride, padding = case["stride"], case["kernel"] // 2
    if case["pass"] == "forward":

        @torch.inference_mode()
        def step():
            F.conv2d(xs, weight, None, stride, padding)

        return step
    if case["pass"] != "all":
        grads = torch.rand_like(F.conv2d(xs, weight, None, stride, padding)) * 2 - 1
        mask = [case["pass"] == "input_gradient", case["pass"] == "weight_gradient", False]

        @torch.inference_mode()
        def step():
            torch.ops.aten.convolution_backward(
                grads, xs, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
            )

        return step
    xs.requires_grad_()
    weight.requires_grad_()
    ones = torch.ones_like(F.conv2d(xs, weight, None, stride, padding))

    def step():
        xs.grad = weight.grad = None
        F.conv2d(xs, weight, None, stride, padding).backward(ones)

    return step


def matmul_step(size: int) -> Step:
    torch.manual_seed(1)
    a, b = torch.rand(size, size) * 2 - 1, torch.rand(size, size) * 2 - 1
    return lambda: a @ b


def prepare(side: str, case: dict) -> tuple[Step, str | None]:
    match case["kind"]:
        case "train" | "eval":
            return faster_format(side, case)
        case "conv":
            times = {}
            for name, memory_format in formats(math.gcd(case["c_in"], case["c_out"])).items():
                step = conv_step(case, memory_format)
                step()
                times[name] = min(seconds_of(step) for _ in range(3)), step
            name = min(times, key=lambda name: times[name][0])
            return times[name][1], name
        case "neuron":
            return neuron_step(side, case), None
        case "copy":
            return copy_step(case), None
        case "matmul":
            return matmul_step(case["size"]), None
    raise ValueError(f"there is no case of kind {case['kind']!r} on this side")


# The protocol


def hello(side: str) -> dict:
    names = ["torch", "spikingjelly"] if side == "spikingjelly" else ["torch"]
    try:
        if side == "spikingjelly":
            import lif_resnet  # noqa: F401
    except ImportError as error:
        return {"missing": f"{error}; install it with `{sys.executable} -m pip install spikingjelly==2.0.0`"}
    versions = {name: importlib.metadata.version(name) for name in names}
    versions["python"] = sys.version.split()[0]
    return {"hello": {"versions": versions, "threads": torch.get_num_threads()}}


def answer(side: str, request: dict, prepared: dict[str, Step]) -> dict | str:
    match request["op"]:
        case "hello":
            return hello(side)
        case "prepare":
            step, note = prepare(side, request["case"])
            step()
            seconds = seconds_of(step)
            prepared[request["id"]] = step
            return {"prepared": {"seconds": seconds, "note": note}}
        case "run":
            step = prepared[request["id"]]
            seconds_of(step, request["warm"])
            return {"seconds": seconds_of(step, request["steps"])}
        case "drop":
            del prepared[request["id"]]
            return "done"
        case "memory":
            return {"memory": memory(side, request["case"], request["steps"])}
        case "outputs":
            dtype = {"f32": torch.float32, "f64": torch.float64}[request["dtype"]]
            return {"outputs": outputs(request["network"], dtype)}
    raise ValueError(f"there is no request {request['op']!r} for this side")


def main():
    side = sys.argv[1]
    torch.set_num_threads(THREADS)
    # Replies have the real output for themselves: a library that prints would break the protocol.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepared = {}
    for line in sys.stdin:
        try:
            reply = answer(side, json.loads(line), prepared)
        except Exception as error:  # noqa: BLE001: whatever it was, the driver is told
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
