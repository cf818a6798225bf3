"""A trained model as commands need it: the network in evaluation mode with what belongs to its weights.

Which variant, how many classes, which preprocessing: all of it is read from the checkpoint where it is recorded there,
so that a command line names the file and nothing else. A port is named too: a checkpoint never chooses which source
is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle import nn

from paddle_dla.checkpoint import load_weights, recorded_preprocessing, weight_file
from paddle_dla.data.class_names import ClassNames, NamedBy, default_class_names, recorded_class_names
from paddle_dla.errors import WrongValue
from paddle_dla.models.adapt import Ends
from paddle_dla.models.factory import create_model, load_arrays
from paddle_dla.models.pretrained import IMAGENET_CLASSES
from paddle_dla.models.registry import Entry, ModelError, find_model, port_folders
from paddle_dla.models.variants import VARIANTS
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path, read_manifest


@dataclass(frozen=True)
class LoadedModel:
    """``layer`` is in evaluation mode; ``class_names`` is ``None`` where nobody tells them, else ``named_by`` says who;
    ``source`` is a file or hub id; ``assumed`` says why where ``preprocessing`` is not recorded with the weights;
    ``published`` whether nothing says that they are others than timm's."""

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
    """The model with the weights of ``checkpoint``, by default those that timm publishes for it, or that a port holds.

    ``name`` may be left out where the checkpoint is of a DLA and has a manifest. Raises ``ValueError`` for an unknown
    name or none, and ``CheckpointError`` where the weights cannot be had, do not fit, or have other than
    ``num_classes`` classes.
    """
    if checkpoint is not None:
        checkpoint = weight_file(checkpoint)
    manifest = _manifest(checkpoint)
    entry = find_model(name or _recorded_variant(manifest, checkpoint))
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


def _recorded_variant(manifest: Mapping[str, Any] | None, checkpoint: str | None) -> str:
    """The variant that a checkpoint is of, by its manifest. Raises ``ModelError`` where that does not say, or a port.

    A port's source is run when it is opened: which one is for the user to say.
    """
    if manifest is None:
        raise ModelError("--model is required: this checkpoint has no manifest that names its model")
    name = manifest["model"]
    if name in VARIANTS:
        return name
    found = [str(folder) for folder in port_folders() if folder.name == name]
    raise ModelError(f"{checkpoint} is of {name}, a port: pass --model {' or --model '.join(found) or 'FOLDER'}")


def _may_be_timms(manifest: Mapping[str, Any] | None, classes: int) -> bool:
    """Whether the weights may be those that timm publishes: not trained here, not drawn, not of other classes."""
    origin = (manifest or {}).get("source") or {}
    return classes == IMAGENET_CLASSES and "training" not in origin and "timm.create_model(" not in str(origin)


def _assumed(entry: Entry, source: str) -> str:
    """Why it is believed that images are to be prepared as the model's card says."""
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
    """Classes and input channels of the weights; those of the model where its card names no layer that says."""
    ends = Ends.of(entry.card)
    missing = [name for name in (*ends.head[:1], ends.stem) if name and name not in arrays]
    if missing:
        raise CheckpointError(f"{source} is no classifier of this family: it has no {missing[0]}")
    classes, channels = ends.classes(arrays) or entry.card.num_classes, ends.channels(arrays) or entry.card.in_chans
    if classes is None:
        raise ModelError(f"{entry.place} is no classifier: its card says neither classifier nor num_classes")
    if channels is None:
        raise ModelError(f"{entry.place} takes no images: its card says neither first_conv nor in_chans")
    return classes, channels
