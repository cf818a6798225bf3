"""Images that the user points at, for calibration and for the check."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_dla.exporting import runner
from paddle_dla.exporting.errors import ExportError
from paddle_dla.preprocessing import Preprocessing

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_images(
    data: str | os.PathLike[str], preprocessing: Preprocessing, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``limit`` images, evenly spread over ``data``: (N, C, H, W) float32, normalised, and labels (N,).

    ``data`` is a tree of one folder for each class, a folder of images (label -1), or a file with ``path label``
    lines, relative to it. Raises ``ExportError`` where there are no images, or one cannot be read.
    """
    samples = _listed(Path(data))
    if not samples:
        raise ExportError(f"{data} has no images ({', '.join(SUFFIXES)})")
    # classes lie one after the other: the first ones alone would tell of few of them
    chosen = [samples[int(place)] for place in np.linspace(0, len(samples) - 1, min(limit, len(samples)))]
    images = np.stack([_read(path, preprocessing) for path, _ in chosen])
    return images, np.array([label for _, label in chosen], np.int64)


def _listed(data: Path) -> list[tuple[Path, int]]:
    if data.is_file():
        return _from_list(data)
    if not data.is_dir():
        raise ExportError(f"{data}: no such folder or list file")
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    classes = sorted({path.parent for path in paths} - {data})
    labels = {folder: number for number, folder in enumerate(classes)}
    return [(path, labels.get(path.parent, -1)) for path in paths]


def _from_list(file: Path) -> list[tuple[Path, int]]:
    samples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise ExportError(f"{file}, line {number}: expected 'path label', got {line!r}")
        samples.append((file.parent / name, int(label)))
    return samples


def _read(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    try:
        return runner.preprocess(os.fspath(path), preprocessing.as_dict())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ExportError(f"cannot read the image {path}: {error}") from error
