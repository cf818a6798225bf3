"""``create_model`` and ``list_models``: a name becomes a Paddle network, with weights where they are asked for."""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from paddle_dla.checkpoint import check_fit, load_weights
from paddle_dla.models.adapt import HEAD, STEM, adapt_stem
from paddle_dla.models.dla import DLA, LEVELS, DLAFeatures
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.storage.values import widened


def list_models(pattern: str = "*") -> list[str]:
    """Names of the variants, as timm spells them, that match a shell pattern."""
    return fnmatch.filter(VARIANTS, pattern)


def create_model(
    name: str,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    features_only: bool = False,
    out_indices: Sequence[int] = (1, 2, 3, 4, 5),
    output_stride: int = 32,
) -> DLA | DLAFeatures:
    """A DLA network, by timm's name (``dla60``) or PaddleClas's (``DLA60``).

    ``pretrained``: ``True`` for timm's weights from the hub; a hub id (``timm/dla60.in1k``); or a file: a converted
    ``.pdparams`` or ``.safetensors``, whose manifest is verified, or a timm checkpoint, which is converted in
    memory. Another number of classes starts a new head, other input channels fold or repeat the stem's weights, both
    by timm's rules. ``features_only`` returns the maps of the levels ``out_indices`` (0: stride 1, ... 5: stride 32)
    instead of logits. ``output_stride`` 8 or 16 trades the last strides for dilation: the denser map, sampled at the
    original grid, is the original map.

    Raises ``ValueError`` for an unknown name or an unsupported option, before anything is built or read, and
    ``CheckpointError`` for weights that cannot be had or do not fit, with the way out.
    """
    key = resolve_name(name)
    if features_only:
        model = DLAFeatures(VARIANTS[key], out_indices, in_chans, output_stride)
    else:
        model = DLA(VARIANTS[key], num_classes, in_chans, global_pool, drop_rate, output_stride)
    if pretrained:
        source = PRETRAINED[key].hub_id if pretrained is True else os.fspath(pretrained)
        load_arrays(model, load_weights(source, key), source)
    return model


def load_arrays(model: DLA | DLAFeatures, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Put ``{Paddle name: array}`` into ``model``, by the rules of ``create_model``; ``source`` is for messages.

    Raises ``CheckpointError`` where they do not fit; then nothing was loaded.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    arrays = widened(_without_unbuilt(arrays, model))
    if STEM in arrays:
        arrays[STEM] = adapt_stem(arrays[STEM], model.in_chans)
    head = [key for key in HEAD if key in arrays and key in expected]
    if any(arrays[key].shape[0] != expected[key][0] for key in head):
        classes = f"{arrays[head[0]].shape[0]} classes, the model {expected[head[0]][0]}"
        warnings.warn(f"{source} has {classes}: the model keeps its own, untrained head", stacklevel=3)
        for key in head:
            del arrays[key], expected[key]
    check_fit(arrays, expected, source)
    model.set_state_dict(arrays)


def _without_unbuilt(arrays: Mapping[str, np.ndarray], model: DLA | DLAFeatures) -> dict[str, np.ndarray]:
    """``arrays`` less what the model has no room for: a head where it has none, levels that are needless for it."""
    unbuilt = {"fc", *LEVELS} - {info["module"] for info in model.feature_info}
    if getattr(model, "num_classes", 0):
        unbuilt.remove("fc")
    return {name: array for name, array in arrays.items() if name.split(".")[0] not in unbuilt}
