"""``port_model``: translate a torch module, prove the translation and write the port's folder."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convert.matching.key_map import KeyMap
from convert.outcome import versions
from convert.porting import card as cards
from convert.porting.arguments import Arguments, as_declared, called, each, named
from convert.porting.ends import ENDS, ends_of
from convert.porting.features import features_layer
from convert.porting.folder import check_folder, write_folder
from convert.porting.proof import MODES, Pair, paired, prove, torch_arrays
from convert.porting.reference import Reference, origin_of
from convert.translate.translator import Translated, translate
from convert.translate.weights import port_arrays, stored
from paddle_dla.errors import told
from paddle_dla.models.cards import FORMAT, SOURCE, golden_inputs
from paddle_dla.models.registry import process_as_before
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.values import listed, non_finite

Progress = Callable[[str], None]
PACKAGES = ("torch", "timm", "torchvision", "paddlepaddle", "paddlepaddle-gpu", "numpy")
"""Packages whose versions a card records."""
SHOWN = 16
"""How many numbers of each output the golden test contains."""


@dataclass(frozen=True)
class Port:
    """A port: its ``source``, its ``folder`` if it was written, and the ``results`` of its proof by mode."""

    name: str
    source: str
    key_map: KeyMap
    results: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def proved(self) -> bool:
        """Whether every compared mode is aligned."""
        return bool(self.results) and all(result.passed for result in self.results.values())


def port_model(
    torch_module: Any,
    inputs: Arguments,
    folder: str | Path | None = None,
    *,
    name: str = "",
    reference: Reference | None = None,
    weights: Mapping[str, Any] | None = None,
    eval_only: bool = False,
    keep_unproved: bool = False,
    overwrite: bool = False,
    operators: Mapping[str, Any] | None = None,
    layers: Mapping[str, Any] | None = None,
    progress: Progress = lambda line: None,
) -> Port:
    """Translate ``torch_module``, prove the translation, and write the port to ``folder``.

    ``inputs`` are the module's arguments: torch tensors, as a sequence or as a mapping by name. Their batch size does
    not limit the port's. A port computes in float32: half and bfloat16 weights are converted, which changes no value,
    and float64 weights are rounded. ``reference`` records how to build the module again, for the port's own test;
    ``weights`` records where the weights come from. ``operators`` and ``layers`` are rules in addition to the
    translator's own. A port that is not ALIGNED is written only with ``keep_unproved``, and is marked as a draft.
    Without a folder nothing is written.

    Raises ``TranslationError``, which lists everything that has no rule, and ``CheckpointError`` if the folder cannot
    be written or a parameter is not finite; both before anything is written.
    """
    from alignment.engine.borrowed import settings_kept

    target = Path(folder) if folder is not None else None
    if target is not None:
        check_folder(target, overwrite)
    name = name or (reference.name if reference else type(torch_module).__name__)
    with process_as_before(), settings_kept():
        torch_module, inputs = prepared(torch_module, inputs, name, progress)
        progress("tracing the module and writing its source")
        translated = translate(torch_module, inputs, header(name, torch_module), operators, layers, not eval_only)
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / SOURCE
            with atomic_path(source) as part:
                part.write_text(translated.source, encoding="utf-8")
            modes = MODES[:1] if eval_only else MODES
            pair = paired(torch_module, inputs, source, translated)
            results = prove(pair, translated, modes, progress)
        port = Port(name, translated.source, translated.key_map, results)
        arrays = port_arrays(translated.key_map, translated.program, torch_arrays(torch_module))
        written = target is not None and (port.proved or keep_unproved)
        entries = entries_of(torch_module, pair, port.proved) if written else {}
        card = card_of(port, torch_module, translated, inputs, reference, weights, entries) if written else {}
    if target is None or not written:
        return port
    progress(f"writing {target}")
    arrays = stored(arrays, translated.program)
    unsaved = frozenset(name for name, _ in torch_module.named_buffers()) - torch_module.state_dict().keys()
    write_folder(target, translated.source, arrays, translated.key_map, card, results, overwrite, unsaved)
    return replace(port, folder=target)


def prepared(module: Any, inputs: Arguments, name: str, progress: Progress) -> tuple[Any, Arguments]:
    """Return ``module`` and ``inputs`` as they are traced: in float32, by the forward's names, in a batch of two.

    Raises ``CheckpointError`` for modules and inputs of which no port can be made; ``name`` is for messages.
    """
    refuse_unportable(module, name)
    refuse_nested(inputs, name)
    inputs = as_declared(module.forward, inputs)
    plain_weight_norm(module)
    refuse_uncopied(module, name)
    module, inputs = in_float32(module, inputs, progress)
    inputs = two_samples(module, inputs)
    refuse_non_finite(module, name)
    return module, inputs


def in_float32(module: Any, inputs: Arguments, progress: Progress) -> tuple[Any, Arguments]:
    """Return ``module`` and ``inputs`` with their floating-point tensors in float32; copies are made if needed."""
    import torch

    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    other = {name for name, value in tensors.items() if value.is_floating_point() and value.dtype != torch.float32}
    double = sorted(name for name in other if tensors[name].dtype == torch.float64)
    if double:
        progress(f"{len(double)} tensors in float64 are rounded to float32, the first of them {double[0]}")
    return copy.deepcopy(module).float() if other else module, each(inputs, in_type(torch.float32))


def in_type(dtype: Any) -> Callable[[Any], Any]:
    """Return a function that casts floating-point tensors to ``dtype`` and leaves other tensors unchanged."""
    return lambda value: value.to(dtype) if value.is_floating_point() else value


def two_samples(module: Any, inputs: Arguments) -> Arguments:
    """Duplicate ``inputs`` of one sample, if ``module`` accepts two.

    ``torch.export`` turns a size of 1 into a constant.
    """
    import torch

    if not all(value.dim() and len(value) == 1 for value in named(inputs).values()):
        return inputs
    twice = each(inputs, lambda value: torch.cat([value, value]))
    model = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            called(model, twice)
    except Exception:  # noqa: BLE001 - the module may raise anything; the trace reports errors for the given inputs
        return inputs
    return twice


def refuse_nested(inputs: Arguments, name: str) -> None:
    """Raise ``CheckpointError`` for arguments that are not tensors: each argument of a port is one tensor."""
    import torch

    others = {key: value for key, value in named(inputs).items() if not isinstance(value, torch.Tensor)}
    faults = [f"input {key} is a {type(value).__name__}" for key, value in others.items()]
    if faults:
        why = f"{name} cannot be ported with these inputs, wrap it in a module that takes tensors alone:"
        raise CheckpointError(listed(why, faults))


def plain_weight_norm(module: Any) -> None:
    """Detach the weights that ``torch.nn.utils.weight_norm`` has computed, so that the module can be copied.

    The hook computes the weight again before each call, so the stored value is not needed otherwise.
    """
    from torch.nn.utils.weight_norm import WeightNorm

    for layer in module.modules():
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                setattr(layer, hook.name, getattr(layer, hook.name).detach())


def refuse_unportable(module: Any, name: str) -> None:
    """Raise ``CheckpointError`` that lists tensors that no port can hold, or whose gradients a hook may change."""
    held = (*module.named_parameters(), *module.named_buffers())
    if faults := [f"{path}: {fault}" for path, value in held if (fault := _unportable(value))]:
        raise CheckpointError(listed(f"{name} holds what no weight can be:", faults))


def _unportable(value: Any) -> str:
    """Return why no port can hold the tensor ``value``; empty if it can."""
    import torch
    from torch.nn.parameter import is_lazy

    if is_lazy(value) or value.is_meta:
        return "has no values yet"
    if value.is_quantized or value.layout is not torch.strided:
        return "is quantised" if value.is_quantized else "is sparse"
    if value.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return f"is of {value.dtype}, which Paddle lacks"
    if isinstance(value, torch.nn.Parameter):
        if not (value.is_floating_point() or value.is_complex()):
            return f"is a parameter of {value.dtype}; register it as a buffer"
        if value._backward_hooks or value._post_accumulate_grad_hooks:
            return "has a hook that may change its gradient; remove it before"
    return ""


def refuse_uncopied(module: Any, name: str) -> None:
    """Raise ``CheckpointError`` if ``module`` cannot be deep-copied; copies are run in other types and modes."""
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise CheckpointError(f"{name} cannot be copied: {told(error)}") from error
    if type(copied) is not type(module):
        raise CheckpointError(f"{name} cannot be copied: copy.deepcopy returns a {type(copied).__name__}")
    own = {id(value) for value in (*module.modules(), *module.parameters(), *module.buffers())}
    named = (*copied.named_modules(), *copied.named_parameters(), *copied.named_buffers())
    if shared := [path or "(model)" for path, value in named if id(value) in own]:
        raise CheckpointError(listed(f"{name} cannot be copied, its copies share what it holds:", shared))


def refuse_non_finite(module: Any, name: str) -> None:
    """Raise ``CheckpointError`` that lists every parameter with NaN or infinity: comparing them proves nothing.

    Buffers may hold infinity, as attention masks do.
    """
    found = ((path, non_finite(value.detach().cpu().numpy())) for path, value in module.named_parameters())
    if faults := [f"{path}: {fault}" for path, fault in found if fault]:
        raise CheckpointError(listed(f"{name} holds what no weight can be:", faults))


def header(name: str, module: Any) -> str:
    """Return the docstring of a port's source."""
    origin = origin_of(type(module))
    package = " ".join(origin[part] for part in ("package", "version") if part in origin)
    licence = f", licence {origin['licence']}" if origin.get("licence") else ""
    return (
        f"{name} in PaddlePaddle: {type(module).__module__}.{type(module).__qualname__} of {package}{licence}.\n\n"
        "Translated from the reference's traced program by paddle-dla; names are the reference's.\n"
    )


