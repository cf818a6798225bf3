"""Compare the training transforms of both sides with the same random numbers: crop, augmentation, erasing, mixing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from alignment.engine.pixels.images import Case, Tally, culprit
from alignment.engine.result import Culprit, Row
from paddle_dla.data.batch import Batch
from paddle_dla.data.decoding import decode
from paddle_dla.data.erasing import RandomErasing
from paddle_dla.data.mixing import Mixup
from paddle_dla.data.training import FromPixels
from paddle_dla.data.transforms import training_transform
from paddle_dla.preprocessing import Preprocessing

SEEDS = 3
BATCH = 6  # timm mixes only batches of an even number
CLASSES = 7
TRAINING = "training"
DRAWN = "different random numbers, or another number of them, were drawn"

ONLY_CROP: dict[str, Any] = {"hflip": 0.0, "color_jitter": None}
SAMPLE_CASES: dict[str, dict[str, Any]] = {
    "training crop": ONLY_CROP,
    "training crop, bicubic": {**ONLY_CROP, "interpolation": "bicubic", "scale": (0.3, 0.8)},
    "flips": {"hflip": 0.5, "vflip": 0.5, "color_jitter": None},
    "colour jitter": {"color_jitter": (0.4, 0.4, 0.4, 0.2)},
    "grey at times": {"grayscale_prob": 0.5},
    "RandAugment": {"auto_augment": "rand-m9-mstd0.5-inc1"},
    "AutoAugment": {"auto_augment": "original"},
    "3-Augment": {"auto_augment": "3a", "color_jitter": 0.3},
    "AugMix": {"auto_augment": "augmix-m5-w2"},
}
"""The recipes for a single image, by timm's names of options; each adds to a crop."""

ERASING_CASES: dict[str, dict[str, Any]] = {
    f"erasing, {mode}": {"probability": 0.8, "mode": mode, "max_count": 3} for mode in ("const", "rand", "pixel")
}
MIXING_CASES: dict[str, dict[str, Any]] = {
    f"{kind}, by {mode}": {"mode": mode, "num_classes": CLASSES, "label_smoothing": 0.1, **alphas}
    for kind, alphas in {
        "mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 0.0},
        "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
        "mixup or cutmix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    }.items()
    for mode in ("batch", "pair", "elem")
}

Compared = Iterator[tuple[Row, Culprit | None]]


def compare_samples(
    config: Mapping[str, Any], preprocessing: Preprocessing, files: Mapping[str, bytes], seed: int = 0
) -> Compared:
    """Compare every single-image recipe on every file, with ``SEEDS`` seeds starting at ``seed``.

    ``config``: timm's, see ``torch_ref.data.eval_config``.
    """
    from torch_ref.data import train_crop
    from torch_ref.draws import sample_draws

    for depth, (case, options) in enumerate(SAMPLE_CASES.items()):
        tally, first = Tally(case), []
        theirs = train_crop(config, **options)
        ours = FromPixels(training_transform(preprocessing, **options).sample, preprocessing.input_size[0])
        for (name, data), number in product(files.items(), range(seed, seed + SEEDS)):
            mine, timms = random.Random(number), random.Random(number)
            with sample_draws(timms):
                expected = theirs(data)
            actual = ours(decode(data), mine)
            _add(tally, first, f"{name} with seed {number}", expected, actual, mine.getstate() == timms.getstate())
        yield _judged(tally, first, depth)


def compare_batches(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Compared:
    """Compare erasing and mixing of (B, C, H, W) float32, normalised, and (B,) labels, for every recipe and seed."""
    from torch_ref.draws import batch_draws

    for depth, case in enumerate(ERASING_CASES | MIXING_CASES):
        tally, first = Tally(case), []
        for number in range(seed, seed + SEEDS):
            mine, timms = np.random.default_rng(number), np.random.default_rng(number)
            with batch_draws(timms):
                expected = timm_batch(case, images, labels)
            actual = paddle_batch(case, images, labels, mine)
            drawn_alike = mine.bit_generator.state == timms.bit_generator.state
            _add(tally, first, f"batch with seed {number}", expected, actual, drawn_alike)
        yield _judged(tally, first, depth)


def timm_batch(case: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return timm's images; for a mixing recipe followed by the targets, in one flat array."""
    from torch_ref.data import erase, mix

    if case in ERASING_CASES:
        return erase(images, **ERASING_CASES[case])
    return _joined(*mix(images, labels, **MIXING_CASES[case]))


def paddle_batch(case: str, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the same as ``timm_batch`` from this package, drawn from ``rng``."""
    batch = Batch(images.copy(), labels.copy(), np.arange(len(images)))
    if case in ERASING_CASES:
        return RandomErasing(**ERASING_CASES[case])(batch, rng, 0).images
    mixed = Mixup(**MIXING_CASES[case])(batch, rng, 0)
    return _joined(mixed.images, mixed.labels)


def _add(
    tally: Tally, first: list[Case], name: str, expected: np.ndarray, actual: np.ndarray, drawn_alike: bool
) -> None:
    same = tally.add(name, expected, actual)
    if not drawn_alike:
        tally.fail(name, DRAWN)
    if not (same and drawn_alike) and not first:
        first.append(Case(name, b"", tally.stage, expected, actual, "" if drawn_alike else DRAWN))


def _judged(tally: Tally, first: Sequence[Case], depth: int) -> tuple[Row, Culprit | None]:
    row = tally.row(depth, direction=TRAINING)
    return row, culprit(tally, list(first), None) if first else None


def _joined(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.concatenate([images.ravel(), targets.ravel()])


def batch_of(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return an even number of normalised images, repeated if there are too few, and labels."""
    chosen = np.stack([images[place % len(images)] for place in range(BATCH)])
    return chosen, np.arange(BATCH) % CLASSES
