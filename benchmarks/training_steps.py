"""A training step of dla60, in this project and in timm, by one recipe: what the benchmarks of training measure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, MOMENTUM, DECAY, RATE = 1000, 0.9, 1e-4, 0.01
WARM_UP = 2

Step = Callable[[np.ndarray, np.ndarray], Any]


def ours(batch: int, side: int, recompute: bool, threads: int) -> tuple[Step, Callable[[Path], None]]:
    """A step, and what writes a checkpoint into a folder."""
    import paddle

    from paddle_dla.config import parse_config
    from paddle_dla.data.batch import Batch
    from paddle_dla.ranks import Ranks
    from paddle_dla.training import checkpoints
    from paddle_dla.training.plan import Plan, Position
    from paddle_dla.training.start import build_learner, use_threads
    from paddle_dla.training.state import Circumstances, capture
    from paddle_dla.training.step import TrainStep

    config = parse_config(f"""
model: {{name: dla60}}
data: {{batch_size: {batch}}}
transform: {{train: {{input_size: [3, {side}, {side}]}}}}
optimizer: {{name: momentum, lr: {RATE}, momentum: {MOMENTUM}, weight_decay: {DECAY}, filter_bias_and_bn: false}}
schedule: {{name: constant}}
train: {{recompute: {str(recompute).lower()}}}
""")
    use_threads(threads)
    paddle.set_device("cpu")
    plan = Plan(config.total_epochs, 1000, batch_size=batch)
    learner = build_learner(config, plan, CLASSES)
    learner.network.train()
    made, update = TrainStep(learner, config, Ranks()), count()

    def step(images: np.ndarray, labels: np.ndarray) -> None:
        number = next(update)
        made.begin()
        indices = np.arange(len(images))
        made.accumulate(Batch(images, labels, indices), Position(0, number), 1.0, True, lambda loss: None)
        made.finish(number)

    around = Circumstances(config, plan, CLASSES, None, "cpu", 1)
    return step, lambda folder: checkpoints.write(folder, capture(learner, around, Position(0, 1), None))


def timms(channels_last: bool, threads: int) -> Step:
    import torch

    from torch_ref.model import create_model

    torch.set_num_threads(threads)
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = create_model("dla60", seed=0).to(memory_format=form)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step(images: np.ndarray, labels: np.ndarray) -> None:
        outputs = model(torch.from_numpy(images).to(memory_format=form))
        torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
