"""Keep a port aligned: tests for your own repository.

    pytest examples/test_a_port.py
"""

import paddle
import pytest
import torch

from alignment import align, transfer


@pytest.fixture(scope="module")
def models():
    """The reference, its port with the same weights, inputs, and which tensor is which."""
    reference = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.GELU())
    port = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.BatchNorm2D(8), paddle.nn.GELU())
    inputs = torch.randn(2, 3, 16, 16)
    return reference, port, inputs, transfer(reference, port, inputs)


def test_the_port_is_aligned(models):
    reference, port, inputs, key_map = models
    report = align(reference, port, inputs, key_map=key_map)
    assert report, report.verdict()


def test_training_differs_in_the_running_variance_alone(models):
    reference, port, inputs, key_map = models
    report = align(reference, port, inputs, key_map=key_map, mode="train")
    assert [(culprit.layer, culprit.kind) for culprit in report.culprits] == [("1", "state")]
