"""Fashion-MNIST as its files hold it, and what torch says of its test images; shared by tests."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

DATASET = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
BATCH = 500


def read_idx(name):
    """An array in MNIST's idx format: a header of four bytes and a 32-bit size for each dimension."""
    with gzip.open(DATASET / f"{name}.gz") as file:
        content = file.read()
    sides = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sides)).reshape(sides)


def batches(images):
    for start in range(0, len(images), BATCH):
        grey = images[start : start + BATCH, None].astype(np.float32) / 255
        yield (np.repeat(grey, 3, axis=1) - MEAN) / STD


def read_test_set():
    """Images (10000, 32, 32) uint8, padded as the shared checkpoint was trained, and labels; skips where absent."""
    if not DATASET.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    images = np.pad(read_idx("t10k-images-idx3-ubyte"), ((0, 0), (2, 2), (2, 2)))
    return images, read_idx("t10k-labels-idx1-ubyte")


def torch_predictions(checkpoint, images):
    """The likeliest class of each image by timm's own model, with the ``.pth.tar`` that timm's trainer wrote."""
    import torch

    from torch_ref.model import create_model

    reference = create_model("dla46_c", num_classes=10)
    reference.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    with torch.no_grad():
        return np.concatenate([reference(torch.from_numpy(x)).numpy().argmax(1) for x in batches(images)])
