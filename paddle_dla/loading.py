"""Load a trained model for a command: the network in evaluation mode, and what is recorded with its weights.

Variant, number of classes and preprocessing are read from the checkpoint if it records them, so that a command line
needs only the file. A port must be named as well: a checkpoint never decides which source is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle import nn

from paddle_dla.data.class_names import ClassNames, NamedBy, default_class_names, recorded_class_names
from paddle_dla.errors import WrongValue
from paddle_dla.models.adapt_weights import Ends
from paddle_dla.models.factory import create_model, load_arrays
from paddle_dla.models.pretrained import IMAGENET_CLASSES
from paddle_dla.models.registry import Entry, ModelError, find_model, recorded_variant
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path, read_manifest
from paddle_dla.weight_files import load_weights, recorded_preprocessing, weight_file


@dataclass(frozen=True)
class LoadedModel:
    """A network with the records of its weights.

    ``layer`` is in evaluation mode. ``class_names`` is ``None`` if unknown; otherwise ``named_by`` says where they come
    from. ``source`` is a file or hub id. ``assumed`` gives the reason for ``preprocessing`` if it is not recorded with
    the weights. ``published`` is true unless something shows that the weights are not timm's.
    """

    name: str
    layer: nn.Layer
    num_classes: int
    preprocessing: Preprocessing
    class_names: ClassNames | None
    named_by: NamedBy
    source: str
    assumed: str = ""
    published: bool = False


def load_model(name: str | None, checkpoint: str | None, num_classes: int | None = None) -> LoadedModel:
    """Load the model with the weights of ``checkpoint``; by default those that timm publishes, or those of the port.

    ``name`` may be omitted if the checkpoint belongs to a DLA and has a manifest. Raises ``ValueError`` for an unknown
    or missing name, and ``CheckpointError`` if the weights are unavailable, do not fit, or have another number of
    classes than ``num_classes``.
    """
    if checkpoint is not None:
        checkpoint = weight_file(checkpoint)
    manifest = _manifest(checkpoint)
    entry = find_model(name or recorded_variant(manifest, checkpoint))
    source = checkpoint or entry.default_weights()
    if checkpoint is None and entry.folder is not None:
        manifest = _manifest(source)
    arrays = load_weights(source, entry.name, entry.place)
    classes, channels = _sizes(arrays, entry, source)
    if num_classes not in (None, classes):
        raise CheckpointError(f"{source} has {classes} classes, not {num_classes}")
    pool = (manifest or {}).get("global_pool", "avg")
    layer = create_model(entry.place, num_classes=classes, in_chans=channels, global_pool=pool)
    load_arrays(layer, arrays, source)
    layer.eval()
    recorded = recorded_preprocessing(manifest or {}, source)
    preprocessing = recorded or entry.card.preprocessing.with_channels(channels)
    names, named_by = _class_names(manifest or {}, classes, source)
    return LoadedModel(
        entry.name, layer, classes, preprocessing, names, named_by, source,
        "" if recorded else _assumed(entry, source), entry.published is not None and _may_be_timms(manifest, classes),
    )  # fmt: skip


def _may_be_timms(manifest: Mapping[str, Any] | None, classes: int) -> bool:
    """Return whether these may be timm's published weights: not trained here, not random, not for other classes."""
    origin = (manifest or {}).get("source") or {}
    return classes == IMAGENET_CLASSES and "training" not in origin and "timm.create_model(" not in str(origin)


def _assumed(entry: Entry, source: str) -> str:
    """Return the reason for using the preprocessing of the model's card."""
    whose = "timm's for this model" if entry.published else "that of the card of this model"
    return entry.card.assumed or f"{source} records none; it is {whose}"


def _class_names(manifest: dict, num_classes: int, source: str) -> tuple[ClassNames | None, NamedBy]:
    if manifest.get("classes") is None:
        return default_class_names(num_classes)
    try:
        return recorded_class_names(manifest["classes"], num_classes), NamedBy.WEIGHTS
    except WrongValue as error:
        raise CheckpointError(f"{manifest_path(source)}: {error}") from error


def _manifest(checkpoint: str | None) -> dict | None:
    if checkpoint is None or not manifest_path(checkpoint).exists():
        return None
    return read_manifest(checkpoint)


def _sizes(arrays: Mapping[str, np.ndarray], entry: Entry, source: str) -> tuple[int, int]:
    """Return the number of classes and of input channels of the weights.

    Falls back to those of the model if its card does not name the layers that determine them.
    """
    ends = Ends.of(entry.card)
    missing = [name for name in (*ends.head[:1], ends.stem) if name and name not in arrays]
    if missing:
        raise CheckpointError(f"{source} is no classifier of this family: it has no {missing[0]}")
    classes, channels = ends.classes(arrays) or entry.card.num_classes, ends.channels(arrays) or entry.card.in_chans
    if classes is None:
        raise ModelError(f"{entry.place} is not a classifier: its card has neither classifier nor num_classes")
    if channels is None:
        raise ModelError(f"{entry.place} takes no images: its card says neither first_conv nor in_chans")
    return classes, channels
