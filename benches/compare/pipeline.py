"""From encoded images to augmented batches: `lmht-datasets` beside torchvision, both on one core, in turns, in one run.

    python benches/compare/pipeline.py --data DATA --split test --recipe cifar10 --column img
    python benches/compare/pipeline.py --data DATA --split validation --recipe tiny-imagenet --column image

A round of a side reads and decodes a parquet split and makes one epoch of batches of 128: the recipe of the published
code for the data set (crop or resized crop, flip, AutoAugment, Cutout), normalized, float32. What is printed is the
median of the quotients within rounds, with both sides' images per second.
Needs: pip install torch torchvision pyarrow pillow; cargo build --release -p lmht-datasets --example pipeline.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

ONE = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.update(ONE)

import pyarrow.parquet as parquet  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy  # noqa: E402
from torchvision import transforms  # noqa: E402

NORMALIZE = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "tiny-imagenet": ((0.480, 0.448, 0.398), (0.272, 0.266, 0.274)),
}
BATCH = 128


class Cutout:
    """A black square of side 16 round a random pixel, cut off at the border."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        _, height, width = image.shape
        y, x = random.randrange(height), random.randrange(width)
        image[:, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = 0
        return image


def recipe(name: str) -> transforms.Compose:
    mean, std = NORMALIZE[name]
    if name == "cifar10":
        first = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), AutoAugment(AutoAugmentPolicy.CIFAR10)]
        last = [transforms.Normalize(mean, std), Cutout()]
    else:
        first = [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), AutoAugment(AutoAugmentPolicy.IMAGENET)]
        last = [transforms.Normalize(mean, std)]
    return transforms.Compose([*first, transforms.ToTensor(), *last])


def files(data: Path, split: str) -> list[Path]:
    found = sorted(path for path in data.rglob("*.parquet") if path.name.startswith((split, split[:5])))
    if not found:
        raise SystemExit(f"{data}: expected parquet files of the split {split}, found none")
    return found


def theirs(paths: list[Path], column: str, transform: transforms.Compose) -> tuple[float, int]:
    start = time.perf_counter()
    encoded = [image["bytes"] for path in paths for image in parquet.read_table(path, columns=[column])[column].to_pylist()]
    order = torch.randperm(len(encoded)).tolist()
    for first in range(0, len(order), BATCH):
        images = [Image.open(io.BytesIO(encoded[i])).convert("RGB") for i in order[first : first + BATCH]]
        torch.stack([transform(image) for image in images])
    return time.perf_counter() - start, len(encoded)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of parquet files")
    parser.add_argument("--split", default="test")
    parser.add_argument("--recipe", choices=NORMALIZE, default="cifar10")
    parser.add_argument("--column", default="image", help="the column of images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=0, help="the core that both sides run on")
    parser.add_argument("--ours", type=Path, default=Path("target/release/examples/pipeline"))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})  # The child inherits it.
    torch.set_num_threads(1)
    command = [args.ours, args.data, args.split, args.recipe, args.column]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ours() -> tuple[float, int]:
        worker.stdin.write("\n")
        worker.stdin.flush()
        answer = worker.stdout.readline().split()
        if len(answer) != 2:
            raise SystemExit("our side ended: its message stands above")
        return float(answer[0]), int(answer[1])

    paths, transform = files(args.data, args.split), recipe(args.recipe)
    rates = []
    for _ in range(args.rounds):
        pair = []
        for seconds, n_images in (ours(), theirs(paths, args.column, transform)):
            pair.append(n_images / seconds)
        rates.append(pair)
        print(f"ours {pair[0]:.0f} images/s, torchvision {pair[1]:.0f}, ratio {pair[0] / pair[1]:.2f}", flush=True)
    worker.stdin.close()
    worker.wait()
    ratio = statistics.median(ours / theirs for ours, theirs in rates)
    medians = [statistics.median(side) for side in zip(*rates)]
    print(
        f"{args.recipe}, one core, {args.rounds} rounds: ours {medians[0]:.0f} images/s, "
        f"torchvision {torchvision.__version__} {medians[1]:.0f}, median ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
