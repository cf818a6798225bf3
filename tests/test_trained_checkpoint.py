"""A really trained checkpoint on real images: the converted model scores what torch scores, image by image."""

import numpy as np
import paddle
import pytest
from fashion import batches, read_test_set, torch_predictions

from paddle_dla import create_model


@pytest.fixture(scope="module")
def test_set():
    return read_test_set()


@pytest.fixture(scope="module")
def predicted(shared_data, test_set):
    """The likeliest class of each image by the converted model."""
    checkpoint = shared_data / "checkpoints/dla46_c_fashion_mnist.safetensors"
    model = create_model("dla46_c", pretrained=checkpoint, num_classes=10)
    model.eval()
    with paddle.no_grad():
        return np.concatenate([model(paddle.to_tensor(x)).numpy().argmax(1) for x in batches(test_set[0])])


@pytest.mark.heavy
def test_the_converted_model_scores_what_the_original_scores(predicted, test_set):
    _, labels = test_set
    assert len(labels) == 10_000
    assert (predicted == labels).sum() == 8711  # 87.11 %, measured under torch


@pytest.mark.heavy
@pytest.mark.torch
def test_every_prediction_is_that_of_torch(shared_data, predicted, test_set):
    """The first 2,000; of all 10,000 in the heavy tests of test_fashion_evaluation.py."""
    checkpoint = shared_data / "checkpoints/dla46_c_fashion_mnist.pth.tar"
    np.testing.assert_array_equal(predicted[:2000], torch_predictions(checkpoint, test_set[0][:2000]))
