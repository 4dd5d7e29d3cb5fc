"""Runs NIR files in the simulators that they are for, and compares the logits.

Usage: importers.py NAME_PROFILE.nir...

Each file is imported by the simulator of its profile (the name ends in _spikingjelly, _snntorch, _norse or _sinabs), first
as it is, then with what the notes of the export ask for. FILE.safetensors beside it is as in check.py; v(0) is 0. Prints a
line for each file; the exit status is 1 if the logits of the second run are not ours.

Run with spikingjelly 2.0.0, snntorch 1.0.0, norse 1.1.0, sinabs 3.1.3, nirtorch 2.6, nir 1.0.8 and torch 2.15.0.
"""

import contextlib
import graphlib
import importlib.util
import io
import pathlib
import sys
import warnings

import nir
import numpy as np
import torch

from check import load_safetensors

warnings.filterwarnings("ignore")
torch.set_num_threads(1)


def in_order(net):
    """NIRTorch's executor goes depth first and does not wait for both paths of a sum."""
    feeds = {node: net.graph.find_source_nodes_of(node) for node in net.graph.node_list}
    net.execution_order = list(graphlib.TopologicalSorter(feeds).static_order())


def stateful(net, images, timesteps):
    state, outputs = None, []
    for _ in range(timesteps):
        output, state = net(images, state)
        outputs.append(output)
    return torch.stack(outputs)


def spikingjelly(graph, images, timesteps, heed):
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    net = import_from_nir(graph)
    for module in net.modules():
        if heed and isinstance(module, (neuron.IFNode, neuron.LIFNode)):
            module.v_reset = None
    return stateful(net, images, timesteps)


def snntorch(graph, images, timesteps, heed):
    import snntorch
    from snntorch.import_nir import import_from_nir

    net = import_from_nir(graph)
    for module in net.modules():
        if heed and isinstance(module, snntorch.Leaky):
            module.reset_mechanism = "subtract"
            module.mem_reset = torch.zeros_like
    outputs = []
    for _ in range(timesteps):
        output, _ = net(images)  # the state is in the modules
        outputs.append(output)
    return torch.stack(outputs)


def norse(graph, images, timesteps, heed):
    import norse.torch
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.module.lif_box import LIFBoxCell

    net = norse.torch.from_nir(graph)
    if heed:
        in_order(net)
        for module in net.modules():
            if isinstance(module, LIFBoxCell):
                module.p = module.p._replace(reset_method=reset_subtract)
    return stateful(net, images, timesteps)


def sinabs(graph, images, timesteps, heed):
    from sinabs.activation import SingleSpike
    from sinabs.nir import from_nir

    batch = len(images)
    net = from_nir(graph, batch_size=batch)
    if heed:
        in_order(net)
        for module in net.modules():
            if hasattr(module, "spike_fn"):
                module.spike_fn = SingleSpike
                module.min_v_mem = None
    output, _ = net(images[:, None].repeat(1, timesteps, 1, 1, 1).flatten(0, 1))
    return output.reshape(batch, timesteps, -1).transpose(0, 1)


def error(importer, path, heed):
    graph, tensors = nir.read(path), load_safetensors(path.with_suffix(".safetensors"))
    images, logits = torch.tensor(tensors["images"]).float(), tensors["logits"]
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        outputs = importer(graph, images, int(graph.metadata["timesteps"]), heed).numpy()
    if outputs.size != logits.size:
        return np.inf
    return np.abs(outputs.reshape(logits.shape) - logits).max() / np.abs(logits).max()


if __name__ == "__main__":
    failed = False
    for path in map(pathlib.Path, sys.argv[1:]):
        profile = path.stem.rsplit("_", 1)[1]
        if importlib.util.find_spec(profile) is None:
            print(f"{path.stem}: skipped, {profile} is not installed")
            continue
        before, after = (error(globals()[profile], path, heed) for heed in (False, True))
        agrees = after < 1e-4
        failed |= not agrees
        print(f"{path.stem}: logits off by {before:.1e} as imported, {after:.1e} with the notes heeded")
    sys.exit(failed)
