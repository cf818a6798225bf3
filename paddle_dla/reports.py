"""Output files of an evaluation: tables and a picture. Each file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle_dla.drawing import figure_in
from paddle_dla.errors import WrongValue
from paddle_dla.metrics import Predictions, per_class, worst_confusions
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.csv_text import write_rows
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.shown import shown

MOST_ON_AXIS = 40
"""Characters of a class name that fit beside a picture of the size drawn here."""

Name = Callable[[int], str]
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


def write_csv(path: str | os.PathLike[str], table: Table) -> None:
    """Write a header and rows as CSV."""
    with atomic_path(path) as part:
        fill_csv(part, table)


def fill_csv(path: str | os.PathLike[str], table: Table) -> None:
    """Like ``write_csv``, for callers that make the write atomic themselves."""
    header, rows = table
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        write_rows(file, [header])
        write_rows(file, rows)


def write_jsonl(path: str | os.PathLike[str], table: Table) -> None:
    """Write one JSON object per line."""
    header, rows = table
    with atomic_path(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(to_json(dict(zip(header, row)), ensure_ascii=False) + "\n")


def write_table(path: str | os.PathLike[str], table: Table) -> None:
    """Write a table in the format of the suffix, ``.csv`` or ``.jsonl``. Raises ``ValueError`` for another."""
    check_table_suffix(path)
    (write_csv if Path(path).suffix == ".csv" else write_jsonl)(path, table)


def check_table_suffix(path: str | os.PathLike[str]) -> None:
    """Raise ``ValueError`` for a suffix other than ``.csv`` and ``.jsonl``."""
    if Path(path).suffix not in (".csv", ".jsonl"):
        raise WrongValue(f"{path}: a table is written as .csv or .jsonl")


def sample_table(predictions: Predictions, sample_name: Name) -> Table:
    """Return one row per sample: its name, label, loss, and the ranked classes with their probabilities."""
    ranks = range(1, predictions.classes.shape[1] + 1)
    header = ["index", "name", "label", "loss"] + [f"{what}{k}" for k in ranks for what in ("class", "probability")]
    return header, _sample_rows(predictions, sample_name)


def _sample_rows(predictions: Predictions, sample_name: Name) -> Iterable[list[Any]]:
    columns = (predictions.indices, predictions.labels, predictions.losses, predictions.classes)
    probabilities = predictions.probabilities
    for index, label, loss, classes, row in zip(*(column.tolist() for column in columns), probabilities):
        ranked = [value for pair in zip(classes, (f"{p:.6g}" for p in row)) for value in pair]
        yield [index, sample_name(index), label, f"{loss:.6g}", *ranked]


def class_table(predictions: Predictions, class_names: Sequence[str]) -> Table:
    """Return one row per class: number of samples and accuracies in percent, empty for a class without samples."""
    columns = per_class(predictions, len(class_names))
    rows = [
        [label, name, samples, *("" if np.isnan(value) else f"{value:.3f}" for value in accuracies)]
        for label, (name, samples, *accuracies) in enumerate(
            zip(class_names, *map(np.ndarray.tolist, columns.values()))
        )
    ]
    return ["label", "class", *columns], rows


def confusion_table(matrix: np.ndarray, class_names: Sequence[str]) -> Table:
    """Return the confusion matrix as a table: row the label, column the prediction."""
    return ["label \\ prediction", *class_names], ([name, *row] for name, row in zip(class_names, matrix.tolist()))


def draw_confusion(path: str | os.PathLike[str], matrix: np.ndarray, class_names: Sequence[str], title: str) -> None:
    """Draw the confusion matrix, each row in percent of its label, and the most frequent mistakes.

    Needs matplotlib (extra ``plots``).
    """
    with figure_in(path, (13, 6.5), dpi=120) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        figure.suptitle(shown(title), parse_math=False)
        _draw_matrix(left, matrix, class_names)
        _draw_worst(right, matrix, class_names)


def _draw_matrix(axes: Any, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="magma_r", vmin=0, vmax=100, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="% of the label's samples", shrink=0.8)
    axes.set(xlabel="prediction", ylabel="label")
    if len(class_names) > 40:
        return
    ticks = range(len(class_names))
    names = [shown(name, MOST_ON_AXIS) for name in class_names]
    axes.set_xticks(ticks, names, rotation=60, ha="right", parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    if len(class_names) <= 20:
        for row, column in np.ndindex(shares.shape):
            if round(shares[row, column]):
                colour = "white" if shares[row, column] > 50 else "black"
                axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, size=8)


def _draw_worst(axes: Any, matrix: np.ndarray, class_names: Sequence[str], count: int = 20) -> None:
    worst = worst_confusions(matrix, count)[::-1]
    names = [shown(name, MOST_ON_AXIS) for name in class_names]
    labels = [f"{names[label]} as {names[prediction]}" for label, prediction, _ in worst]
    axes.barh(range(len(worst)), [samples for *_, samples in worst], color="tab:red")
    axes.set_yticks(range(len(worst)), labels, size=8, parse_math=False)
    axes.set(xlabel="samples", title="mistakes made most often")
    axes.spines[["top", "right"]].set_visible(False)
