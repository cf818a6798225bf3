"""Convert a source to Paddle names and arrays, and make the manifest that accounts for them. No framework.

``convert_source`` is pure: it reads and writes no files. ``paddle_dla`` finds ``load_for_paddle`` under its entry-point
group ``paddle_dla.converters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.audit import Account, audit
from convert.hub import download, is_hub_id
from convert.key_map import to_paddle
from convert.layout import state_layout, unused_projections
from convert.outcome import Conversion, ConversionError, versions
from convert.port_weights import Unasked, convert_for_port
from convert.readers import Source, no_count, read_source, shared_prefix
from paddle_dla.models.adapt_weights import HEAD, STEM, adapt_stem, new_head
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.registry import Entry, find_model
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.manifest import FORMAT, describe
from paddle_dla.storage.tensors import StoredTensor
from paddle_dla.storage.values import non_finite


def convert_source(
    source: Source,
    model: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    head_seed: int = 0,
    preprocessing: Preprocessing | None = None,
) -> Conversion:
    """Convert ``source`` for ``model``.

    If ``num_classes`` or ``in_chans`` differs from the source, timm's rules apply: a new head, initialised with
    ``head_seed``, and a stem that is summed or repeated. ``None`` expects the values of the published weights, 1000 and
    3, and refuses any others.

    ``preprocessing`` is recorded beside the weights. It defaults to what timm publishes for the model.

    Half and bfloat16 weights are converted to float32, which changes no value. Raises ``ConversionError``, which lists
    every tensor that is missing, left over, or of another shape or type, and ``ValueError`` for an unknown model.
    """
    model = resolve_name(model)
    _refuse_unasked(source, num_classes, in_chans)
    num_classes, in_chans = num_classes or 1000, in_chans or 3
    account = audit(
        source.tensors,
        state_layout(model, source.num_classes or num_classes, source.in_chans),
        unused_projections(model),
    )
    faults = account.faults or _no_counts(source, account)
    if faults:
        raise ConversionError(_misfit(source, model), faults)
    arrays = {paddle: _float32(source.tensors[timm]) for timm, paddle in account.mapped.items()}
    made = _adapt(arrays, account, source, num_classes, in_chans, head_seed)
    arrays = _in_model_order(arrays, model, num_classes, in_chans)
    notes = [*source.notes, *made.values()]
    recorded = preprocessing or PRETRAINED[model].preprocessing.with_channels(in_chans)
    accounts = _accounts(source, arrays, account, made)  # before the header, which waits for the source's digest
    header = _header(source, model, num_classes, in_chans)
    manifest = {**header, "preprocessing": recorded.as_dict(), **accounts}
    return Conversion(model, num_classes, in_chans, arrays, manifest, [*notes, *_non_finite(arrays)])


def load_for_paddle(source: str, model: str) -> dict[str, np.ndarray]:
    """Return ``{Paddle name: array}`` of a timm file or hub id, with its own numbers of classes and channels.

    ``model`` is the name of a variant or the folder of a port. Raises ``CheckpointError`` if the source cannot be read
    or does not fit the model.
    """
    find_model(model)  # before a download
    return converted(read_source(download(source) if is_hub_id(source) else source), model).arrays


def converted(source: Source, model: str) -> Conversion:
    """Convert ``source`` for ``model``, keeping its numbers of classes and channels. Raises ``CheckpointError``."""
    entry = find_model(model)
    if entry.folder is not None:
        return convert_as_it_is(source, entry)
    return convert_source(source, model, source.num_classes or None, source.in_chans)


def convert_as_it_is(source: Source, entry: Entry, **options: Any) -> Conversion:
    """Convert ``source`` for the port ``entry``, keeping its numbers of classes and channels."""
    try:
        return convert_for_port(source, entry, **options)
    except Unasked as error:
        return convert_for_port(source, entry, error.num_classes, error.in_chans, **options)


def fitting_models(source: Source) -> list[str]:
    """Return the variants whose tensors are exactly those of ``source``."""
    fits = []
    for name in VARIANTS:
        layout = state_layout(name, source.num_classes or 1000, source.in_chans)
        if not audit(source.tensors, layout, unused_projections(name)).faults:
            fits.append(name)
    return fits


def _refuse_unasked(source: Source, num_classes: int | None, in_chans: int | None) -> None:
    faults = []
    if num_classes is None and source.num_classes not in (0, 1000):
        faults.append(
            f"it has {source.num_classes} classes: pass --num-classes {source.num_classes} to keep them, or "
            "another number for a new head"
        )
    if in_chans is None and source.in_chans != 3:
        faults.append(f"it takes {source.in_chans} input channels: pass --in-chans {source.in_chans} to keep them")
    if faults:
        raise ConversionError(f"{_origin(source)} differs from the published models:", faults)


def _misfit(source: Source, model: str) -> str:
    fits = fitting_models(source)
    hint = f"; it fits {' and '.join(fits)}: pass --model {fits[0]}" if fits else ""
    prefix = shared_prefix(source.tensors)
    if prefix and not any(name.startswith(prefix) for name in state_layout(model)):
        hint = f"; all of its names begin with {prefix!r}: save the state dict of the model inside"
    return f"{_origin(source)} does not account for {model} (nothing was written){hint}"


def _origin(source: Source) -> str:
    return str(source.place.get("file", "the source"))


def _float32(tensor: StoredTensor) -> np.ndarray:
    return tensor.array().astype(np.float32, copy=False)


def _adapt(
    arrays: dict[str, np.ndarray], account: Account, source: Source, num_classes: int, in_chans: int, head_seed: int
) -> dict[str, str]:
    """Adapt the stem and head of ``arrays`` in place; return ``{Paddle name: what was done}``."""
    made = {}
    if source.in_chans != in_chans:
        arrays[STEM] = adapt_stem(arrays[STEM], in_chans)
        made[STEM] = f"adapted from {source.in_chans} to {in_chans} input channels by timm's rule"
    if source.num_classes != num_classes:
        features = arrays[HEAD[0]].shape[1]
        for name in HEAD:
            account.dropped[name] = f"a head for {source.num_classes} classes where {num_classes} were asked for"
            del account.mapped[name]
        arrays.update(new_head(num_classes, features, head_seed))
        made.update(dict.fromkeys(HEAD, f"new head for {num_classes} classes, initialised with seed {head_seed}"))
    return made


def _in_model_order(
    arrays: Mapping[str, np.ndarray], model: str, num_classes: int, in_chans: int
) -> dict[str, np.ndarray]:
    names = map(to_paddle, state_layout(model, num_classes, in_chans))
    return {name: arrays[name] for name in names if name is not None}


def _header(source: Source, model: str, num_classes: int, in_chans: int) -> dict[str, Any]:
    """Return the manifest's entries about the whole file."""
    return {
        "format": FORMAT,
        "model": model,
        "num_classes": num_classes,
        "in_chans": in_chans,
        "source": dict(source.origin),
        "versions": versions("numpy", "safetensors", "torch"),
    }


