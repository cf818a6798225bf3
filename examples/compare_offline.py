"""Compare on machines with one framework each: record here, record there, compare anywhere.

    python examples/compare_offline.py out/offline

Layers are compared by their names, so both sides have the same ones.
"""

import sys
from pathlib import Path

import numpy as np


def record_reference(folder, inputs):
    """On the machine with torch: record the reference, and return its weights."""
    import torch

    from alignment import record_torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    record_torch(model, inputs, folder)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def record_port(folder, inputs, weights):
    """On the machine with Paddle: load the weights and record the port."""
    import paddle

    from alignment import record_paddle

    layer = paddle.nn.Sequential(paddle.nn.Linear(6, 8), paddle.nn.ReLU(), paddle.nn.Linear(8, 3))
    layer.set_state_dict({name: array.T if array.ndim == 2 else array for name, array in weights.items()})
    record_paddle(layer, inputs, folder)


def main(folder):
    """Record both sides and compare them; the comparison itself needs no framework."""
    from alignment import compare_records

    inputs = np.random.default_rng(0).standard_normal((4, 6))
    weights = record_reference(Path(folder, "torch"), inputs)
    record_port(Path(folder, "paddle"), inputs, weights)
    print(compare_records(Path(folder, "torch"), Path(folder, "paddle")).verdict())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "out/offline")
