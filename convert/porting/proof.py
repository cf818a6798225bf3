"""Prove a port: run its source and the reference in evaluation and in training mode, and compare them.

This module and ``alignment`` use both frameworks. ``alignment`` is imported when a proof starts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.porting.arguments import Arguments, called, each
from convert.porting.draws import drawn_alike
from convert.porting.usage import other_use
from convert.translate.translator import Translated
from convert.translate.weights import port_arrays, stored
from paddle_dla.errors import WrongValue, told

Progress = Callable[[str], None]
MODES = ("eval", "train")


class LoadError(WrongValue):
    """Raised if a port cannot be built or its tensors differ from the key map: a fault of the translator."""


class ReferenceRaised(WrongValue):
    """Raised if the reference cannot be compared with its port: it raises, or changes its inputs."""


def torch_arrays(module: Any) -> dict[str, np.ndarray]:
    """Return every parameter and buffer of ``module`` under each of its names, including buffers that are not saved."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: value.detach().cpu().numpy() for name, value in named}


def build(source: Path, translated: Translated, arrays: Mapping[str, np.ndarray]) -> Any:
    """Build the port in ``source`` with the torch tensors ``arrays``, in evaluation mode.

    Raises ``LoadError`` if the source cannot be built or does not have the tensors that the key map names.
    """
    import paddle

    from paddle_dla.models.ported import build_model

    try:
        port = build_model(source)
    except Exception as error:  # the source is code
        raise LoadError(f"the translated source cannot be built: {told(error)}") from error
    found = port_arrays(translated.key_map, translated.program, arrays)
    expected = {name: tuple(value.shape) for name, value in port.state_dict().items()}
    faults = [f"{name}: the port has it, the reference does not" for name in expected if name not in found]
    faults += [f"{name}: the reference has it, the port does not" for name in found if name not in expected]
    faults += [f"{name}: {list(found[name].shape)} in torch, {list(expected[name])} in the port"
               for name in found if name in expected and found[name].shape != expected[name]]  # fmt: skip
    if faults:
        raise LoadError("\n  ".join(["the port's tensors differ from the reference's:", *faults[:8]]))
    kept = stored(found, translated.program)
    port.set_state_dict({name: paddle.to_tensor(value) for name, value in kept.items()})
    layers = dict(port.named_sublayers(include_self=True))
    for name in (name for name in found if found[name].dtype != kept[name].dtype):
        path, _, attribute = name.rpartition(".")
        layers[path].register_buffer(attribute, paddle.to_tensor(found[name]))  # the proof is in float64
    port.eval()
    return port


RATES = {"DropPath": "drop_prob", "DropBlock2d": "drop_prob", "DropBlock2D": "drop_prob", "PatchDropout": "prob",
         "StochasticDepth": "p", "LSTM": "dropout", "GRU": "dropout", "RNN": "dropout"}  # fmt: skip
"""Random layers other than the frameworks' own dropout layers, and the attribute that is their rate."""


def drawn(module: Any, inputs: Arguments) -> Any:
    """Return a copy of ``module``, in evaluation mode, with random values for all that is constant in a fresh network.

    These are scales, biases, tokens and BatchNorm's statistics, which are scaled to fit the ``inputs``.
    """
    from torch_ref.model import draw_constants, settle_batch_norm

    # eval() again: a layer that copies itself by its constructor, as those of einops do, is in training mode afterwards
    copied = draw_constants(copy.deepcopy(module).eval(), seed=0)
    settle_batch_norm(copied, lambda: called(copied, each(inputs, lambda value: value.clone())))
    return copied


@dataclass(frozen=True)
class Pair:
    """A reference and its port with the same weights, and input arrays for both."""

    reference: Any
    port: Any
    inputs: Arguments


def paired(module: Any, inputs: Arguments, source: Path, translated: Translated) -> Pair:
    """Return ``module`` and its port in ``source``, prepared for comparison.

    The weights are those of ``drawn``, so that no fault hides behind a 0 or a 1. If the reference runs in float64, it
    also computes in float64 what it requests in float32, as the port does. Dropout and stochastic depth are off.

    Raises ``LoadError`` if the source cannot be built.
    """
    from convert.translate.float64 import float64_throughout
    from convert.translate.modes import qualified

    reference = float64_throughout(drawn(module, inputs))
    port = build(source, translated, torch_arrays(reference))
    for layer in (*reference.modules(), *port.sublayers()):
        rate = RATES.get(type(layer).__name__) or translated.rates.get(qualified(type(layer)))
        if rate is not None:
            setattr(layer, rate, 0.0)
    return Pair(reference, port, each(inputs, lambda value: value.detach().cpu().numpy()))


def prove(
    pair: Pair, translated: Translated, modes: Sequence[str] = MODES, progress: Progress = lambda line: None
) -> dict[str, Any]:
    """Compare the pair in each mode; return ``{mode: result of align}``. Stop after a mode in which the two differ.

    Both models draw the same random numbers. Raises ``ReferenceRaised`` if the reference raises.

    A port that is aligned along the traced path but differs in use is not aligned, see ``other_use``.
    """
    from alignment import align
    from alignment.engine.records.tape import ROOT
    from alignment.engine.result import COMPUTATION, Culprit
    from alignment.engine.sides.model import ModelRaised

    reference, port, arrays = pair.reference, pair.port, pair.inputs
    results: dict[str, Any] = {}
    for mode in modes:
        progress(f"proof in {mode} mode")
        with drawn_alike(reference, port):
            try:
                results[mode] = align(
                    reference, port, arrays, key_map=translated.key_map, mode=mode,
                    progress=lambda line, mode=mode: progress(f"proof in {mode} mode: {line}"),
                )  # fmt: skip
            except ModelRaised as error:
                raise ReferenceRaised(f"{mode}: {error}") from error
        if not results[mode].passed:
            break
        if mode == "eval":
            progress(f"proof in {mode} mode: comparing both models as they are used")
            if cause := other_use(reference, port, arrays, translated.program.batches):
                results[mode].culprits.append(Culprit(ROOT, ROOT, COMPUTATION, cause))
                break
    return results
