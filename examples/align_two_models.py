"""Compare a torch module with a Paddle layer: load the weights, compare every layer, write a page.

    python examples/align_two_models.py

In training mode the report names a difference that Paddle itself makes: its BatchNorm keeps the biased variance.
"""

import paddle
import torch

from alignment import align, transfer


class Reference(torch.nn.Module):
    """A block with two convolutions and a residual."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(8, 16, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(16)
        self.conv2 = torch.nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


class Port(paddle.nn.Layer):
    """The same in Paddle, with names of its own."""

    def __init__(self):
        super().__init__()
        self.expand = paddle.nn.Conv2D(8, 16, 3, padding=1)
        self.bn = paddle.nn.BatchNorm2D(16)
        self.project = paddle.nn.Conv2D(16, 8, 1)

    def forward(self, x):
        y = paddle.nn.functional.relu(self.bn(self.expand(x)))
        return x + self.project(y)


def main():
    """Compare the two in evaluation and in training mode."""
    reference, port, inputs = Reference(), Port(), torch.randn(2, 8, 32, 32)
    key_map = transfer(reference, port, inputs)  # raises KeyMapError if the tensors cannot be paired
    for mode in ("eval", "train"):
        report = align(reference, port, inputs, key_map=key_map, mode=mode)
        print(f"{mode}: {report.verdict()}")
        report.to_html(f"out/align_{mode}.html")


if __name__ == "__main__":
    main()
