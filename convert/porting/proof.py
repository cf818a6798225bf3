"""The proof of a port: its source is run beside the reference, in evaluation and in training mode, and compared.

Both frameworks meet here and in ``alignment``, which is imported when a proof is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from convert.porting.usage import other_use
from convert.translate.translator import Translated
from convert.translate.weights import port_arrays, stored
from paddle_dla.errors import WrongValue

Progress = Callable[[str], None]
MODES = ("eval", "train")


class LoadError(WrongValue):
    """A port whose tensors are not those that its translation names: a fault of the translator."""


class ReferenceRaised(WrongValue):
    """A reference that cannot be run beside its port: it raises, or changes what it is given."""


def torch_arrays(module: Any) -> dict[str, np.ndarray]:
    """Every parameter and buffer of ``module`` by every name that it has; buffers that are not saved too."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: value.detach().cpu().numpy() for name, value in named}


def build(source: Path, translated: Translated, arrays: Mapping[str, np.ndarray]) -> Any:
    """The port in ``source`` with the tensors of torch that ``arrays`` holds, in evaluation mode.

    Raises ``LoadError`` where the source does not have the tensors that the key map names.
    """
    import paddle

    from paddle_dla.models.ported import build_model

    try:
        port = build_model(source)
    except Exception as error:  # the source is code
        raise LoadError(f"the translated source cannot be built: {type(error).__name__}: {error}") from error
    found = port_arrays(translated.key_map, translated.program, arrays)
    expected = {name: tuple(value.shape) for name, value in port.state_dict().items()}
    faults = [f"{name}: the port has it, the reference does not" for name in expected if name not in found]
    faults += [f"{name}: the reference has it, the port does not" for name in found if name not in expected]
    faults += [f"{name}: {list(found[name].shape)} in torch, {list(expected[name])} in the port"
               for name in found if name in expected and found[name].shape != expected[name]]  # fmt: skip
    if faults:
        raise LoadError("\n  ".join(["the port's tensors are not the reference's:", *faults[:8]]))
    kept = stored(found, translated.program)
    port.set_state_dict({name: paddle.to_tensor(value) for name, value in kept.items()})
    layers = dict(port.named_sublayers(include_self=True))
    for name in (name for name in found if found[name].dtype != kept[name].dtype):
        path, _, attribute = name.rpartition(".")
        layers[path].register_buffer(attribute, paddle.to_tensor(found[name]))  # the proof is in float64
    port.eval()
    return port


DROPOUTS = {
    "torch": ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    "paddle": ("dropout", "alpha_dropout", "feature_alpha_dropout"),
}
"""Functions of ``nn.functional`` that draw at random."""
RATES = {"DropPath": "drop_prob", "DropBlock2d": "drop_prob", "DropBlock2D": "drop_prob", "PatchDropout": "prob",
         "StochasticDepth": "p", "LSTM": "dropout", "GRU": "dropout", "RNN": "dropout"}  # fmt: skip
"""Layers that draw at random and are no dropout layers of the frameworks, and the attribute that is their rate."""


NUMBERS = {"rand": "random_sample", "randn": "standard_normal"}
"""Functions of both frameworks that return random numbers, and those of ``numpy.random.RandomState`` that do."""


@contextmanager
def _draws_alike() -> Iterator[None]:
    """Within it random numbers are the same in both models and in every run: those of a shape are always the same.

    Dropout that a forward method calls as a function does nothing, as dropout layers in ``align``.
    """
    import paddle
    import torch

    def same(x: Any, *args: Any, **kwargs: Any) -> Any:
        return x

    attention = torch.nn.functional.scaled_dot_product_attention

    def attention_without(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
                          *args: Any, **kwargs: Any) -> Any:  # fmt: skip
        return attention(query, key, value, attn_mask, 0.0, *args, **kwargs)

    holders = {"torch": torch.nn.functional, "paddle": paddle.nn.functional}
    replaced = [(holders[side], name, same) for side in holders for name in DROPOUTS[side]]
    replaced.append((torch.nn.functional, "scaled_dot_product_attention", attention_without))
    for name, kind in NUMBERS.items():
        replaced.append((torch, name, partial(_torch_numbers, kind)))
        replaced.append((torch, f"{name}_like", lambda x, kind=kind, **given: _torch_numbers(kind, x.shape, **given)))
        replaced.append((paddle, name, partial(_paddle_numbers, kind)))
    replaced += [(torch, "bernoulli", _decided), (torch.Tensor, "bernoulli", _decided)]
    replaced.append((torch.Tensor, "bernoulli_", lambda x, p=0.5, **given: x.copy_(_decided(x, p))))
    replaced.append((torch.Tensor, "exponential_", _exponential))
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in replaced]
    for holder, name, function in replaced:
        setattr(holder, name, function)
    try:
        yield
    finally:
        for holder, name, original in kept:
            setattr(holder, name, original)


