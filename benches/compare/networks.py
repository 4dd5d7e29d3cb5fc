"""LM-HT spiking networks in PyTorch: the neurons and backbones of `docs/paper.md`, for comparison with the Rust crates.

Written from the equations (Hao et al., NeurIPS 2024, arXiv 2402.00411v2) and from the structures that `docs/paper.md`
and the crate's documentation describe; it shares no code with the crates.
`xtask/testdata/golden/make.py` makes float64 cases with it.

- Time is folded into the batch: `[T*B, ...]`, time outermost. Only the neuron knows T.
- Parameters have the published names, so a state dict loads in either implementation.
- Any dtype and device; nothing but torch.

    network = build("resnet18", NeuronConfig(levels=2, timesteps=2), n_classes=10)
    logits = network(images)          # [B, C, H, W] or frames [T, B, C, H, W] to [T, B, K]
    loss = F.cross_entropy(logits.mean(0), labels)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NeuronConfig:
    """The neuron between two synapses."""

    kind: str = "lmht"
    """`lmht` (Eq. 7), `mht` (Eqs. 5-6), `if`, `lif` (Eqs. 1-2), `qcfs` (Eq. 4) or `relu`."""
    levels: int = 2
    """L, the number of thresholds (lmht, mht)."""
    timesteps: int = 2
    """T; 1 for qcfs and relu."""
    v_threshold: float | None = None
    """θ; None is 2/L for L > 1, 1 for L = 1."""
    v_init: float = 0.0
    """v(0) as a fraction of θ."""
    leak: float = 1.0
    """λ of lif and mht."""
    detached: bool | None = None
    """Whether the gradient stops at v(t-1); None is what was published: True for lmht and mht, False for if and lif."""
    quant_levels: int = 4
    """Q of qcfs."""
    scale: float = 8.0
    """Initial ϑ of qcfs."""

    @property
    def n_levels(self) -> int:
        return self.levels if self.kind in ("lmht", "mht") else 1

    @property
    def theta(self) -> float:
        if self.v_threshold is not None:
            return self.v_threshold
        return 2 / self.n_levels if self.n_levels > 1 else 1.0

    @property
    def stops_at_v(self) -> bool:
        return self.kind in ("lmht", "mht") if self.detached is None else self.detached


# Neurons


class Fire(torch.autograd.Function):
    """s·θ of a charged potential: θ times the number of thresholds kθ, k in 1..=L, that it has reached (Eq. 6).

    Its gradient is 1 where θ/2 <= m <= (L + 1/2) θ, else 0 (Eq. 8 with the published code's slope).
    """

    @staticmethod
    def forward(ctx, charged: Tensor, threshold: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward((charged >= 0.5 * threshold) & (charged <= (levels + 0.5) * threshold))
        spikes = (charged >= threshold).to(charged.dtype)
        for k in range(2, levels + 1):
            spikes += charged >= k * threshold
        return spikes * threshold

    @staticmethod
    def backward(ctx, grad: Tensor):
        (window,) = ctx.saved_tensors
        return grad * window, None, None


class SpikingNeuron(nn.Module):
    """IF, LIF, M-HT and LM-HT neurons; currents `[T*B, ...]` to s·θ of the same shape."""

    def __init__(self, config: NeuronConfig, site: str):
        super().__init__()
        t = config.timesteps
        self.timesteps, self.levels, self.v_init = t, config.n_levels, config.v_init
        self.detached, self.fixed_leak = config.stops_at_v, config.leak
        self.register_buffer("v_threshold", torch.tensor([config.theta]))
        self.tgim_name = None
        if config.kind == "lmht":
            # The published shapes: one trailing axis for each axis of the tensors the T-GIM is applied to.
            self.tgim_name, rank = ("mask", 6) if site == "maps" else ("mask_linear", 5)
            self.register_parameter(self.tgim_name, nn.Parameter(torch.zeros(t, t, *[1] * (rank - 2))))
            self.alpha = nn.Parameter(torch.zeros(1))

    def omega(self) -> Tensor:
        """Ω `[T, T]`: row t receives, column j delivers."""
        t = self.timesteps
        return 2 * torch.sigmoid(getattr(self, self.tgim_name).reshape(t, t)) / t

    def leak(self) -> Tensor | float:
        return self.fixed_leak if self.tgim_name is None else torch.sigmoid(self.alpha) + 0.5

    def forward(self, xs: Tensor) -> Tensor:
        currents = xs.reshape(self.timesteps, -1)
        if self.tgim_name is not None:
            currents = self.omega() @ currents
        leak = self.leak()
        v = (self.v_init * self.v_threshold).expand(currents.shape[1])
        outputs = []
        for current in currents:
            charged = leak * v + current
            output = Fire.apply(charged, self.v_threshold, self.levels)
            v = charged - output
            if self.detached:
                v = v.detach()
            outputs.append(output)
        return torch.stack(outputs).reshape(xs.shape)


class Quantize(torch.autograd.Function):
    """clip(floor(x Q + 1/2) / Q, 0, 1). Its gradient is 1 where the clip changes nothing, both ends included, else 0.

    Not `torch.clamp`: whether its gradient is 1 or 0 at the ends, where a quantized value often is, depends on the
    version of torch.
    """

    @staticmethod
    def forward(ctx, xs: Tensor, quant_levels: int) -> Tensor:
        steps = torch.floor(xs * quant_levels + 0.5) / quant_levels
        ctx.save_for_backward((steps >= 0) & (steps <= 1))
        return torch.clamp(steps, 0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (window,) = ctx.saved_tensors
        return grad * window, None


class Qcfs(nn.Module):
    """ϑ · clip(floor(x Q / ϑ + 1/2) / Q, 0, 1) (Eq. 4) with a learnable ϑ."""

    def __init__(self, config: NeuronConfig):
        super().__init__()
        self.quant_levels = config.quant_levels
        self.thresh = nn.Parameter(torch.tensor([config.scale]))

    def forward(self, xs: Tensor) -> Tensor:
        return Quantize.apply(xs / self.thresh, self.quant_levels) * self.thresh


def neuron(config: NeuronConfig, site: str = "maps") -> nn.Module:
    """A layer of neurons for feature maps (`maps`) or for tokens and features (`features`)."""
    match config.kind:
        case "qcfs":
            return Qcfs(config)
        case "relu":
            return nn.ReLU()
        case "lmht" | "mht" | "if" | "lif":
            return SpikingNeuron(config, site)
    raise ValueError(f"neuron kind is {config.kind!r}; expected lmht, mht, if, lif, qcfs or relu")


# Parts


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)


def conv_norm(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, stride), nn.BatchNorm2d(c_out))


class Network(nn.Module):
    """What all backbones share: images in, logits at every timestep out.

    A backbone has `stem()`, the modules from the image to the current of the first neuron layer (or of the residual
    stream), and `body(current)`, everything after it.
    """

    repeats_image = False
    """Whether the image is repeated, or the stem's current, computed once. Running variances tell the difference."""

    def __init__(self, config: NeuronConfig, input_scale: float):
        super().__init__()
        self.timesteps = config.timesteps
        self.input_scale = input_scale

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() == 5:
            current = self.current(images.flatten(0, 1))
        elif self.repeats_image:
            current = self.current(images.repeat(self.timesteps, 1, 1, 1))
        else:
            current = self.current(images).repeat(self.timesteps, 1, 1, 1)
        if self.input_scale != 1:
            current = current * self.input_scale
        logits = self.body(current)
        return logits.reshape(self.timesteps, -1, logits.shape[-1])

    def current(self, images: Tensor) -> Tensor:
        for module in self.stem():
            images = module(images)
        return images

    def reset_parameters(self):
        """Convolutions start from a normal distribution of variance 2 / fan-out, as in He et al. 2015."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


# Residual networks


class BasicBlock(nn.Module):
    """Convolution, neuron, convolution; a neuron fires on the sum with the shortcut."""

    def __init__(self, config: NeuronConfig, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = conv_norm(c_in, c_out, 3, stride)
        self.sn1 = neuron(config)
        self.conv2 = conv_norm(c_out, c_out)
        self.sn2 = neuron(config)
        changes = stride != 1 or c_in != c_out
        self.downsample = nn.Sequential(conv_norm(c_in, c_out, 1, stride)) if changes else nn.Identity()

    def forward(self, xs: Tensor) -> Tensor:
        return self.sn2(self.conv2(self.sn1(self.conv1(xs))) + self.downsample(xs))


class MembraneBlock(BasicBlock):
    """The same parts with the neurons before the convolutions: the sum stays analog."""

    def forward(self, xs: Tensor) -> Tensor:
        return self.conv2(self.sn2(self.conv1(self.sn1(xs)))) + self.downsample(xs)


class ResNet(Network):
    """ResNet-18, -19, -34 (post-activation) and MS-ResNet-18, -34 (membrane shortcuts).

    `stages`: for each stage its number, its channels in units of the width, its blocks, the stride of the first one.
    """

    def __init__(self, config, n_classes, width, in_channels, input_scale, stem, stages, membrane=False, hidden=None):
        super().__init__(config, input_scale)
        self.membrane = membrane
        kernel, stride = {"cifar": (3, 1), "imagenet": (7, 2)}[stem]
        self.conv1 = conv(in_channels, width, kernel, stride)
        self.bn1 = nn.BatchNorm2d(width)
        if not membrane:
            self.sn1 = neuron(config)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        block = MembraneBlock if membrane else BasicBlock
        c_in, self.stages = width, []
        for number, factor, n_blocks, stride in stages:
            c_out = factor * width
            blocks = [block(config, c_in if i == 0 else c_out, c_out, stride if i == 0 else 1) for i in range(n_blocks)]
            self.stages.append(f"layer{number}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            c_in = c_out
        if hidden is None:
            self.fc = nn.Sequential(nn.Linear(c_in, n_classes))
        else:
            first, last = nn.Linear(c_in, hidden), nn.Linear(hidden, n_classes)
            self.fc = nn.Sequential(nn.Sequential(first), neuron(config, "features"), nn.Sequential(last))

    def stem(self) -> tuple[nn.Module, ...]:
        return (self.conv1, self.bn1, self.pool) if self.membrane else (self.conv1, self.bn1)

    def body(self, current: Tensor) -> Tensor:
        xs = current if self.membrane else self.pool(self.sn1(current))
        for stage in self.stages:
            xs = getattr(self, stage)(xs)
        return self.fc(xs.mean((2, 3)))


class ResNet20Block(nn.Module):
    """A basic block under the names of the hybrid networks; its last neuron is called `relu`."""

    def __init__(self, config: NeuronConfig, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.residual_function = nn.Sequential(
            *conv_norm(c_in, c_out, 3, stride), neuron(config), *conv_norm(c_out, c_out)
        )
        changes = stride != 1 or c_in != c_out
        self.shortcut = conv_norm(c_in, c_out, 1, stride) if changes else nn.Identity()
        self.relu = neuron(config)

    def forward(self, xs: Tensor) -> Tensor:
        return self.relu(self.residual_function(xs) + self.shortcut(xs))


class ResNet20(Network):
    """The CIFAR network of hybrid training: three blocks in each of three stages."""

    repeats_image = True

    def __init__(self, config, n_classes, width, in_channels, input_scale):
        super().__init__(config, input_scale)
        self.conv1 = nn.Sequential(*conv_norm(in_channels, width), neuron(config))
        c_in = width
        for number, factor in ((2, 1), (3, 2), (4, 4)):
            c_out = factor * width
            first = ResNet20Block(config, c_in, c_out, 1 if number == 2 else 2)
            rest = [ResNet20Block(config, c_out, c_out, 1) for _ in range(2)]
            self.add_module(f"conv{number}_x", nn.Sequential(first, *rest))
            c_in = c_out
        self.fc = nn.Linear(c_in, n_classes)

    def stem(self) -> tuple[nn.Module, ...]:
        return tuple(self.conv1[:2])

    def body(self, current: Tensor) -> Tensor:
        xs = self.conv1[2](current)
        xs = self.conv4_x(self.conv3_x(self.conv2_x(xs)))
        return self.fc(xs.mean((2, 3)))


# VGG and CIFARNet


class Vgg13(Network):
    """The paper's VGG-13: 1,1,A | 2,2,A | 4,4,A | 8,8,8,A | 8, global average, linear."""

    repeats_image = True

    def __init__(self, config, n_classes, width, in_channels, input_scale):
        super().__init__(config, input_scale)
        c_in = in_channels
        for number, (factor, n_convs) in enumerate(((1, 2), (2, 2), (4, 2), (8, 3), (8, 1)), 1):
            c_out, layers = factor * width, []
            for i in range(n_convs):
                # Every third place is that of a dropout or of the pooling.
                synapse = nn.Sequential(conv(c_in, c_out, bias=True), nn.BatchNorm2d(c_out))
                end = nn.AvgPool2d(2) if i == n_convs - 1 and number < 5 else nn.Identity()
                layers += [synapse, neuron(config), end]
                c_in = c_out
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.classifier = nn.Sequential(nn.Linear(c_in, n_classes))

    def stem(self) -> tuple[nn.Module, ...]:
        return tuple(self.layer1[0])

    def body(self, current: Tensor) -> Tensor:
        xs = self.layer1[1:](current)
        xs = self.layer5(self.layer4(self.layer3(self.layer2(xs))))
        return self.classifier(xs.mean((2, 3)))


class Vgg(Network):
    """The standard VGGs with batch norm and average pooling, and two hidden linear layers of 64 widths."""

    repeats_image = True

    def __init__(self, config, n_classes, width, in_channels, input_scale, n_convs):
        super().__init__(config, input_scale)
        c_in = in_channels
        for number, (factor, n) in enumerate(zip((1, 2, 4, 8, 8), n_convs), 1):
            c_out, layers = factor * width, []
            for _ in range(n):
                # Every fourth place is that of a dropout.
                layers += [conv(c_in, c_out, bias=True), nn.BatchNorm2d(c_out), neuron(config), nn.Identity()]
                c_in = c_out
            self.add_module(f"layer{number}", nn.Sequential(*layers, nn.AvgPool2d(2)))
        features = 64 * width
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(c_in, features), neuron(config, "features"), nn.Identity(),
            nn.Linear(features, features), neuron(config, "features"), nn.Identity(),
            nn.Linear(features, n_classes),
        )  # fmt: skip

    def stem(self) -> tuple[nn.Module, ...]:
        return tuple(self.layer1[:2])

    def body(self, current: Tensor) -> Tensor:
        xs = self.layer1[2:](current)
        xs = self.layer5(self.layer4(self.layer3(self.layer2(xs))))
        # One position for images of 32x32; larger ones are averaged.
        return self.classifier(xs.mean((2, 3)))


