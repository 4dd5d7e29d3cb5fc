"""SpikingJelly's ResNet-18 of LIF neurons, multi-step, with the 3x3 stem of CIFAR: what most people would train instead.

The blocks, layers and neurons are SpikingJelly's (`activation_based`, `step_mode='m'`); only the stem and the width are
not those of its `spiking_resnet18`, which is for ImageNet. A static image's first convolution is computed once, as in
the networks it is compared with. LIF neurons have τ = 2, threshold 1, a detached reset and SpikingJelly's default
surrogate; the CPU operator is the library's choice.
"""

from __future__ import annotations

import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model.spiking_resnet import BasicBlock
from torch import Tensor, nn


def lif(**_) -> neuron.LIFNode:
    """A layer of neurons."""
    return neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")


class LifResNet18(nn.Module):
    """Images `[B, C, H, W]` to logits `[T, B, K]`."""

    def __init__(self, width: int, in_channels: int, n_classes: int, timesteps: int):
        super().__init__()
        self.timesteps = timesteps
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.sn1 = lif()
        blocks, c_in = [], width
        for stage in range(4):
            for number in range(2):
                c_out, stride = width << stage, 2 if stage and not number else 1
                shortcut = None
                if stride != 1 or c_in != c_out:
                    shortcut = nn.Sequential(layer.Conv2d(c_in, c_out, 1, stride, bias=False), layer.BatchNorm2d(c_out))
                blocks.append(BasicBlock(c_in, c_out, stride, shortcut, spiking_neuron=lif))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.fc = layer.Linear(c_in, n_classes)
        functional.set_step_mode(self.blocks, "m")
        functional.set_step_mode(self.fc, "m")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        functional.reset_net(self)
        current = self.bn1(self.conv1(images))
        xs = self.sn1(current.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1))
        xs = self.blocks(xs)
        return self.fc(xs.mean((3, 4)))
