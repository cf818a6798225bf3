"""What the labels are called.

A file of class names has one class a line, in the order of the labels: a name, or an identifier (ImageNet's
``n01440764``), a tab and a name. ``imagenet_classes.tsv`` is made from WordNet by ``scripts/make_imagenet_classes.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from paddle_dla.data.errors import DataError

IMAGENET = Path(__file__).parent / "imagenet_classes.tsv"


@dataclass(frozen=True)
class ClassNames:
    """``ids[label]`` is what folders are called, ``names[label]`` what people read; the same where there is but one."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def short(self, label: int) -> str:
        """The first of the synonyms."""
        return self.names[label].split(",")[0]


def read_class_names(path: str | os.PathLike[str]) -> ClassNames:
    """Raises ``DataError`` where the file is missing, empty, or names a class twice."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the class names in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the class names in {path} are no UTF-8 text") from error
    rows = [line.strip().split("\t", 1) for line in lines if line.strip()]
    if not rows:
        raise DataError(f"{path} names no classes: one a line is expected, in the order of the labels")
    ids = tuple(row[0] for row in rows)
    twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"{path} names {twice[0]!r} twice; a class has one line")
    return ClassNames(ids, tuple(row[-1] for row in rows))


def imagenet_class_names() -> ClassNames:
    """The 1,000 classes of ImageNet-1k (ILSVRC 2012)."""
    return read_class_names(IMAGENET)


def default_class_names(num_classes: int) -> ClassNames | None:
    """ImageNet's where a model has 1,000 classes, else none."""
    return imagenet_class_names() if num_classes == 1000 else None
