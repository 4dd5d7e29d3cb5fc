"""Reparameterization of an LM-HT network to single-threshold neurons over L·T timesteps, in PyTorch.

Written from the equations (Hao et al. 2024, section 4.5 and theorem A.2): timestep t of the LM-HT network becomes
window t of L timesteps, in which a neuron with one threshold fires at most once a timestep.

- A bias, or the running mean of a batch norm, acts L times in a window: it is divided by L. The stem reads the image at
  every timestep: there the whole current is divided instead.
- The leak acts on entering a window, the first one too, and is 1 inside it.
- Ω becomes `[L·T, L·T]`. Schedule `uniform` (the paper's): every timestep of window t receives ω_ti / L of what
  window i delivered. Schedule `front_loaded`: the first timestep of window t receives ω_ti of it, the others nothing.
- Products of spike trains are not linear: attention runs once a window, on what the window delivered.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from networks import Attention, Network, SpikingNeuron

SCHEDULES = ("uniform", "front_loaded")


class SingleThresholdNeuron(nn.Module):
    """What `neuron` becomes; currents `[L·T·B, ...]` to spikes times θ of the same shape. No gradients."""

    def __init__(self, neuron: SpikingNeuron, schedule: str):
        super().__init__()
        levels, timesteps = neuron.levels, neuron.timesteps
        omega = neuron.omega().detach()
        n = levels * timesteps
        mixing = torch.zeros(n, n, dtype=omega.dtype)
        for receiving in range(n):
            window, position = divmod(receiving, levels)
            if schedule == "uniform" or position == 0:
                share = 1 / levels if schedule == "uniform" else 1.0
                for delivering in range(n):
                    mixing[receiving, delivering] = omega[window, delivering // levels] * share
        self.mixing, self.levels = mixing, levels
        self.leak, self.threshold = neuron.leak().detach(), neuron.v_threshold
        self.v_init = neuron.v_init

    def forward(self, xs: Tensor) -> Tensor:
        currents = self.mixing @ xs.reshape(len(self.mixing), -1)
        v = self.v_init * self.threshold
        spikes = []
        for t, current in enumerate(currents):
            v = (v * self.leak if t % self.levels == 0 else v) + current
            spike = (v >= self.threshold).to(v.dtype)
            v = v - spike * self.threshold
            spikes.append(spike * self.threshold)
        return torch.stack(spikes).reshape(xs.shape)


class WindowAttention(Attention):
    """Attention on the sums over each window, whose result is spread evenly over the window."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, n_tokens: int) -> Tensor:
        rows, width = q.shape
        windows = rows // (self.levels * self.timesteps)
        q, k, v = (
            xs.reshape(self.timesteps, self.levels, windows, width).sum(1).reshape(-1, width) for xs in (q, k, v)
        )
        mixed = super().mix(q, k, v, n_tokens) / self.levels
        return mixed.reshape(self.timesteps, windows, width).repeat_interleave(self.levels, 0).reshape(rows, width)


def reparameterized(network: Network, schedule: str) -> Network:
    """The network over L·T timesteps, in evaluation mode; its logits are those of each timestep."""
    network = copy.deepcopy(network).eval()
    timesteps = network.timesteps
    levels = next(module.levels for module in network.modules() if isinstance(module, SpikingNeuron))
    stem = set(network.stem())
    for module in list(network.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)) and module not in stem:
            if module.bias is not None:
                module.bias.data /= levels
            if hasattr(module, "running_mean"):
                module.running_mean /= levels
        if isinstance(module, Attention):
            module.__class__ = WindowAttention
            module.levels, module.timesteps = levels, timesteps
        for name, child in list(module.named_children()):
            if isinstance(child, SpikingNeuron):
                setattr(module, name, SingleThresholdNeuron(child, schedule))
    network.input_scale /= levels
    network.timesteps = levels * timesteps
    return network
