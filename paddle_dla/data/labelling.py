"""Assign labels to the samples of a data set, and report how they were assigned.

The index of a class is meaningful only with its weights: if a tree of class folders lacks a class and is numbered in
its own order, every later class gets the index of another one. Labels are therefore assigned by name if the names are
known. Otherwise the number of classes must be that of the model, and the user is informed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from paddle_dla.data.class_names import ClassNames, NamedBy
from paddle_dla.data.errors import DataError
from paddle_dla.data.folder import class_folders, open_folder
from paddle_dla.data.opening import is_tree, open_source
from paddle_dla.data.shards import ShardSource
from paddle_dla.data.source import FileSource, printable, shortened

SAID_BY = {
    NamedBy.FILE: "the class file",
    NamedBy.WEIGHTS: "the record of the weights",
    NamedBy.IMAGENET: "ImageNet's list",
}


def open_labelled(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    names: ClassNames | None,
    named_by: NamedBy,
    num_classes: int,
    strict: bool = True,
) -> FileSource | ShardSource:
    """Open a source for a model with ``num_classes`` classes; its ``notes`` say how labels were assigned.

    ``names`` are those of the model's classes, in the order of the labels, and come from ``named_by``. ``strict=False``
    is for callers that do not use labels as classes of the model: data with other classes is then numbered in its own
    order. Raises ``DataError`` if the classes of the data are not those of the model, and the errors of
    ``open_source``.
    """
    if is_tree(path) and root is None:
        source, how = _open_tree(os.path.expanduser(os.fspath(path)), names, named_by, num_classes, strict)
    else:
        source = open_source(path, root, None, num_classes if strict else None)
        how = _check_recorded(source, path, names, named_by, num_classes) if strict else "as the data numbers them"
        if names is not None and source.classes is None:
            source.classes = list(names.ids)
    source.notes = (*source.notes, printable(f"labels: {how}"))
    return source


def _open_tree(
    path: str, names: ClassNames | None, named_by: NamedBy, num_classes: int, strict: bool
) -> tuple[FileSource, str]:
    folders = class_folders(path)
    ids = () if names is None else names.ids
    strangers = sorted(set(folders) - set(ids))
    binding = strict and named_by in (NamedBy.FILE, NamedBy.WEIGHTS)
    if strangers and binding:
        raise DataError(
            f"{path}: {SAID_BY[named_by]} does not name the folder {shortened(strangers)}; it names {shortened(ids)}. "
            "Rename the folder, or name the model's classes with --classes FILE"
        )
    if strangers and strict and len(folders) < num_classes:  # with more, one has a label out of range
        raise DataError(
            f"{path}: has {len(folders)} class folders, the model has {num_classes} classes, and nothing tells which "
            "of them these are. Name the model's classes with --classes FILE, one a line in the order of the labels, "
            "or those that the data has with --valid-labels FILE"
        )
    if strangers:
        source = open_folder(path, None, num_classes if strict else None)
        return source, f"class folders of {path}, numbered in natural order: {_numbered(folders)}"
    source = open_folder(path, {name: label for label, name in enumerate(ids)}, num_classes if strict else None)
    return source, f"class folders of {path}, numbered by {SAID_BY[named_by]}{_absent(ids, folders)}"


def _numbered(names: Sequence[str]) -> str:
    return shortened([f"{label} {name}" for label, name in enumerate(names)])


def _absent(ids: Sequence[str], folders: Sequence[str]) -> str:
    there = set(folders)
    absent = [name for name in ids if name not in there]
    return f"; {len(absent)} of {len(ids)} classes have no folder here: {shortened(absent)}" if absent else ""


def _check_recorded(
    source: FileSource | ShardSource,
    path: str | os.PathLike[str],
    names: ClassNames | None,
    named_by: NamedBy,
    num_classes: int,
) -> str:
    """Describe the labels of data that number their classes themselves. Raises ``DataError`` for other classes."""
    if isinstance(source, FileSource) and names is not None:
        check_folders(source, path, names.ids, SAID_BY[named_by])
    if source.classes is None:
        return f"numbers of {path}, taken as indices of the model's {num_classes} classes"
    if names is None or not comparable(source.classes, names, named_by):
        if len(source.classes) != num_classes:
            raise DataError(f"{path}: has {len(source.classes)} classes where the model has {num_classes}")
        return f"numbers of {path}, which calls them {_numbered(source.classes)}"
    differing = differences(source.classes, names)
    if differing:
        raise DataError(
            f"{path}: numbers its classes otherwise than the model: {shortened(differing)}; write the shards again "
            "with the model's class names (scripts/make_shards.py --classes)"
        )
    return f"numbers of {path}, whose class names are those of {SAID_BY[named_by]}{_absent(names.ids, source.classes)}"


def check_folders(source: FileSource, path: str | os.PathLike[str], ids: Sequence[str], said_by: str) -> None:
    """Raise ``DataError`` if a list gives a file another label than that of the class folder that contains it.

    ``ids`` are the folder names of the classes, in the order of the labels, and come from ``said_by``.
    """
    labels = {name: label for label, name in enumerate(ids)}
    for name, label in zip(source.names, source.labels.tolist()):
        folder = os.path.basename(os.path.dirname(name))
        if labels.get(folder, label) != label:
            raise DataError(
                f"{path}: {printable(name)} has label {label}, but {folder} is {labels[folder]} by {said_by}: the list "
                "numbers its classes differently; write it again"
            )


def comparable(classes: Sequence[str], names: ClassNames, named_by: NamedBy) -> bool:
    """Return whether the ``classes`` of data and the ``names`` of a model use the same naming.

    ImageNet's names are only assumed for a model with as many classes: data that use none of them have their own names.
    """
    return named_by is not NamedBy.IMAGENET or set(classes) <= set(names.ids)


def differences(classes: Sequence[str], names: ClassNames) -> list[str]:
    """Describe the labels whose class differs between data and model; an empty name matches any."""
    theirs = [*names.ids, *["nothing"] * (len(classes) - len(names.ids))]
    return [
        f"{label} is {data} in the data, {model} in the model"
        for label, (data, model) in enumerate(zip(classes, theirs))
        if data not in ("", model)
    ]
