"""A trained model as commands need it: the network in evaluation mode with what belongs to its weights.

Which variant, how many classes, which preprocessing: all of it is read from the checkpoint where it is recorded there,
so that a command line names the file and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paddle_dla.checkpoint import load_weights, recorded_preprocessing, refuse_folder
from paddle_dla.data.class_names import ClassNames, NamedBy, default_class_names, recorded_class_names
from paddle_dla.models.adapt import HEAD, STEM
from paddle_dla.models.dla import DLA
from paddle_dla.models.factory import create_model, load_arrays
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import resolve_name
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path, read_manifest


@dataclass(frozen=True)
class LoadedModel:
    """``layer`` is in evaluation mode; ``class_names`` is ``None`` where nobody tells them, else ``named_by`` says who;
    ``source`` is a file or hub id."""

    name: str
    layer: DLA
    num_classes: int
    preprocessing: Preprocessing
    class_names: ClassNames | None
    named_by: NamedBy
    source: str


def load_model(name: str | None, checkpoint: str | None, num_classes: int | None = None) -> LoadedModel:
    """The model with the weights of ``checkpoint``, by default those that timm publishes for it.

    ``name`` may be left out where the checkpoint has a manifest. Raises ``ValueError`` for an unknown name or none,
    and ``CheckpointError`` where the weights cannot be had, do not fit, or have other than ``num_classes`` classes.
    """
    if checkpoint is not None:
        refuse_folder(checkpoint)
    manifest = _manifest(checkpoint)
    if name is None and manifest is None:
        raise ValueError("which model? --model names it (only a file with a manifest beside it knows by itself)")
    name = resolve_name(name or manifest["model"])
    source = checkpoint or PRETRAINED[name].hub_id
    arrays = load_weights(source, name)
    classes, channels = _sizes(arrays, source)
    if num_classes not in (None, classes):
        raise CheckpointError(f"{source} has {classes} classes, not {num_classes}")
    pool = (manifest or {}).get("global_pool", "avg")
    layer = create_model(name, num_classes=classes, in_chans=channels, global_pool=pool)
    load_arrays(layer, arrays, source)
    layer.eval()
    recorded = recorded_preprocessing(manifest or {}, source)
    preprocessing = recorded or PRETRAINED[name].preprocessing.with_channels(channels)
    names, named_by = _class_names(manifest or {}, classes, source)
    return LoadedModel(name, layer, classes, preprocessing, names, named_by, source)


def _class_names(manifest: dict, num_classes: int, source: str) -> tuple[ClassNames | None, NamedBy]:
    if manifest.get("classes") is None:
        return default_class_names(num_classes)
    try:
        return recorded_class_names(manifest["classes"], num_classes), NamedBy.WEIGHTS
    except ValueError as error:
        raise CheckpointError(f"{manifest_path(source)}: {error}") from error


def _manifest(checkpoint: str | None) -> dict | None:
    if checkpoint is None or not manifest_path(checkpoint).exists():
        return None
    return read_manifest(checkpoint)


def _sizes(arrays: dict[str, np.ndarray], source: str) -> tuple[int, int]:
    """Classes and input channels of the weights."""
    missing = [name for name in (HEAD[0], STEM) if name not in arrays]
    if missing:
        raise CheckpointError(f"{source} is no classifier of this family: it has no {missing[0]}")
    return arrays[HEAD[0]].shape[0], arrays[STEM].shape[1]
