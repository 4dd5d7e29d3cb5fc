"""Makes, checks and verifies golden cases; `README.md` beside this says what they are.

    python make.py                  write all cases beside this file
    python make.py --check          compute them again and compare with the files, relative error 1e-12
    python make.py --verify PATH…   run any golden files (or folders) through this implementation, relative error 1e-9
    python make.py --large FOLDER   write cases that are too large for the repository, for the float32 report
    python make.py --list           names and sizes
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "benches" / "compare"))

from networks import NeuronConfig, Qcfs, SpikingNeuron, build  # noqa: E402
from single_threshold import SCHEDULES, reparameterized  # noqa: E402

Tensors = dict[str, Tensor]

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True, "steps": 2}
"""The optimizer of the `sgd2` section."""

NEGLIGIBLE = 1e-4
"""A gradient smaller than this share of the network's largest is compared with that share: it is rounding."""


# Running a case


def neuron_config(metadata: dict) -> NeuronConfig:
    """The neuron of a neuron case, or of the `config` of a network case."""
    kind = metadata.get("kind") or metadata["neuron"]
    detached = kind in ("lmht", "mht", "lif_detach")
    levels = metadata["levels"]
    if kind in ("if", "lif", "lif_detach"):
        # A neuron case may have several thresholds without a T-GIM: M-HT.
        kind, levels = ("mht", levels) if "kind" in metadata else ("mht", 1)
    return NeuronConfig(
        kind=kind,
        levels=levels,
        timesteps=metadata["timesteps"],
        v_threshold=metadata["v_threshold"],
        v_init=metadata["v_init"],
        leak=metadata.get("leak", 1.0),
        detached=metadata.get("detach", detached),
        quant_levels=metadata.get("quant_levels") or 4,
        scale=metadata.get("scale") or 8.0,
    )


def run_neuron(metadata: dict, inputs: Tensors) -> Tensors:
    neuron = SpikingNeuron(neuron_config(metadata), "maps")
    xs = inputs["x"].clone().requires_grad_()
    if metadata["kind"] == "lmht":
        neuron.mask.data = inputs["tgim_logit"].reshape(neuron.mask.shape)
        neuron.alpha.data = inputs["leak_logit"].clone()
    ys = neuron(xs)
    ys.backward(inputs["grad_out"])
    results = {"y": ys.detach(), "grad_x": xs.grad}
    if metadata["kind"] == "lmht":
        results["grad_tgim_logit"] = neuron.mask.grad.reshape(inputs["tgim_logit"].shape)
        results["grad_leak_logit"] = neuron.alpha.grad
    return results


def run_qcfs(metadata: dict, inputs: Tensors) -> Tensors:
    activation = Qcfs(NeuronConfig(kind="qcfs", timesteps=1, quant_levels=metadata["quant_levels"]))
    activation.thresh.data = inputs["scale"].clone()
    xs = inputs["x"].clone().requires_grad_()
    ys = activation(xs)
    ys.backward(inputs["grad_out"])
    return {"y": ys.detach(), "grad_x": xs.grad, "grad_scale": activation.thresh.grad}


def build_network(config: dict, in_channels: int):
    return build(
        config["arch"],
        neuron_config(config),
        n_classes=config["classes"],
        width=config["width"],
        stem=config["stem"],
        in_channels=in_channels,
        input_scale=config.get("input_scale", 1.0),
        **{key: config[key] for key in ("depth", "heads") if config.get(key) is not None},
    )


def state(network) -> Tensors:
    """Parameters and buffers, without the counters that PyTorch's batch norm keeps."""
    tensors = network.state_dict().items()
    return {name: tensor.clone() for name, tensor in tensors if not name.endswith("num_batches_tracked")}


def is_analog(config: dict, network, name: str, module: nn.Module) -> bool:
    """Whether a synapse reads real values that are no averages of spikes: the stem, and an MS-ResNet's stream."""
    streams = config["arch"].startswith("ms_") and ("downsample" in name or name.startswith("fc"))
    return module in network.stem() or streams


