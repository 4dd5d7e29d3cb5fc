"""Reads NIR files with the Python package nir, replays them in NumPy, and compares every spike.

Usage: check.py FILE.nir...

Beside each FILE.nir lies FILE.safetensors with what the Rust network was shown and sent: `images` [B, C, H, W] or
[T, B, C, H, W], `logits` [T, B, K], and `spikes.<layer>` [T*B, ...] of every neuron layer. Prints a line for each file; the
exit status is 1 if a type, an edge or a spike is wrong.

With --copy OUT.gz FILE.nir, writes what was read with nir.write, and compresses it (h5py leaves much empty). The test `python_reads_and_replays_the_files` does so with
LMHT_NIR_GOLDEN=OUT.gz in its environment: so was resnet20_by_python.nir.gz made, with nir 1.0.8 and h5py 3.16.0.

Needs numpy and nir (pip install nir).
"""

import gzip
import io
import json
import pathlib
import sys

import nir
import numpy as np


def load_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    types = {"F64": "<f8", "F32": "<f4", "U8": "u1"}
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(data[start + begin : start + end], types[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def windows(xs, kernel, stride, padding):
    """[N, C, H', W', kh, kw]: what a kernel sees at each position."""
    (ph, pw), (sh, sw) = padding, stride
    xs = np.pad(xs, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    return np.lib.stride_tricks.sliding_window_view(xs, tuple(kernel), axis=(2, 3))[:, :, ::sh, ::sw]


def spiking(node, currents, timesteps, meta):
    """Spikes for currents [T*B, ...], by the equations of the format with the metadata's dt, reset and v(0)."""
    assert meta["reset"] == "subtract", meta["reset"]
    theta, r, dt = (np.asarray(x, np.float64) for x in (node.v_threshold, node.r, meta["dt"]))
    currents = currents.reshape(timesteps, -1, *theta.shape)
    v = np.broadcast_to(meta["v_init"] * theta, currents[0].shape)
    spikes = []
    for current in currents:
        if isinstance(node, nir.IF):
            v = v + dt * (r * current)
        else:
            tau, goal = np.asarray(node.tau, np.float64), node.v_leak + r * current
            if meta["integration"] == "euler":
                v = v + dt / tau * (goal - v)
            else:
                kept = np.exp(-dt / tau)
                v = kept * v + (1 - kept) * goal
        s = (v > theta).astype(np.float64)
        v = v - s * theta
        spikes.append(s)
    return np.concatenate(spikes)


def step(node, xs, timesteps, meta):
    kind = type(node).__name__
    if kind in ("IF", "LIF"):
        return spiking(node, xs, timesteps, meta)
    if kind == "Conv2d":
        seen = windows(xs, node.weight.shape[2:], node.stride, node.padding)
        ys = np.tensordot(seen, node.weight.astype(np.float64), axes=((1, 4, 5), (1, 2, 3)))
        return np.moveaxis(ys + node.bias, 3, 1)
    if kind == "Affine":
        return xs @ node.weight.astype(np.float64).T + node.bias
    if kind == "Scale":
        return xs * node.scale
    if kind in ("AvgPool2d", "SumPool2d"):
        seen = windows(xs, node.kernel_size, node.stride, node.padding)
        return seen.mean((4, 5)) if kind == "AvgPool2d" else seen.sum((4, 5))
    if kind == "Flatten":
        assert (node.start_dim, node.end_dim) == (0, -1)
        return xs.reshape(len(xs), -1)
    assert kind == "Output", kind
    return xs


def replay(graph, frames, timesteps):
    """What every node gives for frames [T*B, C, H, W]."""
    values = {name: frames for name, node in graph.nodes.items() if isinstance(node, nir.Input)}
    while len(values) < len(graph.nodes):
        before = len(values)
        for name, node in graph.nodes.items():
            feeds = [source for source, target in graph.edges if target == name]
            if name not in values and all(source in values for source in feeds):
                values[name] = step(node, sum(values[source] for source in feeds), timesteps, graph.metadata)
        assert len(values) > before, "the graph has a cycle"
    return values


def check(path):
    graph = nir.read(path)  # checks the types along every edge
    tensors = load_safetensors(pathlib.Path(path).with_suffix(".safetensors"))
    timesteps = int(graph.metadata["timesteps"])
    images = tensors["images"].astype(np.float64)
    if images.ndim == 4:
        images = np.repeat(images[None], timesteps, 0)
    values = replay(graph, images.reshape(-1, *images.shape[2:]), timesteps)

    layers = {name for name, node in graph.nodes.items() if isinstance(node, (nir.IF, nir.LIF))}
    expected = {name.removeprefix("spikes."): s for name, s in tensors.items() if name.startswith("spikes.")}
    assert layers == set(expected), f"{path}: layers {sorted(layers ^ set(expected))}"
    differing = sum(int((values[name].ravel() != s.ravel()).sum()) for name, s in expected.items())
    total = sum(s.size for s in expected.values())
    fired = sum(int(s.sum()) for s in expected.values())
    logits = tensors["logits"]
    error = np.abs(values["output"].ravel() - logits.ravel()).max() / np.abs(logits).max()
    doubles = all(node.weight.dtype == np.float64 for node in graph.nodes.values() if isinstance(node, nir.Conv2d))
    assert fired > 0, f"{path}: no neuron fired"
    assert differing == 0 if doubles else differing * 1000 <= total, f"{path}: {differing} of {total} spikes differ"
    assert differing > 0 or error < (1e-9 if doubles else 1e-4), f"{path}: logits differ by {error:.1e}"
    kinds = sorted({type(node).__name__ for node in graph.nodes.values()})
    print(
        f"{pathlib.Path(path).stem}: {len(graph.nodes)} nodes, {len(graph.edges)} edges ({', '.join(kinds)}); "
        f"spikes agree: {differing} of {total} differ, {fired} fired, logits to {error:.1e}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--copy"]:
        copy = io.BytesIO()
        nir.write(copy, nir.read(sys.argv[3]))
        pathlib.Path(sys.argv[2]).write_bytes(gzip.compress(copy.getvalue(), mtime=0))
    else:
        for file in sys.argv[1:]:
            check(file)