class CifarNet(Network):
    """CIFARNet (Wu et al. 2019): 1 | 2,A | 4,A | 8 | 4, then 8 and 4 features; images of 32x32."""

    def __init__(self, config, n_classes, width, in_channels, input_scale):
        super().__init__(config, input_scale)
        c_in = in_channels
        for i, factor in enumerate((1, 2, 4, 8, 4), 1):
            self.add_module(f"conv{i}", conv_norm(c_in, factor * width))
            self.add_module(f"sn{i}", neuron(config))
            c_in = factor * width
        sizes = (c_in * 8 * 8, 8 * width, 4 * width, n_classes)
        linears = [nn.Sequential(nn.Linear(f_in, f_out)) for f_in, f_out in zip(sizes, sizes[1:])]
        neurons = [neuron(config, "features") for _ in range(2)]
        self.fc = nn.Sequential(linears[0], neurons[0], linears[1], neurons[1], linears[2])

    def stem(self) -> tuple[nn.Module, ...]:
        return tuple(self.conv1)

    def body(self, current: Tensor) -> Tensor:
        xs = self.sn1(current)
        xs = F.avg_pool2d(self.sn2(self.conv2(xs)), 2)
        xs = F.avg_pool2d(self.sn3(self.conv3(xs)), 2)
        xs = self.sn5(self.conv5(self.sn4(self.conv4(xs))))
        return self.fc(xs.flatten(1))