def watch(config: dict, network, n_steps: int, results: Tensors, prefix: str, with_sops: bool):
    """Puts spike counts and synaptic operations of the passes to come into `results`."""
    handles = []

    def count_spikes(name: str):
        def hook(module, _, output):
            theta = config["v_threshold"] if not isinstance(module, SpikingNeuron) else module.v_threshold
            results[f"{prefix}/spikes/{name}"] = (output / theta).round().reshape(n_steps, -1).sum(1)

        return hook

    def count_sops(name: str):
        def hook(module, inputs):
            (xs,) = inputs
            ones = torch.ones_like(module.weight)
            if isinstance(module, nn.Conv2d):
                reached = F.conv2d(xs, ones, stride=module.stride, padding=module.padding)
            else:
                reached = F.linear(xs, ones)
            results[f"{prefix}/sops/{name}"] = reached.sum().reshape(1) / config["v_threshold"]

        return hook

    for name, module in network.named_modules():
        if type(module).__name__ in ("SpikingNeuron", "SingleThresholdNeuron"):
            handles.append(module.register_forward_hook(count_spikes(name)))
        if with_sops and isinstance(module, (nn.Conv2d, nn.Linear)) and not is_analog(config, network, name, module):
            handles.append(module.register_forward_pre_hook(count_sops(name)))
    return handles


def run_network(metadata: dict, inputs: Tensors, sections: set[str]) -> Tensors:
    config, images, labels = metadata["config"], inputs["input"], inputs["labels"]
    published = {name.removeprefix("param/"): tensor for name, tensor in inputs.items() if name.startswith("param/")}
    spikes = config["neuron"] != "qcfs"

    def fresh():
        network = build_network(config, images.shape[-3])
        used = network.state_dict()
        for name in published.keys() - used.keys():
            # The published networks register parameters that nothing uses: a second T-GIM, an MS-ResNet's first neuron.
            if name.rpartition(".")[2] not in ("mask", "mask_linear", "alpha", "v_threshold"):
                raise ValueError(f"param/{name}: {config['arch']} has no such tensor")
        network.load_state_dict({name: tensor for name, tensor in published.items() if name in used})
        return network

    results: Tensors = {}
    with torch.no_grad():
        network = fresh().eval()
        handles = watch(config, network, config["timesteps"], results, "eval", True) if spikes else []
        results["eval/logits"] = network(images)
        for handle in handles:
            handle.remove()
        if "reparam" in sections:
            for schedule in SCHEDULES:
                single = reparameterized(network, schedule)
                frames = images
                levels = config["levels"]
                if images.dim() == 5:
                    frames = images.repeat_interleave(levels, 0)
                watch(config, single, single.timesteps, results, f"reparam/{schedule}", False)
                logits = single(frames)
                summed = logits.reshape(config["timesteps"], levels, *logits.shape[1:]).sum(1)
                results[f"reparam/{schedule}/logits"] = summed

    if "train" in sections:
        network = fresh().train()
        logits = network(images)
        loss = F.cross_entropy(logits.mean(0), labels)
        loss.backward()
        results["train/logits"], results["train/loss"] = logits.detach(), loss.detach().reshape(())
        for name, tensor in state(network).items():
            if name.endswith(("running_mean", "running_var")):
                results[f"train/stats/{name}"] = tensor
        if "grad" in sections:
            results.update({f"train/grad/{name}": parameter.grad for name, parameter in network.named_parameters()})

    if "sgd2" in sections:
        network = fresh().train()
        optimizer = metadata.get("optimizer", SGD)
        options = {key: value for key, value in optimizer.items() if key != "steps"}
        sgd = torch.optim.SGD(network.parameters(), **options)
        for _ in range(optimizer["steps"]):
            sgd.zero_grad()
            F.cross_entropy(network(images).mean(0), labels).backward()
            sgd.step()
        results.update({f"sgd2/{name}": tensor for name, tensor in state(network).items()})
    return results


def run(metadata: dict, inputs: Tensors, sections: set[str]) -> Tensors:
    match metadata["case"]:
        case "neuron":
            return run_neuron(metadata, inputs)
        case "qcfs":
            return run_qcfs(metadata, inputs)
        case "network":
            return run_network(metadata, inputs, sections)
    raise ValueError(f"case is {metadata['case']!r}; expected neuron, qcfs or network")


# The cases of this folder


@dataclass
class Case:
    name: str
    metadata: dict
    inputs: Tensors
    sections: set[str] = field(default_factory=set)

    def tensors(self) -> Tensors:
        results = run(self.metadata, self.inputs, self.sections)
        tensors = {**self.inputs, **results}
        return {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}