def entries_of(module: Any, pair: Pair, proved: bool) -> dict[str, Any]:
    """Return the card's entries that ``module`` names; those that it does not name are looked for in a proved port."""
    entries = {**cards.described(module), "features": None}
    if not proved:
        return entries
    found = {"features": features_layer(pair.reference, pair.port, pair.inputs)}
    if any(entries[name] is None for name in ENDS):
        found |= ends_of(pair.reference, pair.port, pair.inputs)
    if entries["num_classes"] is None and cards.attribute(module, "num_classes") is not None:
        # the module means something else by classes: what looks like a classifier may be none
        found = {name: value for name, value in found.items() if name not in ("classifier", "num_classes")}
    return {**entries, **{name: value for name, value in found.items() if entries[name] is None}}


def card_of(
    port: Port,
    module: Any,
    translated: Translated,
    inputs: Any,
    reference: Reference | None,
    weights: Mapping[str, Any] | None,
    entries: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card of ``port``; ``entries`` is the result of ``entries_of``."""
    preprocessing = cards.preprocessing_of(module)
    values = named(inputs).values()
    return {
        "format": FORMAT,
        "name": port.name,
        "class": translated.translation.model,
        "proved": port.proved,
        "verdict": {mode: result.verdict() for mode, result in port.results.items()},
        "inputs": [{"name": given, "shape": list(value.shape[1:])} for (given, _), value in
                   zip(translated.program.inputs, values, strict=True)],
        "preprocessing": preprocessing.as_dict() if preprocessing else None,
        **entries,
        "source": origin_of(type(module)),
        "reference": (reference or Reference()).as_dict(),
        "weights": dict(weights or {}),
        "versions": versions(*PACKAGES),
        "golden": golden(module, inputs),
    }  # fmt: skip


def golden(module: Any, inputs: Arguments, seed: int = 0) -> dict[str, Any]:
    """Return inputs for the golden test, and the first numbers of the reference's float64 outputs for them.

    Floating-point inputs are drawn at random with the same shape. Others, such as token ids, are kept, since few values
    would be valid. Complex outputs are stored as alternating real and imaginary parts. ``float32_error`` is the
    difference of the reference's float32 outputs from its float64 outputs, relative to the largest value.
    """
    import torch

    from alignment.engine.records.tree import leaves
    from convert.translate.float64 import float64_throughout

    described = {"seed": seed, "inputs": [_described(value) for value in named(inputs).values()]}
    made = iter(golden_inputs(described))
    drawn = each(inputs, lambda value: torch.from_numpy(next(made)))
    module = float64_throughout(copy.deepcopy(module).eval())

    def run(dtype: Any) -> list[Any]:
        with torch.no_grad():
            outputs = called(module.to(dtype), each(drawn, in_type(dtype)))
        found = leaves(outputs, lambda value: isinstance(value, torch.Tensor))
        return [(torch.view_as_real(leaf) if leaf.is_complex() else leaf).double() for leaf in found]

    keywords = [*inputs] if isinstance(inputs, Mapping) else None
    single, double = run(torch.float32), run(torch.float64)
    return {**described, "keywords": keywords, "outputs": [*map(_golden_output, single, double)]}


def _golden_output(ours: Any, exact: Any) -> dict[str, Any]:
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    error = float((ours - exact).abs().max()) / largest if largest else 0.0
    return {
        "values": exact.reshape(-1)[:SHOWN].tolist(),
        "largest": largest,
        "float32_error": max(error, 2.0**-23),
    }


def _described(value: Any) -> dict[str, Any]:
    """Describe an input for ``cards.golden_inputs``, which makes it again."""
    described = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return described if value.is_floating_point() else {**described, "values": value.flatten().tolist()}
