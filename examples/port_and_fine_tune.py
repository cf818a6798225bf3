"""Port a model of timm, prove it, and fine-tune the port in Paddle on drawn shapes.

    python examples/port_and_fine_tune.py out/example_port

Takes about a minute. ``paddle-dla train`` does the same from a recipe, with checkpoints, schedules and logs.
"""

import sys
from pathlib import Path

import numpy as np


def port(folder):
    """Translate timm's smallest ResNet, compare it in both modes, and write the port."""
    import torch

    from convert import port_model
    from torch_ref.model import create_model

    torch.manual_seed(0)
    made = port_model(create_model("test_resnet", num_classes=3), [torch.randn(2, 3, 64, 64)], folder, overwrite=True)
    for mode, result in made.results.items():
        print(f"{mode}: {result.verdict()}")
    if not made.proved:
        raise SystemExit("the port is not aligned")


def draw(count, rng):
    """Images (N, 3, 64, 64) with a bright square (0), a bar (1) or a cross (2), and their classes (N,)."""
    labels = rng.integers(0, 3, count)
    images = rng.normal(0, 0.3, (count, 3, 64, 64)).astype("float32")
    for image, label in zip(images, labels):
        top, left = rng.integers(8, 40, 2)
        if label == 0:
            image[:, top : top + 16, left : left + 16] += 1
        if label >= 1:
            image[:, top + 6 : top + 10, left : left + 16] += 1
        if label == 2:
            image[:, top : top + 16, left + 6 : left + 10] += 1
    return images, labels


def fine_tune(folder, steps=60, batch=32):
    """Train the port; returns the share of new images that it classifies rightly before and after."""
    import paddle

    from paddle_dla import create_model

    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = create_model(str(folder), pretrained=True)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    before = accuracy(model, *draw(300, np.random.default_rng(1)))
    model.train()
    for _ in range(steps):
        images, labels = draw(batch, rng)
        loss = paddle.nn.functional.cross_entropy(model(paddle.to_tensor(images)), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return before, accuracy(model, *draw(300, np.random.default_rng(1)))


def accuracy(model, images, labels):
    """The share of images whose class is the likeliest."""
    import paddle

    model.eval()
    with paddle.no_grad():
        return float((model(paddle.to_tensor(images)).numpy().argmax(1) == labels).mean())


def main(folder):
    """Port, then fine-tune."""
    port(Path(folder))
    before, after = fine_tune(folder)
    print(f"accuracy before {before:.0%}, after {after:.0%}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "out/example_port")
