"""Golden files: what timm computes at every layer, as a few numbers a tensor that depend on every element of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy_weights import seeded

FOLDER = Path(__file__).parent / "golden"
PROJECTIONS = 4


@dataclass(frozen=True)
class Golden:
    """The layers of one run in order; ``names`` are ``path#call``, ``projections`` is (layers, PROJECTIONS)."""

    names: tuple[str, ...]
    projections: np.ndarray
    scales: np.ndarray


def fingerprint(name: str, array: np.ndarray) -> tuple[np.ndarray, float]:
    """Projections on random signs, scaled so that independent errors of size e change them by about e; the maximum."""
    signs = seeded(name).randint(0, 2, (PROJECTIONS, array.size)) * 2 - 1
    return signs @ array.reshape(-1) / np.sqrt(array.size), float(np.abs(array).max())


def load(model: str) -> Golden:
    """The golden file of a model."""
    with np.load(FOLDER / f"{model}.npz") as file:
        return Golden(tuple(map(str, file["names"])), file["projections"], file["scales"])


def save(model: str, golden: Golden) -> None:
    """Write the golden file of a model."""
    np.savez_compressed(
        FOLDER / f"{model}.npz", names=np.array(golden.names), projections=golden.projections, scales=golden.scales
    )
