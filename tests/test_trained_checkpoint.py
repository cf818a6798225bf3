"""A really trained checkpoint on real images: the converted model scores what torch scores, image by image."""

import gzip
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_dla import create_model

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


@pytest.fixture(scope="module")
def test_set():
    if not DATASET.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    images = np.pad(read_idx("t10k-images-idx3-ubyte"), ((0, 0), (2, 2), (2, 2)))
    return images, read_idx("t10k-labels-idx1-ubyte")


def batches(images):
    for start in range(0, len(images), BATCH):
        grey = images[start : start + BATCH, None].astype(np.float32) / 255
        yield (np.repeat(grey, 3, axis=1) - MEAN) / STD


def paddle_predictions(checkpoint, images):
    model = create_model("dla46_c", pretrained=checkpoint, num_classes=10)
    model.eval()
    with paddle.no_grad():
        return np.concatenate([model(paddle.to_tensor(x)).numpy().argmax(1) for x in batches(images)])


@pytest.mark.slow
def test_the_converted_model_scores_what_the_original_scores(shared_data, test_set):
    images, labels = test_set
    predicted = paddle_predictions(shared_data / "checkpoints/dla46_c_fashion_mnist.safetensors", images)
    assert len(labels) == 10_000
    assert (predicted == labels).sum() == 8711  # 87.11 %, measured under torch


@pytest.mark.slow
@pytest.mark.torch
def test_every_prediction_is_that_of_torch(shared_data, test_set):
    import torch

    from torch_ref.model import create_model as create_timm

    images, _ = test_set
    checkpoint = shared_data / "checkpoints/dla46_c_fashion_mnist.pth.tar"
    reference = create_timm("dla46_c", num_classes=10)
    reference.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    with torch.no_grad():
        expected = np.concatenate([reference(torch.from_numpy(x)).numpy().argmax(1) for x in batches(images)])
    np.testing.assert_array_equal(paddle_predictions(checkpoint, images), expected)
