"""Labels supplied by the user: reassessed ones, and the classes of ImageNet's variants."""

from __future__ import annotations

import os
from collections.abc import Sequence

from paddle_dla.data.errors import DataError
from paddle_dla.storage.json_record import parse_json
from paddle_dla.storage.regular import lines_of, read_text


def read_real_labels(path: str | os.PathLike[str]) -> dict[str, list[int]]:
    """Read ``{file name: labels}`` from ReaL's ``real.json``.

    The file is a list for ``ILSVRC2012_val_00000001.JPEG`` and so on, or a mapping of names.
    Source: https://github.com/google-research/reassessed-imagenet. Raises ``DataError`` for any other content.
    """
    content = _read_json(path)
    if isinstance(content, list):
        content = {f"ILSVRC2012_val_{number:08d}.JPEG": labels for number, labels in enumerate(content, start=1)}
    if not isinstance(content, dict) or not all(_are_labels(labels) for labels in content.values()):
        raise DataError(f"{path} holds no reassessed labels: expected is a list of lists of class numbers, as JSON")
    return content


def read_subset(path: str | os.PathLike[str], class_ids: Sequence[str], num_classes: int) -> list[int]:
    """Read the classes of a model that occur in a data set, one per line: numbers, or identifiers like ``n01440764``.

    Their order is that of the data's own labels, 0 for the first line, and so on. ``class_ids`` are the identifiers of
    the model's ``num_classes`` classes, empty if unknown. Raises ``DataError`` for an unknown class, or one that is
    named twice.
    """
    numbers = {name: label for label, name in enumerate(class_ids)} | {str(n): n for n in range(num_classes)}
    subset: list[int] = []
    for row, line in enumerate(lines_of(_read_text(path)), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in numbers:
            raise DataError(f"{path}, line {row}: {name!r} is no class of the model, which has {num_classes}")
        if numbers[name] in subset:
            raise DataError(f"{path}, line {row}: class {name} is there twice")
        subset.append(numbers[name])
    if not subset:
        raise DataError(f"{path} names no classes")
    return subset


def _read_text(path: str | os.PathLike[str]) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text") from error


def _read_json(path: str | os.PathLike[str]) -> object:
    try:
        return parse_json(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def _are_labels(labels: object) -> bool:
    return isinstance(labels, list) and all(type(label) is int and label >= 0 for label in labels)