class Random:
    """Seeded float64 numbers."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator)


def neuron_case(name, seed, levels, timesteps, kind="lmht", v_threshold=None, v_init=0.0, units=(2, 2, 3, 3), **rest):
    """Random currents that reach none to all thresholds, random Ω, and a leak anywhere in its range."""
    random = Random(seed)
    theta = v_threshold if v_threshold is not None else (2 / levels if levels > 1 else 1.0)
    metadata = {"case": "neuron", "kind": kind, "levels": levels, "timesteps": timesteps}
    metadata |= {"v_threshold": theta, "v_init": v_init, **rest}
    inputs = {"x": theta * random.uniform(-1.0, levels + 1.0, timesteps, *units)}
    inputs["grad_out"] = random.normal(timesteps, *units)
    if kind == "lmht":
        inputs["tgim_logit"] = random.normal(timesteps, timesteps)
        inputs["leak_logit"] = random.uniform(-6.0, 6.0, 1)
    return Case(f"neuron_{name}", metadata, inputs)


def neuron_ties(name, seed, levels, timesteps, kind, **rest):
    """Currents in steps of θ/2 with θ, Ω and λ powers of two: potentials sit on thresholds and on the window's ends."""
    case = neuron_case(name, seed, levels, timesteps, kind=kind, **rest)
    theta = case.metadata["v_threshold"]
    steps = Random(seed).integers(2 * levels + 5, *case.inputs["x"].shape) - 2
    case.inputs["x"] = 0.5 * theta * steps.to(torch.float64)
    if kind == "lmht":
        # Timesteps share their currents by 1/T; T times the currents keep them on the grid.
        case.inputs["x"] *= timesteps
        case.inputs["tgim_logit"].zero_()
        case.inputs["leak_logit"].zero_()
    return case


def qcfs_case(name, seed, quant_levels, scale, ties=False):
    random = Random(seed)
    xs = scale * random.uniform(-0.5, 1.5, 2, 3, 3, 3)
    if ties:
        xs = scale / (2 * quant_levels) * (random.integers(2 * quant_levels + 7, 2, 3, 3, 3) - 3).to(torch.float64)
    inputs = {"x": xs, "scale": torch.tensor([scale]), "grad_out": random.normal(2, 3, 3, 3)}
    return Case(f"qcfs_{name}", {"case": "qcfs", "quant_levels": quant_levels}, inputs)


def random_parameter(random: Random, name: str, tensor: Tensor, theta: float) -> Tensor:
    last = name.rpartition(".")[2]
    shape = tensor.shape
    match last:
        case "mask" | "mask_linear":
            return random.normal(*shape)
        case "alpha":
            # λ from 0.5025 to 1.4975, its whole range.
            return random.uniform(-6.0, 6.0, *shape)
        case "v_threshold":
            return tensor
        case "thresh":
            return tensor * random.uniform(0.7, 1.3, *shape)
        case "running_var":
            return random.uniform(0.5, 1.5, *shape)
        case "running_mean":
            return 0.3 * random.normal(*shape)
        case "bias":
            # Of the size of θ: without it, layers of one channel are silent.
            return theta * random.uniform(-0.2, 1.0, *shape)
        case "weight" if len(shape) == 1:
            return random.uniform(0.5, 1.5, *shape)
        case "weight":
            fan_in = math.prod(shape[1:])
            return random.normal(*shape) * (2 / fan_in) ** 0.5
    raise ValueError(f"{name}: no rule for its values")


def network_case(
    name, seed, arch, side, levels=2, timesteps=2, neuron="lmht", sections="reparam train grad", width=1, frames=False,
    batch=2, initial=False, **rest,
):  # fmt: skip
    """A network with random parameters, statistics, Ω and leaks (1/T and 1 if `initial`); images of one channel.

    Parameters are drawn until in no neuron layer all units are silent, or all fire at every timestep: such a layer
    would hide mistakes.
    """
    random = Random(seed)
    theta = rest.pop("v_threshold", 2 / levels if levels > 1 else 1.0)
    config = {"arch": arch, "stem": rest.pop("stem", "cifar"), "width": width, "classes": 4, "neuron": neuron}
    config |= {"levels": levels, "timesteps": timesteps, "v_threshold": theta, "v_init": rest.pop("v_init", 0.0)}
    config |= rest
    metadata, sections = {"case": "network", "config": config}, set(sections.split())
    if "sgd2" in sections:
        metadata["optimizer"] = SGD
    params = state(build_network(config, 1))
    inputs = {"input": random.normal(*([timesteps] if frames else []), batch, 1, side, side)}
    inputs["labels"] = random.integers(4, batch)
    for _ in range(200):
        for key, tensor in params.items():
            inputs[f"param/{key}"] = random_parameter(random, key, tensor, theta)
            if initial and key.endswith((".mask", ".mask_linear", ".alpha")):
                inputs[f"param/{key}"].zero_()
        if neuron == "qcfs" or is_alive(metadata, inputs):
            return Case(f"net_{name}", metadata, inputs, sections)
    raise ValueError(f"{name}: some layer never fires, or always, whatever is drawn; choose another seed or width")


