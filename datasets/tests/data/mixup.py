"""Makes mixup.safetensors: what timm's Mixup does to batches, and the numbers that it drew.

    pip install timm torch torchvision numpy safetensors
    python mixup.py

`src/mix.rs` reads it, so that Python is not needed to run the tests. For each case there are `CASE images`, `CASE labels`,
`CASE out`, `CASE targets` and `CASE draws`: of every image what happens to it (0 nothing, 1 Mixup, 2 CutMix), the share
that was drawn, and the row and column of the centre of CutMix's rectangle.
"""

import os

import numpy as np
import timm
import torch
from safetensors.numpy import save_file
from timm.data.mixup import Mixup

B, C, H, W, K = 4, 2, 9, 7, 3
randint = np.random.randint

tensors = {}
for mode in ["batch", "pair", "elem"]:
    for number, (mixup, cutmix, prob, seed) in enumerate(
        [(0.8, 1.0, 1.0, 1), (0.8, 1.0, 1.0, 2), (0.8, 0.0, 1.0, 3), (0.0, 1.0, 1.0, 4), (0.2, 0.5, 0.5, 5), (0.8, 1.0, 0.2, 8)]
    ):
        mix = Mixup(mixup, cutmix, prob=prob, switch_prob=0.5, mode=mode, label_smoothing=0.0, num_classes=K)
        centres, params = [], []

        def record(*args, **kwargs):
            centres.append(randint(*args, **kwargs))
            return centres[-1]

        def keep(method):
            def call(*args):
                lam, use_cutmix = method(*args)
                params.append((np.copy(lam), np.copy(use_cutmix)))
                return lam, use_cutmix

            return call

        mix._params_per_elem, mix._params_per_batch = keep(mix._params_per_elem), keep(mix._params_per_batch)
        np.random.seed(seed)
        images = np.random.rand(B, C, H, W).astype(np.float32)
        labels = randint(0, K, B)
        np.random.randint = record
        out, targets = mix(torch.from_numpy(images.copy()), torch.from_numpy(labels).clone())
        np.random.randint = randint

        (lam, use_cutmix), = params
        lam, use_cutmix = np.atleast_1d(lam).astype(np.float64), np.atleast_1d(use_cutmix)
        draws = np.zeros((len(lam), 4))
        for i, (share, is_cutmix) in enumerate(zip(lam, use_cutmix)):
            if share != 1.0:
                centre = [centres.pop(0), centres.pop(0)] if is_cutmix else [0, 0]
                draws[i] = [1 + is_cutmix, share, *centre]
        assert not centres
        draws = {"batch": lambda: np.repeat(draws, B, 0), "pair": lambda: np.concatenate([draws, draws[::-1]])}.get(
            mode, lambda: draws
        )()
        name = f"{mode} {number}"
        tensors |= {
            f"{name} images": images,
            f"{name} labels": labels.astype(np.uint32),
            f"{name} draws": draws,
            f"{name} out": out.numpy(),
            f"{name} targets": targets.numpy().astype(np.float32),
        }

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mixup.safetensors")
versions = {"timm": timm.__version__, "torch": torch.__version__, "numpy": np.__version__}
save_file(tensors, path, metadata=versions)
print(path, versions, len(tensors), "tensors", os.path.getsize(path), "bytes")