# Spikformer


class PatchSplitting(nn.Module):
    """Four convolutions to D channels and a quarter of the side, and the relative position."""

    def __init__(self, config: NeuronConfig, in_channels: int, width: int):
        super().__init__()
        c_in = in_channels
        for suffix, divisor in (("", 8), ("1", 4), ("2", 2), ("3", 1)):
            c_out = width // divisor
            self.add_module(f"proj_conv{suffix}", conv(c_in, c_out))
            self.add_module(f"proj_bn{suffix}", nn.BatchNorm2d(c_out))
            self.add_module(f"proj_lif{suffix}", neuron(config))
            c_in = c_out
        self.rpe_conv = conv(width, width)
        self.rpe_bn = nn.BatchNorm2d(width)
        self.rpe_lif = neuron(config)

    def forward(self, current: Tensor) -> Tensor:
        xs = self.proj_lif(current)
        xs = self.proj_lif1(self.proj_bn1(self.proj_conv1(xs)))
        xs = F.max_pool2d(self.proj_lif2(self.proj_bn2(self.proj_conv2(xs))), 3, 2, 1)
        xs = F.max_pool2d(self.proj_lif3(self.proj_bn3(self.proj_conv3(xs))), 3, 2, 1)
        return xs + self.rpe_lif(self.rpe_bn(self.rpe_conv(xs)))


