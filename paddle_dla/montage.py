"""A picture of images as the model sees them, each with its likeliest classes. Needs matplotlib (extra ``plots``)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.decoding import decode
from paddle_dla.data.source import FileSource
from paddle_dla.drawing import figure_in
from paddle_dla.metrics import Predictions
from paddle_dla.storage.shown import shown
from paddle_dla.subject import Subject

MOST = 40  # largest number of images in a picture
COLUMNS = 5
LETTERS = 34  # largest length of a name beside a bar


def draw_montage(path: str | os.PathLike[str], predictions: Predictions, source: FileSource, subject: Subject) -> int:
    """Write the picture of the first ``MOST`` images; returns how many it shows."""
    count = min(len(predictions), MOST)
    columns = max(min(count, COLUMNS), 1)
    rows = max(-(-count // columns), 1)
    transform = EvalTransform(subject.preprocessing)
    with figure_in(path, (3.2 * columns, 4.4 * rows)) as figure:
        grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.4, 1] * rows)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            above.axis("off")
            below.axis("off")
            if place < count:
                index = int(predictions.indices[place])
                _draw_image(above, transform(decode(source.read(index))), source.name(index))
                _draw_classes(below, predictions, place, subject)
    return count


def _draw_image(axes: Any, pixels: np.ndarray, name: str) -> None:
    axes.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="grey", vmin=0, vmax=255)
    axes.set_title(_cut(os.path.basename(name)), size=8, parse_math=False)


def _draw_classes(axes: Any, predictions: Predictions, place: int, subject: Subject) -> None:
    """Draw the classes as horizontal bars, the likeliest on top, with the names over them."""
    probabilities = predictions.probabilities[place]
    heights = range(len(probabilities))
    axes.barh(heights, probabilities, color="#9ecae1", height=0.85)
    for height, (label, probability) in enumerate(zip(predictions.classes[place], probabilities)):
        name = _cut(subject.class_name(int(label)).split(",")[0])
        axes.text(0.01, height, name, va="center", size=7.5, parse_math=False)
        axes.text(1.0, height, f"{100 * probability:.1f} %", va="center", ha="right", size=7.5)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()


def _cut(text: str) -> str:
    text = shown(text)
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