def is_alive(metadata: dict, inputs: Tensors) -> bool:
    config = metadata["config"]
    network = build_network(config, 1).eval()
    params = {name.removeprefix("param/"): tensor for name, tensor in inputs.items() if name.startswith("param/")}
    network.load_state_dict(params)
    shares = []

    def hook(module, _, output):
        shares.append((output > 0).double().mean().item())

    for module in network.modules():
        if isinstance(module, SpikingNeuron):
            module.register_forward_hook(hook)
    with torch.no_grad():
        network(inputs["input"])
    return all(0.0 < share < 1.0 for share in shares)


def cases() -> list[Case]:
    return [
        neuron_case("lmht_L1_T1", 1, 1, 1),
        neuron_case("lmht_L1_T5", 2, 1, 5),
        neuron_case("lmht_L2_T3", 3, 2, 3, v_init=0.5),
        neuron_case("lmht_L3_T1", 4, 3, 1, v_threshold=0.7),
        neuron_case("lmht_L3_T3", 5, 3, 3),
        neuron_case("lmht_L4_T5", 6, 4, 5, v_init=0.25),
        neuron_case("lmht_features_L4_T2", 7, 4, 2, units=(3, 11)),
        neuron_case("lmht_full_L2_T4", 8, 2, 4, detach=False),
        neuron_case("lmht_full_L3_T3", 9, 3, 3, v_init=0.5, detach=False),
        neuron_case("if_T4", 10, 1, 4, kind="if", leak=1.0, detach=False),
        neuron_case("lif_T3", 11, 1, 3, kind="lif", leak=0.5, v_threshold=0.8, detach=False),
        neuron_case("lif_detach_T5", 12, 1, 5, kind="lif_detach", leak=0.9, detach=True),
        neuron_case("mht_L3_T4", 13, 3, 4, kind="lif", leak=1.2, v_init=0.5, detach=False),
        neuron_case("mht_detach_L4_T3", 14, 4, 3, kind="lif_detach", leak=1.0, detach=True),
        neuron_ties("if_ties_T4", 15, 1, 4, "if", leak=1.0, v_init=0.5, detach=False),
        neuron_ties("mht_ties_L4_T3", 16, 4, 3, "lif_detach", leak=1.0, detach=True),
        neuron_ties("lmht_ties_L2_T2", 17, 2, 2, "lmht"),
        qcfs_case("Q1", 20, 1, 1.5),
        qcfs_case("Q6", 21, 6, 2.3),
        qcfs_case("ties_Q4", 22, 4, 2.0, ties=True),
        network_case("resnet18_L3_T3", 100, "resnet18", 8, 3, 3),
        network_case("resnet19_L1_T3", 101, "resnet19", 8, 1, 3, sections="reparam train"),
        network_case("resnet20_L4_T1", 102, "resnet20", 8, 4, 1),
        network_case("resnet20_qcfs_Q3", 103, "resnet20", 8, 1, 1, "qcfs", "train grad", quant_levels=3, scale=2.0),
        network_case("resnet34_imagenet_L2_T2", 104, "resnet34", 17, sections="reparam train", stem="imagenet"),
        network_case("ms_resnet18_imagenet_frames_L3_T2", 105, "ms_resnet18", 17, 3, 2, stem="imagenet", frames=True),
        network_case("ms_resnet34_L4_T2", 106, "ms_resnet34", 8, 4, 2, sections="reparam train"),
        network_case("vgg11_L2_T2", 107, "vgg11", 32),
        network_case("vgg13_hybrid_L2_T3", 108, "vgg13", 16, 2, 3, v_threshold=1.1, v_init=0.5, input_scale=2.0),
        network_case("vgg13_lif_T4", 109, "vgg13", 16, 1, 4, "lif", "train", leak=0.8),
        network_case("vgg13_standard_L3_T1", 110, "vgg13_standard", 32, 3, 1, sections="reparam train"),
        network_case("vgg16_L2_T2", 111, "vgg16", 32, sections="reparam train"),
        network_case("vgg19_L4_T2", 112, "vgg19", 32, 4, 2, sections="reparam train"),
        network_case("cifarnet_L2_T2", 113, "cifarnet", 32, sections="reparam train grad sgd2"),
        network_case(
            "spikformer_L3_T3", 114, "spikformer", 8, 3, 3,
            sections="reparam train grad sgd2", width=8, depth=1, heads=2,
        ),
        network_case("spikformer_mht_L2_T3", 115, "spikformer", 8, 2, 3, "mht", "train", width=8, depth=1, heads=4),
    ]  # fmt: skip