class TokenLayers(nn.Module):
    """Linear, batch norm and neuron, three modules under one name each; tokens are rows `[T*B*N, D]`."""

    def add_layer(self, config: NeuronConfig, name: str, f_in: int, f_out: int):
        self.add_module(f"{name}_linear", nn.Linear(f_in, f_out))
        self.add_module(f"{name}_bn", nn.BatchNorm1d(f_out))
        self.add_module(f"{name}_lif", neuron(config, "features"))

    def run(self, name: str, xs: Tensor) -> Tensor:
        current = getattr(self, f"{name}_bn")(getattr(self, f"{name}_linear")(xs))
        return getattr(self, f"{name}_lif")(current)


class Attention(TokenLayers):
    """Spiking self-attention: (q kᵀ) v / 8 in every head, without a softmax; the 8 does not depend on the head's size."""

    def __init__(self, config: NeuronConfig, width: int, heads: int):
        super().__init__()
        self.heads = heads
        for name in ("q", "k", "v", "proj"):
            self.add_layer(config, name, width, width)
        self.attn_lif = neuron(config, "features")

    def forward(self, xs: Tensor, n_tokens: int) -> Tensor:
        q, k, v = (self.run(name, xs) for name in "qkv")
        return self.run("proj", self.attn_lif(self.mix(q, k, v, n_tokens)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, n_tokens: int) -> Tensor:
        rows, width = q.shape
        q, k, v = (
            xs.reshape(-1, n_tokens, self.heads, width // self.heads).transpose(1, 2) for xs in (q, k, v)
        )  # [T*B, heads, N, D / heads]
        mixed = (q @ k.transpose(2, 3)) @ v / 8
        return mixed.transpose(1, 2).reshape(rows, width)


class Mlp(TokenLayers):
    """A perceptron of two layers, the hidden one of four times the embedding size."""

    def __init__(self, config: NeuronConfig, width: int):
        super().__init__()
        self.add_layer(config, "fc1", width, 4 * width)
        self.add_layer(config, "fc2", 4 * width, width)

    def forward(self, xs: Tensor) -> Tensor:
        return self.run("fc2", self.run("fc1", xs))


class TransformerBlock(nn.Module):
    def __init__(self, config: NeuronConfig, width: int, heads: int):
        super().__init__()
        self.attn = Attention(config, width, heads)
        self.mlp = Mlp(config, width)

    def forward(self, xs: Tensor, n_tokens: int) -> Tensor:
        xs = xs + self.attn(xs, n_tokens)
        return xs + self.mlp(xs)


class Spikformer(Network):
    """Spikformer (Zhou et al. 2023), the paper's Transformer-4-384: the width is the embedding size."""

    def __init__(self, config, n_classes, width, in_channels, input_scale, depth=4, heads=12):
        super().__init__(config, input_scale)
        self.patch_embed = PatchSplitting(config, in_channels, width)
        self.block = nn.ModuleList(TransformerBlock(config, width, heads) for _ in range(depth))
        self.head = nn.Linear(width, n_classes)

    def stem(self) -> tuple[nn.Module, ...]:
        return (self.patch_embed.proj_conv, self.patch_embed.proj_bn)

    def body(self, current: Tensor) -> Tensor:
        maps = self.patch_embed(current)
        n_maps, width, n_tokens = maps.flatten(2).shape
        xs = maps.flatten(2).transpose(1, 2).reshape(-1, width)
        for block in self.block:
            xs = block(xs, n_tokens)
        return self.head(xs.reshape(n_maps, n_tokens, width).mean(1))


# All of them

FOUR_STAGES_18 = ((1, 1, 2, 1), (2, 2, 2, 2), (3, 4, 2, 2), (4, 8, 2, 2))
FOUR_STAGES_34 = ((1, 1, 3, 1), (2, 2, 4, 2), (3, 4, 6, 2), (4, 8, 3, 2))
RESNETS = {
    "resnet18": {"stages": FOUR_STAGES_18},
    "resnet34": {"stages": FOUR_STAGES_34},
    "ms_resnet18": {"stages": FOUR_STAGES_18, "membrane": True},
    "ms_resnet34": {"stages": FOUR_STAGES_34, "membrane": True},
    # Its first stage is called layer2, and its 256 features do not shrink with the width.
    "resnet19": {"stages": ((2, 2, 3, 1), (3, 4, 3, 2), (4, 8, 2, 2)), "hidden": 256},
}
VGGS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13_standard": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
PUBLISHED_WIDTH = {"resnet20": 16, "cifarnet": 128, "spikformer": 384}
BACKBONES = (*RESNETS, "resnet20", "vgg13", *VGGS, "cifarnet", "spikformer")


def build(
    arch: str,
    config: NeuronConfig,
    n_classes: int,
    width: int | None = None,
    stem: str = "cifar",
    in_channels: int = 3,
    input_scale: float = 1.0,
    depth: int = 4,
    heads: int = 12,
) -> Network:
    """A backbone of `BACKBONES` by its name in `config.json`; the published width unless one is given.

    `stem` is for the ResNets of `RESNETS`, `depth` and `heads` for spikformer. `input_scale` is a factor on the current
    of the first neuron (on the residual stream of an MS-ResNet).
    """
    if config.kind in ("qcfs", "relu") and config.timesteps != 1:
        raise ValueError(f"timesteps is {config.timesteps}, but {config.kind} does not spike; an ANN has timesteps = 1")
    width = width or PUBLISHED_WIDTH.get(arch, 64)
    sizes = (config, n_classes, width, in_channels, input_scale)
    match arch:
        case "resnet20":
            network = ResNet20(*sizes)
        case "vgg13":
            network = Vgg13(*sizes)
        case "cifarnet":
            network = CifarNet(*sizes)
        case "spikformer":
            network = Spikformer(*sizes, depth=depth, heads=heads)
        case _ if arch in RESNETS:
            network = ResNet(*sizes, stem=stem, **RESNETS[arch])
        case _ if arch in VGGS:
            network = Vgg(*sizes, n_convs=VGGS[arch])
        case _:
            raise ValueError(f"arch is {arch!r}; expected one of {', '.join(BACKBONES)}")
    network.reset_parameters()
    return network
