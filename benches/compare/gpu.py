"""PyTorch's training step on a GPU, for `cargo xtask gpu-run`: autocast to bf16, channels-last, cuDNN's choice of algorithms, the
fused optimizer, no waiting for the loss; as it is, or compiled.

    python gpu.py --device cuda:0 --result FILE [--compiled] [--width 64] [--batch 256] [--side 32] [--steps 30]

Writes milliseconds a step, images/s and peak memory as JSON. Needs torch and `networks.py` beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from networks import NeuronConfig, build

ROUNDS = 3


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    return parser.parse_args()


def main():
    args = parse()
    device = torch.device(args.device)
    is_cuda = device.type == "cuda"
    torch.manual_seed(42)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    network = build("resnet18", NeuronConfig(levels=2, timesteps=2), 10, width=args.width)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=is_cuda
    )
    images = torch.rand(args.batch, 3, args.side, args.side, device=device) * 2 - 1
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(args.batch, device=device) % 10
    forward = torch.compile(network) if args.compiled else network

    def synchronize():
        if is_cuda:
            torch.cuda.synchronize(device)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            readout = forward(images).mean(0)
            loss = F.cross_entropy(readout.float(), labels)
        loss.backward()
        optimizer.step()
        return loss

    started = time.perf_counter()
    for _ in range(min(5, args.steps)):
        loss = step()
    synchronize()
    warm = time.perf_counter() - started
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(args.steps):
            loss = step()
        synchronize()
        times.append((time.perf_counter() - started) / args.steps)
    if not torch.isfinite(loss).item():
        raise ValueError(f"the loss is {loss.item()}")
    seconds = statistics.median(times)
    result = {
        "precision": "bf16",
        "step_ms": 1e3 * seconds,
        "images_per_second": args.batch / seconds,
        "warm_up_s": warm,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
    }
    if is_cuda:
        mib = 1 << 20
        result["allocated_mib"] = torch.cuda.max_memory_allocated(device) / mib
        result["reserved_mib"] = torch.cuda.max_memory_reserved(device) / mib
    args.result.write_text(json.dumps(result))
    print(result)


if __name__ == "__main__":
    main()