def large_cases() -> list[Case]:
    """Networks with many more spikes; `initial` ones have the Ω and λ that training starts from."""
    return [
        network_case(f"resnet18_w32_{start}_L{levels}_T{timesteps}", seed, "resnet18", 32, levels, timesteps,
                     sections="", width=32, batch=8, initial=start == "initial")
        for seed, (start, levels, timesteps) in enumerate(
            [("initial", 2, 2), ("learned", 2, 2), ("initial", 4, 4), ("learned", 4, 4), ("initial", 3, 3)], 200
        )
    ]  # fmt: skip


# Files


def read(path: Path) -> tuple[dict, Tensors]:
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    return {key: value if key in ("case", "kind") else json.loads(value) for key, value in metadata.items()}, tensors


def write(path: Path, metadata: dict, tensors: Tensors):
    text = {key: value if key in ("case", "kind") else json.dumps(value) for key, value in metadata.items()}
    save_file(tensors, path, metadata=text)


def differences(expected: Tensors, actual: Tensors, tolerance: float):
    """Names of `expected` with their relative errors; those missing in `actual` or out of tolerance are marked."""
    gradients = [tensor for name, tensor in expected.items() if name.startswith("train/grad/")]
    floor = NEGLIGIBLE * max((tensor.abs().max().item() for tensor in gradients), default=0.0)
    for name, tensor in expected.items():
        other = actual.get(name)
        if other is None or other.numel() != tensor.numel():
            yield name, math.inf, False
            continue
        a, b = tensor.double().flatten(), other.double().flatten()
        magnitude = max(a.abs().max().item(), floor if name.startswith("train/grad/") else 0.0)
        error = (a - b).abs().max().item() / (magnitude or 1.0)
        yield name, error, error <= tolerance


INPUTS = ("param/", "input", "labels", "x", "grad_out", "tgim_logit", "leak_logit", "scale")


def verify(path: Path) -> bool:
    metadata, tensors = read(path)
    is_input = lambda name: name.startswith("param/") or name in INPUTS  # noqa: E731
    inputs = {name: tensor for name, tensor in tensors.items() if is_input(name)}
    expected = {name: tensor for name, tensor in tensors.items() if name not in inputs}
    actual = run(metadata, inputs, {part for name in expected for part in name.split("/")[:2]})
    # Parameters that nothing uses stay as they are.
    unused = {f"sgd2/{name.removeprefix('param/')}": tensor for name, tensor in inputs.items()}
    return report(path.name, differences(expected, unused | actual, 1e-9))


def report(name: str, errors) -> bool:
    errors = list(errors)
    wrong = [error for error in errors if not error[2]]
    largest = max((error for _, error, _ in errors), default=math.inf)
    verdict = "OUT OF TOLERANCE" if wrong else "ok"
    print(f"{name:<52} {len(errors):>4} quantities, largest relative error {largest:.1e}  {verdict}")
    for quantity, error, _ in wrong[:10]:
        print(f"    {quantity}: {error:.3e}")
    return bool(errors) and not wrong


def check(case: Case) -> bool:
    path = HERE / f"{case.name}.safetensors"
    if not path.exists():
        print(f"{path}: expected a case, found no file; run make.py without options")
        return False
    metadata, recorded = read(path)
    computed = case.tensors()
    if metadata != case.metadata or recorded.keys() != computed.keys():
        print(f"{case.name}: other metadata or other tensors than the file's; run make.py without options")
        return False
    return report(case.name, differences(recorded, computed, 1e-12))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true")
    group.add_argument("--verify", nargs="+", type=Path, metavar="PATH")
    group.add_argument("--large", type=Path, metavar="FOLDER")
    group.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    # One thread: the order of sums, and with it every bit, does not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    if arguments.verify:
        paths = []
        for path in arguments.verify:
            paths += sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not paths:
            sys.exit(f"{arguments.verify[0]}: expected golden cases, found no *.safetensors file")
        return 0 if all([verify(path) for path in paths]) else 1
    if arguments.check:
        known = {f"{case.name}.safetensors" for case in cases()}
        strangers = [path.name for path in HERE.glob("*.safetensors") if path.name not in known]
        for name in strangers:
            print(f"{name}: make.py does not make this file; remove it")
        return 0 if all([check(case) for case in cases()]) and not strangers else 1
    folder = arguments.large or HERE
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for case in large_cases() if arguments.large else cases():
        path = folder / f"{case.name}.safetensors"
        if not arguments.list:
            write(path, case.metadata, case.tensors())
        size = path.stat().st_size if path.exists() else 0
        total += size
        print(f"{case.name:<40} {size / 1024:>8.1f} KiB")
    print(f"{'total':<40} {total / 1024:>8.1f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
