"""What scripts/test_two_nodes.sh trains and compares: ``two_nodes.py prepare FOLDER``, ``compare FOLDER RUN RUN``.

BatchNorm is frozen, so that an image's output does not depend on the others of its batch: two ranks of 4 images must
then do what one process does with the 8 together.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import nn
from small_runs import make_images, steps

from paddle_dla import create_model
from paddle_dla.storage.pdparams import write_pdparams

# of float32 means over 8 images in another order: 2**-24 a rounding, and a few dozen of them on the way
TOLERANCE = 1e-6
MODEL = "dla46_c"


def norms(model: nn.Layer) -> dict[str, nn.Layer]:
    """Its BatchNorms, by name."""
    return {name: layer for name, layer in model.named_sublayers() if isinstance(layer, nn.BatchNorm2D)}


def damped() -> nn.Layer:
    """A new model that halves in each BatchNorm: as they are, they would normalise nothing, and gradients overflow."""
    paddle.seed(0)
    model = create_model(MODEL, num_classes=4)
    for norm in norms(model).values():
        norm._variance.set_value(4 * norm._variance)
    return model


def config(folder: Path, frozen: list[str]) -> dict:
    """A training without random choices of the images, all layers but the ``frozen``."""
    return {
        "model": {"name": MODEL, "num_classes": 4, "pretrained": f"{folder}/start.pdparams"},
        "data": {"train": f"{folder}/images/train", "val": f"{folder}/images/val", "workers": 0},
        "transform": {
            "train": {"input_size": [3, 32, 32], "scale": [1.0, 1.0], "ratio": [1.0, 1.0], "hflip": 0.0},
            "eval": {"input_size": [3, 32, 32], "crop_pct": 1.0},
        },
        "loss": {"smoothing": 0.1},
        "optimizer": {"name": "nesterov", "lr": 0.05, "weight_decay": 1e-4},
        "schedule": {"name": "cosine", "per_epoch": False},
        "ema": {"enabled": True, "decay": 0.9},
        "train": {"epochs": 2, "threads": 1, "recovery_interval": 1, "log_interval": 1, "freeze": frozen},
    }


def prepare(folder: Path) -> None:
    """Images, weights and config."""
    make_images(folder / "images")
    model = damped()
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    write_pdparams(folder / "start.pdparams", arrays)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(folder, list(norms(model)))))


def losses(run: Path) -> np.ndarray:
    """The loss of each update over all ranks. Raises ``SystemExit`` where the ranks were not at one."""
    ranks = [steps(run, rank) for rank in range(len(list(run.glob("rank*.jsonl"))))]
    # equal gradients at every update, to the bit: equal parameters after each
    if len({tuple((item["step"], item["grad_norm"]) for item in rank) for rank in ranks}) != 1:
        raise SystemExit(f"{run}: the ranks differ")
    assert [item["step"] for item in ranks[0]] == list(range(1, 11))
    return np.mean([[item["loss"] for item in rank] for rank in ranks], axis=0)


def compare(run: Path, other: Path) -> None:
    """Print how far the losses of two runs are apart; raises ``SystemExit`` where it is more than rounding."""
    worst = float(np.max(np.abs(losses(run) / losses(other) - 1)))
    print(f"{run.name} and {other.name}: {len(losses(run))} updates, losses differ by {worst:.1e} relative at most")
    if not worst <= TOLERANCE:
        raise SystemExit(f"that is more than {TOLERANCE:g}")


if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    {"prepare": prepare, "compare": compare}[command](*map(Path, folders))