def _numbers(kind: str, shape: Sequence[int]) -> np.ndarray:
    return np.asarray(getattr(np.random.RandomState(crc32(repr((kind, *shape)).encode())), kind)(tuple(shape)))


def _torch_numbers(kind: str, *sides: Any, size: Any = None, dtype: Any = None, **options: Any) -> Any:
    import torch

    shape = size or (sides[0] if len(sides) == 1 and not isinstance(sides[0], int) else sides)
    numbers = torch.from_numpy(_numbers(kind, [int(side) for side in shape]))
    return numbers.to(dtype or torch.get_default_dtype())


def _decided(x: Any, p: Any = None, **options: Any) -> Any:
    """Where numbers of a uniform distribution are below ``p``, or below ``x`` without it."""
    share = x if p is None else p
    return (_torch_numbers("random_sample", x.shape, dtype=x.dtype).to(x.device) < share).to(x.dtype)


def _exponential(x: Any, lambd: float = 1.0, **options: Any) -> Any:
    return x.copy_(-(1 - _torch_numbers("random_sample", x.shape, dtype=x.dtype)).log() / lambd)


def _paddle_numbers(kind: str, shape: Sequence[Any], dtype: Any = None) -> Any:
    import paddle

    numbers = paddle.to_tensor(_numbers(kind, [int(side) for side in shape]))
    return numbers.astype(dtype or paddle.get_default_dtype())


def prove(
    module: Any,
    inputs: Sequence[Any] | Mapping[str, Any],
    source: Path,
    translated: Translated,
    modes: Sequence[str] = MODES,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """``{mode: result of align}``; nothing after a mode in which the two differ.

    The weights are those of ``module`` with everything that a fresh network has constant drawn at random: BatchNorm's
    statistics, scales, biases, tokens. So nothing hides behind a 0 or a 1. In float64, what the reference asks for in
    float32 is computed in float64 too, as the port has it. Dropout and stochastic depth are off, which draw at random.

    Raises ``LoadError`` where the source cannot be built, and ``ReferenceRaised`` where the reference raises.

    A port that is aligned along the path that was traced, and differs as it is used, is not aligned: see ``other_use``.
    """
    from alignment import align
    from alignment.engine.records.tape import ROOT
    from alignment.engine.result import COMPUTATION, Culprit
    from alignment.engine.sides.model import ModelRaised
    from convert.translate.modes import qualified
    from convert.translate.program import float64_throughout
    from torch_ref.model import draw_constants

    # eval() once more: a layer that copies itself by its constructor, as those of einops do, is in training mode then
    reference = float64_throughout(draw_constants(copy.deepcopy(module).eval(), seed=0))
    port = build(source, translated, torch_arrays(reference))
    for layer in (*reference.modules(), *port.sublayers()):
        rate = RATES.get(type(layer).__name__) or translated.rates.get(qualified(type(layer)))
        if rate is not None:
            setattr(layer, rate, 0.0)
    arrays = (
        [value.detach().cpu().numpy() for value in inputs]
        if not isinstance(inputs, Mapping)
        else {name: value.detach().cpu().numpy() for name, value in inputs.items()}
    )
    results: dict[str, Any] = {}
    for mode in modes:
        progress(f"proof in {mode} mode")
        with _draws_alike():
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
            progress(f"proof in {mode} mode: both as they are used")
            if cause := other_use(reference, port, arrays, translated.program.batches):
                results[mode].culprits.append(Culprit(ROOT, ROOT, COMPUTATION, cause))
                break
    return results
