"""Plant a typical porting mistake in a correct port, and see how the report names it.

    python examples/find_a_planted_fault.py
"""

import paddle
import torch

from alignment import align, transfer


def reference():
    """A small classifier."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.Hardswish(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 5),
    )


def port(momentum=0.9, padding=1):
    """The same in Paddle, whose momentum is 1 minus torch's."""
    return paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 16, 3, stride=2, padding=padding),
        paddle.nn.BatchNorm2D(16, momentum=momentum),
        paddle.nn.Hardswish(),
        paddle.nn.AdaptiveAvgPool2D(1),
        paddle.nn.Flatten(),
        paddle.nn.Linear(16, 5),
    )


def main():
    """Compare a correct port and three wrong ones."""
    torch.manual_seed(0)
    original, inputs = reference(), torch.randn(2, 3, 33, 33)
    cases = {
        "no mistake": (port(), "eval"),
        "padding on one side only": (port(padding=[1, 0, 1, 0]), "eval"),
        "momentum as torch writes it": (port(momentum=0.1), "train"),
    }
    for name, (layer, mode) in cases.items():
        transfer(original, layer, inputs)
        report = align(original, layer, inputs, mode=mode)
        print(f"{name}: {report.verdict()}")
        for culprit in report.culprits:
            print(f"  {culprit.layer}: {culprit.kind}: {culprit.cause}")


if __name__ == "__main__":
    main()
