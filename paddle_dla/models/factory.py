"""``create_model`` and ``list_models``: a name or a folder becomes a Paddle network, with weights if asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn

from paddle_dla.checkpoint import check_fit, load_weights
from paddle_dla.models import offered
from paddle_dla.models.adapt import HEAD, STEM, Ends, adapt_stem
from paddle_dla.models.dla import DLA, LEVELS, DLABackbone, DLAFeatures
from paddle_dla.models.fitting import set_state, shapes_of, tables_of, tied_in
from paddle_dla.models.ported import proved_network
from paddle_dla.models.registry import Entry, ModelError, find_model, list_places, users_code
from paddle_dla.models.variants import VARIANTS
from paddle_dla.storage.values import widened

LEVELS_OF_DLA = (1, 2, 3, 4, 5)


def list_models(pattern: str = "*") -> list[str]:
    """What ``create_model`` takes: names of variants, and folders of ports, that match a shell pattern."""
    return list_places(pattern)


def create_model(
    name: str | os.PathLike[str],
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int = 32,
) -> nn.Layer:
    """A network: a DLA by timm's name (``dla60``) or PaddleClas's (``DLA60``), a port by its folder, or
    ``package.module:function`` for one written by hand that has a card.

    ``pretrained``: ``True`` for timm's weights from the hub, or the port's own; a hub id (``timm/dla60.in1k``); or a
    file: a converted ``.pdparams`` or ``.safetensors``, whose manifest is verified, or a timm checkpoint, which is
    converted in memory. Another number of classes starts a new head, other input channels fold or repeat the stem's
    weights, both by timm's rules. ``drop_rate`` is the dropout of what the classifier reads, ``drop_path_rate`` the
    stochastic depth of the last block, for ports that have it (``None``: as it was ported). ``features_only`` returns
    the maps of the levels ``out_indices`` instead of logits: of a DLA 0 (stride 1) to 5 (stride 32), of a port those
    of its card. For DLA alone, ``output_stride`` 8 or 16 trades the last strides for dilation: the denser map, sampled
    at the original grid, is the original map.

    Without ``pretrained`` a port begins as Paddle initialises its layers, not as timm does; DLA as timm does.

    Raises ``ValueError`` for an unknown name or an unsupported option, before anything is built or read, and
    ``CheckpointError`` for weights that cannot be had or do not fit, with the way out.
    """
    entry = find_model(name)
    classes, channels = num_classes, in_chans
    if entry.published is None:
        if output_stride != 32:
            raise ModelError(f"output_stride is DLA's alone; the strides of {entry.name} are part of its source")
        offered.refuse_pool(entry.name, global_pool)
        model = _with_card(entry, classes, channels, drop_rate, drop_path_rate)
        if features_only:
            levels = range(len(entry.card.levels)) if out_indices is None else out_indices
            model = offered.features_of(model, list(levels))
    else:
        if drop_path_rate:
            raise ModelError(f"{entry.name} has no stochastic depth; leave out drop_path_rate")
        variant, channels = VARIANTS[entry.name], 3 if channels is None else channels
        if features_only:
            model = DLAFeatures(variant, LEVELS_OF_DLA if out_indices is None else out_indices, channels, output_stride)
        else:
            classes = 1000 if classes is None else classes
            model = DLA(variant, classes, channels, global_pool, drop_rate, output_stride)
    if pretrained:
        source = entry.default_weights() if pretrained is True else os.fspath(pretrained)
        load_arrays(model, load_weights(source, entry.name, entry.place), source)
    return model


def _with_card(
    entry: Entry, num_classes: int | None, in_chans: int | None, drop_rate: float, drop_path_rate: float | None
) -> nn.Layer:
    """A port or a network written by hand, as its card lets it be changed; weights as Paddle initialises them."""
    if entry.folder is not None:
        network = proved_network(entry.folder)
    else:
        assert entry.factory is not None  # it is neither a variant nor a port
        with users_code(entry.place), _paddle_as_before():
            network = entry.factory()
    if not isinstance(network, nn.Layer):
        raise ModelError(f"{entry.place} makes a {type(network).__name__}, not a paddle.nn.Layer")
    _refuse_other_types(network, entry.place)
    model = offered.offer(network, entry.card)
    if num_classes not in (None, model.num_classes):
        model.reset_classifier(num_classes)
    if in_chans not in (None, model.in_chans):
        offered.set_in_chans(model, in_chans)
    offered.set_drop_rate(model, drop_rate)
    if drop_path_rate is not None:
        offered.set_drop_path_rate(model, drop_path_rate)
    return model


@contextmanager
def _paddle_as_before() -> Iterator[None]:
    """Put back what a user's code changes of Paddle: the mode in which it runs, the type of what it makes."""
    dtype = paddle.get_default_dtype()
    try:
        yield
    finally:
        if not paddle.in_dynamic_mode():
            paddle.disable_static()
        paddle.set_default_dtype(dtype)


def _refuse_other_types(model: nn.Layer, place: str) -> None:
    """Raises ``ModelError`` for parameters of a type in which no images come, as after ``set_default_dtype``."""
    other = [f"{name}: {str(value.dtype).rpartition('.')[2]}" for name, value in model.named_parameters()
             if value.dtype != paddle.float32]  # fmt: skip
    if other:
        raise ModelError(f"{place} has parameters that are not float32, as images are: {', '.join(other[:3])}")


def load_arrays(model: nn.Layer, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Put ``{Paddle name: array}`` into ``model``, by the rules of ``create_model``; ``source`` is for messages.

    Raises ``CheckpointError`` where they do not fit; then nothing was loaded.
    """
    ends = ends_of(model)
    expected = shapes_of(model)
    arrays = widened(_without_unbuilt(arrays, model, ends))
    if ends.stem in arrays and ends.stem in expected:
        arrays[ends.stem] = adapt_stem(arrays[ends.stem], model.in_chans, ends.stem)
    head = [key for key in ends.head if key in arrays and key in expected]
    has, wanted = ends.classes(arrays), ends.classes(model.state_dict())
    if head and has != wanted:
        classes = f"{has} classes, the model {wanted}"
        warnings.warn(f"{source} has {classes}: the model keeps its own, untrained head", stacklevel=3)
        for key in head:
            del arrays[key], expected[key]
    check_fit(arrays, expected, source, tables_of(model), tied_in(model))
    # Paddle warns of each tensor that it is not given
    set_state(model, {**model.state_dict(), **arrays})


def ends_of(model: nn.Layer) -> Ends:
    """Which tensors of ``model`` depend on its input channels and classes."""
    return Ends(STEM, HEAD) if isinstance(model, DLABackbone) else Ends.of(model.card)


def _without_unbuilt(arrays: Mapping[str, np.ndarray], model: nn.Layer, ends: Ends) -> dict[str, np.ndarray]:
    """``arrays`` less what the model has no room for: a head where it has none, levels that are needless for it."""
    left_out = set() if getattr(model, "num_classes", 0) else {*ends.head}
    unbuilt = set()
    if isinstance(model, DLABackbone):
        unbuilt = {*LEVELS} - {info["module"] for info in model.feature_info}
    return {name: array for name, array in arrays.items() if name not in left_out and name.split(".")[0] not in unbuilt}
