"""Build a port and its reference, both with the weights of one conversion, as ``pairs`` does for DLA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import torch

from alignment.engine.session import align
from alignment.pairs import torch_tensor, versions
from convert.matching.key_map import KeyMap
from convert.outcome import Conversion
from convert.port_weights import key_map_of, port_folder, stored_weights
from convert.porting.opening import filled, recorded_reference, torch_state
from convert.readers import Source, source_from_arrays
from convert.translate.float64 import float64_throughout
from paddle_dla import create_model
from paddle_dla.models.expected_tensors import shapes_of, tables_of, tied_in
from paddle_dla.models.registry import Entry
from paddle_dla.weight_files import check_fit
from torch_ref.data import eval_batch
from torch_ref.model import state_arrays

Progress = Callable[[str], None]


def fresh_source(entry: Entry, seed: int, num_classes: int, in_chans: int) -> Source:
    """Return the initial weights of the port's reference under ``seed``, with these classes and channels."""
    module = build_reference(entry, num_classes, in_chans, seed)
    return source_from_arrays(state_arrays(module), origin=f"{entry.name} under torch.manual_seed({seed})")


def own_source(entry: Entry) -> Source:
    """Return the weights in the port's folder, by the reference's names."""
    arrays, manifest = stored_weights(port_folder(entry))
    state = torch_state(arrays, key_map_of(manifest))
    return source_from_arrays(state, origin=f"the weights in {entry.place}")


def pair_of(
    entry: Entry, source: Source, conversion: Conversion, paddle_arrays: Mapping[str, np.ndarray] | None = None
) -> tuple[torch.nn.Module, paddle.nn.Layer, KeyMap]:
    """Build the reference, the port and their key map.

    The reference loads the tensors of ``source`` unchanged, except those with other names and a stem or head that was
    adapted. Raises ``CheckpointError`` where they do not fit.
    """
    module = build_reference(entry, conversion.num_classes, conversion.in_chans)
    key_map = key_map_of(stored_weights(port_folder(entry))[1])
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in
               torch_state(conversion.arrays, key_map).items()}  # fmt: skip
    made = {line.torch for line in key_map if "made" in conversion.manifest["tensors"].get(line.paddle, {})}
    tensors |= {name: torch_tensor(stored) for name, stored in source.tensors.items()
                if name in tensors and name not in made}  # fmt: skip
    complete = filled(module, tensors, key_map)
    model = create_model(entry.place, num_classes=conversion.num_classes, in_chans=conversion.in_chans)
    arrays = dict(conversion.arrays if paddle_arrays is None else paddle_arrays)
    check_fit(arrays, shapes_of(model), "the converted file", tables_of(model), tied_in(model))
    model.set_state_dict(arrays)
    model.eval()
    return module.eval(), model, complete


def build_reference(entry: Entry, num_classes: int, in_chans: int, seed: int | None = None) -> torch.nn.Module:
    """Build the port's torch module with these classes and channels; ``seed`` of its weights defaults to the port's."""
    reference = recorded_reference(port_folder(entry))
    sizes = {"num_classes": (num_classes, entry.card.num_classes), "in_chans": (in_chans, entry.card.in_chans)}
    changed = {name: wanted for name, (wanted, own) in sizes.items() if wanted != own and own is not None}
    seed = reference.seed if seed is None else seed
    return replace(reference, options={**reference.options, **changed}, seed=seed).build()


def align_port(
    entry: Entry,
    source: Source,
    conversion: Conversion,
    inputs: np.ndarray | Sequence[str],
    mode: str = "eval",
    *,
    dtype: str = "float64",
    backward: bool = True,
    seed: int = 0,
    paddle_arrays: Mapping[str, np.ndarray] | None = None,
    progress: Progress = lambda line: None,
) -> Any:
    """Run ``align`` on a port and its reference; ``inputs`` are an array (B, C, H, W) or paths of images."""
    module, model, key_map = pair_of(entry, source, conversion, paddle_arrays)
    if not isinstance(inputs, np.ndarray):
        inputs = eval_batch(module, inputs)
    # compute in float64 also what the reference casts to float32, such as resampled positions, as the port's proof does
    module = float64_throughout(module)
    result = align(
        module, model, inputs, key_map=key_map, mode=mode, dtype=dtype, backward=backward, seed=seed,
        progress=lambda line: progress(f"{entry.name}: {line}"),
    )  # fmt: skip
    what = "forward and backward" if backward else "forward"
    result.title = f"{entry.name}: {what} in {mode} mode, the reference against its port"
    shape = "x".join(map(str, inputs.shape))
    result.facts = {"weights": source.describe(), "input": shape, **result.facts, "versions": versions()}
    return result
