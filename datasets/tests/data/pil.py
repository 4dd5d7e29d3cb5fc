"""Makes pil.safetensors: what Pillow and torchvision do to two images.

    pip install pillow torch torchvision numpy safetensors
    python pil.py

`tests/all/operations.rs` reads it, so that Python is not needed to run the tests. The name of a tensor is
`IMAGE OPERATION`, the operation in the JSON of `lmht_datasets::Operation`, or `IMAGE resize TOP LEFT HEIGHT WIDTH` for a
resized crop to SIZE.
`src/auto_augment.rs` reads `POLICY OPERATION`, the strengths of torchvision's RandAugment and TrivialAugmentWide, and
`POLICY noise OPERATION SIGN`, what comes of the image at STRENGTHS; `src/transform.rs` reads `erasing H W`: two uniform
numbers, and the height and width of what torchvision's RandomErasing erases if all of its draws are these, 0 for nothing.
"""

import json
import os

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from safetensors.numpy import save_file
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

H, W = 12, 15
SIZE = (10, 9)
FILL = 77

rng = np.random.default_rng(20240131)
y, x = np.mgrid[0:H, 0:W]
smooth = np.stack([40 + 9 * x + 3 * y, 200 - 5 * x - 6 * y, 90 + 4 * ((x - 7) ** 2 + (y - 6) ** 2) ** 0.5 * 3], -1)
IMAGES = {
    "noise": rng.integers(0, 256, (H, W, 3), dtype=np.uint8),
    "smooth": np.clip(smooth, 0, 255).astype(np.uint8),
    "gray": rng.integers(30, 220, (H, W), dtype=np.uint8) // 3 * 2,
}
# torchvision's names and magnitudes, beside ours.
OPERATIONS = [
    ("shear_x", [0.3, -0.3, 0.1, -1 / 30]),
    ("shear_y", [0.3, -0.3, 0.2]),
    ("translate_x", [6.797, -6.797, 0.9]),
    ("translate_y", [5.4, -5.4, 3.0]),
    ("rotate", [30.0, -30.0, 10 / 3, -20 / 3, 26.666666666666668, 0.0]),
    ("brightness", [1.9, 0.1, 1.3, 0.7, 1.0, 0.0]),
    ("color", [1.9, 0.1, 1.4, 0.6]),
    ("contrast", [1.9, 0.1, 1.6, 0.4]),
    ("sharpness", [1.9, 0.1, 1.2, 0.8]),
    ("posterize", [8, 7, 4, 1]),
    ("solarize", [255.0, 226.66666666666666, 170.0, 85.0, 0.0]),
    ("auto_contrast", None),
    ("equalize", None),
    ("invert", None),
]
THEIRS = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}


def planar(image):
    array = np.asarray(image)
    return array[None].copy() if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def apply(image, name, strength):
    """torchvision takes the factors of a policy as distances from 1."""
    if name in ("brightness", "color", "contrast", "sharpness"):
        strength = strength - 1.0
    fill = [FILL] * (1 if image.mode == "L" else 3)
    return _apply_op(image, THEIRS[name], strength or 0.0, InterpolationMode.NEAREST, fill)


tensors = {}
for image_name, array in IMAGES.items():
    image = Image.fromarray(array)
    tensors[image_name] = planar(image)
    for name, strengths in OPERATIONS:
        for strength in strengths or [None]:
            operation = name if strengths is None else {name: strength}
            tensors[f"{image_name} {json.dumps(operation)}"] = planar(apply(image, name, strength))
    for top, left, height, width in [(0, 0, H, W), (2, 3, 10, 9), (1, 4, 5, 4), (0, 2, 12, 6), (3, 0, 4, 13)]:
        resized = F.resized_crop(image, top, left, height, width, SIZE, InterpolationMode.BILINEAR, antialias=True)
        tensors[f"{image_name} resize {top} {left} {height} {width}"] = planar(resized)

# Equalize leaves fewer than 256 pixels alone: two larger images, of one and of several pixels for each output value.
for image_name, side in [("medium", 18), ("large", 45)]:
    array = np.clip(rng.normal(120, 30, (side, side, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(array)
    tensors[image_name] = planar(image)
    for name in ["equalize", "auto_contrast"]:
        tensors[f"{image_name} {json.dumps(name)}"] = planar(apply(image, name, None))

STRENGTHS = [3, 9, 22, 30]
for policy in [transforms.RandAugment(), transforms.TrivialAugmentWide()]:
    size = [(H, W)] if isinstance(policy, transforms.RandAugment) else []
    image = Image.fromarray(IMAGES["noise"])
    for name, (table, signed) in policy._augmentation_space(31, *size).items():
        if name == "Identity":
            continue
        policy_name = type(policy).__name__
        if table.ndim > 0:
            tensors[f"{policy_name} {name}"] = table.numpy().astype(np.float32)
        for sign in [1.0, -1.0] if signed else [1.0]:
            strengths = [sign * float(table[i]) if table.ndim > 0 else 0.0 for i in STRENGTHS]
            changed = [_apply_op(image, name, x, InterpolationMode.NEAREST, [FILL] * 3) for x in strengths]
            tensors[f"{policy_name} noise {name} {'+' if sign > 0 else '-'}"] = np.stack([planar(x) for x in changed])

uniform_ = torch.Tensor.uniform_
for height, width in [(32, 32), (20, 45), (64, 3)]:
    rows = []
    for area, ratio in rng.random((60, 2)):
        draws = iter([area, ratio] * 10)
        torch.Tensor.uniform_ = lambda x, a, b: x.fill_(a + (b - a) * next(draws))
        image = torch.zeros(1, height, width)
        _, _, h, w, value = transforms.RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])
        rows.append([area, ratio] + ([0, 0] if value is image else [h, w]))
    tensors[f"erasing {height} {width}"] = np.array(rows)
torch.Tensor.uniform_ = uniform_

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pil.safetensors")
versions = {"pillow": PIL.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
save_file(tensors, path, metadata=versions)
print(path, versions, len(tensors), "tensors", os.path.getsize(path), "bytes")
