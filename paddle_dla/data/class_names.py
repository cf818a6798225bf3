"""The names of the labels.

A file of class names has one class per line, in the order of the labels: a name, or an identifier (ImageNet's
``n01440764``), a tab and a name. ``imagenet_classes.tsv`` is made from WordNet by ``scripts/make_imagenet_classes.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from paddle_dla.data.errors import DataError
from paddle_dla.errors import WrongValue
from paddle_dla.storage.regular import lines_of, read_text

IMAGENET = Path(__file__).parent / "imagenet_classes.tsv"


class NamedBy(Enum):
    """Where the class names of a model come from."""

    FILE = "a file that the user names"
    WEIGHTS = "the record that lies beside the weights"
    IMAGENET = "ImageNet, which has as many classes"
    NOBODY = "nobody"


@dataclass(frozen=True)
class ClassNames:
    """``ids[label]`` is the folder name, ``names[label]`` the display name; equal if there is only one."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def of(self, labels: Sequence[int]) -> ClassNames:
        """Return the names of some labels, in their order."""
        return ClassNames(tuple(self.ids[label] for label in labels), tuple(self.names[label] for label in labels))

    def short(self, label: int) -> str:
        """Return the first of the synonyms."""
        return self.names[label].split(",")[0]


def read_class_names(path: str | os.PathLike[str]) -> ClassNames:
    """Read a file of class names. Raises ``DataError`` if it is missing, empty, or names a class twice."""
    try:
        lines = lines_of(read_text(path))
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
    """Return the 1,000 classes of ImageNet-1k (ILSVRC 2012)."""
    return read_class_names(IMAGENET)


def default_class_names(num_classes: int) -> tuple[ClassNames | None, NamedBy]:
    """Return ImageNet's names for a model with 1,000 classes, else none."""
    return (imagenet_class_names(), NamedBy.IMAGENET) if num_classes == 1000 else (None, NamedBy.NOBODY)


def recorded_class_names(ids: Sequence[str], num_classes: int) -> ClassNames:
    """Return the names recorded with weights; ImageNet's identifiers get their display names.

    If fewer names are recorded than the model has classes, the last classes are named by their number. Raises
    ``ValueError`` for more names, equal ones, and anything but a list of texts.
    """
    if not isinstance(ids, (list, tuple)) or not all(isinstance(name, str) for name in ids):
        raise WrongValue(f"class names are a list of texts, not {str(ids)[:80]}")
    ids = [*ids, *map(str, range(len(ids), num_classes))]
    if len(ids) > num_classes or len(set(ids)) < len(ids):
        raise WrongValue(f"{len(ids)} class names, {len(set(ids))} of them different, for {num_classes} classes")
    imagenet = imagenet_class_names()
    readable = dict(zip(imagenet.ids, imagenet.names))
    return ClassNames(tuple(ids), tuple(readable.get(name, name) for name in ids))


def chosen_class_names(
    file: str | None, known: ClassNames | None, known_by: NamedBy, num_classes: int
) -> tuple[ClassNames | None, NamedBy]:
    """Return the names in ``file``, if the user gives one, else those that are ``known``.

    Raises ``ValueError`` if the number of names in the file is not the model's number of classes, or if their order
    differs from that of the training.
    """
    if file is None:
        return known, known_by
    names = read_class_names(file)
    if len(names) != num_classes:
        raise WrongValue(f"{file} names {len(names)} classes, the model has {num_classes}")
    if known is not None and known_by is NamedBy.WEIGHTS:
        recorded = {name: label for label, name in enumerate(known.ids)}
        moved = [name for label, name in enumerate(names.ids) if recorded.get(name, label) != label]
        if moved:
            raise WrongValue(
                f"{file} numbers classes otherwise than the weights were trained with: {moved[0]} is "
                f"{names.ids.index(moved[0])} there and {recorded[moved[0]]} in the record; leave out --classes"
            )
    return names, NamedBy.FILE