def _accounts(
    source: Source, arrays: Mapping[str, np.ndarray], account: Account, made: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest's entry of every tensor: where it came from, or why it was dropped."""
    origin = {paddle: timm for timm, paddle in account.mapped.items()}
    tensors = {}
    for name, array in arrays.items():
        entry: dict[str, Any] = {"from": origin.get(name)}
        if name in made:
            entry["made"] = made[name]
        if name in origin:
            entry["source_dtype"] = source.tensors[origin[name]].dtype
        tensors[name] = {**entry, **describe(array)}
    dropped = {name: _dropped(source.tensors[name], reason) for name, reason in account.dropped.items()}
    return {"tensors": tensors, "dropped": dropped}


def _dropped(tensor: StoredTensor, reason: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"reason": reason, "dtype": tensor.dtype, "shape": list(tensor.shape)}
    if not tensor.shape:
        entry["value"] = int(tensor.array())
    return entry


def _no_counts(source: Source, account: Account) -> list[str]:
    """Return a fault for every dropped scalar that is not an integer."""
    scalars = {name: source.tensors[name] for name in account.dropped if not source.tensors[name].shape}
    return [f"{name}: is {value}, which counts no batches" for name, tensor in scalars.items()
            if (value := no_count(tensor))]  # fmt: skip


def _non_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    return [f"{name}: {fault}" for name, array in arrays.items() if (fault := non_finite(array))]
