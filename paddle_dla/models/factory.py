"""``create_model`` and ``list_models``: build a Paddle network from a name or a folder, optionally with weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn

from paddle_dla.errors import Notice
from paddle_dla.models import interface
from paddle_dla.models.adapt_weights import HEAD, STEM, Ends, adapt_stem
from paddle_dla.models.dla import DLA, LEVELS, DLABackbone, DLAFeatures
from paddle_dla.models.expected_tensors import set_state, shapes_of, tables_of, tied_in
from paddle_dla.models.ported import proved_network
from paddle_dla.models.registry import Entry, ModelError, find_model, list_places, users_code
from paddle_dla.models.variants import VARIANTS
from paddle_dla.storage.values import widened
from paddle_dla.weight_files import check_fit, load_weights

LEVELS_OF_DLA = (1, 2, 3, 4, 5)


def list_models(pattern: str = "*") -> list[str]:
    """List the names of variants and folders of ports that ``create_model`` takes and that match a shell pattern."""
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
    """Create a network: a DLA, a port, or a hand-written network that has a card.

    ``name`` is timm's name of a DLA (``dla60``) or PaddleClas's (``DLA60``), the folder of a port, or
    ``package.module:function`` for a network written by hand.

    ``pretrained`` is ``True`` for timm's weights from the hub, or the port's own; a hub id (``timm/dla60.in1k``); or a
    file: a converted ``.pdparams`` or ``.safetensors``, whose manifest is verified, or a timm checkpoint, which is
    converted in memory. If the number of classes differs, a new head is initialised; if the number of input channels
    differs, the stem's weights are summed or repeated, both by timm's rules. ``drop_rate`` is the dropout in front of
    the classifier. ``drop_path_rate`` is the stochastic depth of the last block, for ports that have it (``None``: as
    ported). ``features_only`` returns the maps of the levels ``out_indices`` instead of logits: for a DLA 0 (stride 1)
    to 5 (stride 32), for a port those of its card. For DLA only, ``output_stride`` 8 or 16 replaces the last strides by
    dilation: the denser map, sampled at the original grid, equals the original map.

    Without ``pretrained``, a DLA is initialised as in timm, a port with Paddle's defaults, which differ from timm's.

    Raises ``ValueError`` for an unknown name or an unsupported option, before anything is built or read, and
    ``CheckpointError`` for weights that are unavailable or do not fit; the message says what to do.
    """
    entry = find_model(name)
    classes, channels = num_classes, in_chans
    if entry.published is None:
        if output_stride != 32:
            raise ModelError(f"output_stride is DLA's alone; the strides of {entry.name} are part of its source")
        interface.refuse_pool(entry.name, global_pool)
        model = _with_card(entry, classes, channels, drop_rate, drop_path_rate)
        if features_only:
            levels = range(len(entry.card.levels)) if out_indices is None else out_indices
            model = interface.features_of(model, list(levels))
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
    """Build a port or a hand-written network, changed as its card allows and initialised by Paddle's defaults."""
    if entry.folder is not None:
        network = proved_network(entry.folder)
    else:
        assert entry.factory is not None  # it is neither a variant nor a port
        with users_code(entry.place), _paddle_as_before():
            network = entry.factory()
    if not isinstance(network, nn.Layer):
        raise ModelError(f"{entry.place} makes a {type(network).__name__}, not a paddle.nn.Layer")
    _refuse_other_types(network, entry.place)
    model = interface.offer(network, entry.card)
    if num_classes not in (None, model.num_classes):
        model.reset_classifier(num_classes)
    if in_chans not in (None, model.in_chans):
        interface.set_in_chans(model, in_chans)
    interface.set_drop_rate(model, drop_rate)
    if drop_path_rate is not None:
        interface.set_drop_path_rate(model, drop_path_rate)
    return model


@contextmanager
def _paddle_as_before() -> Iterator[None]:
    """Restore global state of Paddle that a user's code may change: dynamic or static mode, and the default type."""
    dtype = paddle.get_default_dtype()
    try:
        yield
    finally:
        if not paddle.in_dynamic_mode():
            paddle.disable_static()
        paddle.set_default_dtype(dtype)


def _refuse_other_types(model: nn.Layer, place: str) -> None:
    """Raise ``ModelError`` for parameters whose type differs from that of images, as after ``set_default_dtype``."""
    other = [f"{name}: {str(value.dtype).rpartition('.')[2]}" for name, value in model.named_parameters()
             if value.dtype != paddle.float32]  # fmt: skip
    if other:
        raise ModelError(f"{place} has parameters that are not float32, as images are: {', '.join(other[:3])}")


def load_arrays(model: nn.Layer, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Load ``{Paddle name: array}`` into ``model`` by the rules of ``create_model``; ``source`` is for messages.

    Raises ``CheckpointError`` if the arrays do not fit; in that case nothing was loaded.
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
        warnings.warn(f"{source} has {classes}: the model keeps its own, untrained head", Notice, stacklevel=3)
        for key in head:
            del arrays[key], expected[key]
    check_fit(arrays, expected, source, tables_of(model), tied_in(model))
    # Paddle warns about each tensor that is not given
    set_state(model, {**model.state_dict(), **arrays})


def ends_of(model: nn.Layer) -> Ends:
    """Return the tensors of ``model`` that depend on its input channels and classes."""
    return Ends(STEM, HEAD) if isinstance(model, DLABackbone) else Ends.of(model.card)


def _without_unbuilt(arrays: Mapping[str, np.ndarray], model: nn.Layer, ends: Ends) -> dict[str, np.ndarray]:
    """Drop ``arrays`` for parts that ``model`` was built without: the head, or levels that it does not need."""
    left_out = set() if getattr(model, "num_classes", 0) else {*ends.head}
    unbuilt = set()
    if isinstance(model, DLABackbone):
        unbuilt = {*LEVELS} - {info["module"] for info in model.feature_info}
    return {name: array for name, array in arrays.items() if name not in left_out and name.split(".")[0] not in unbuilt}
