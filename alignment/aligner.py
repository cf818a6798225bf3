"""``align``: is this Paddle layer the same as that torch module, and if not, which layer is at fault?

It knows no model. Both frameworks meet here; the comparison itself is ``alignment.engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import torch

from alignment.borrowed import (
    Borrowed,
    borrow,
    paddle_tensors,
    parameter_pairs,
    state_restored,
    torch_in,
    torch_tensors,
    twin_name,
)
from alignment.engine import capture_paddle, capture_torch
from alignment.engine.backward import compare_gradients
from alignment.engine.compare import compare
from alignment.engine.forward import compare_tapes
from alignment.engine.isolate import Finding, isolate
from alignment.engine.locate import StateFault, WeightFault, locate
from alignment.engine.match import Matching, Side, match
from alignment.engine.noise import measure_floor
from alignment.engine.replay_paddle import replay_container, replay_leaf
from alignment.engine.result import Result, Skipped
from alignment.engine.settings import disagreements
from alignment.engine.store import Store
from alignment.engine.tape import Tape
from alignment.engine.tree import leaves

Inputs = np.ndarray | Sequence[np.ndarray]
Progress = Callable[[str], None]


def align(
    torch_module: torch.nn.Module,
    paddle_layer: paddle.nn.Layer,
    inputs: Inputs,
    *,
    key_map: str | Mapping[str, str] = "auto",
    mode: str = "eval",
    backward: bool = True,
    isolated: bool = True,
    seed: int = 0,
    max_memory: int = 256 * 2**20,
    progress: Progress = lambda line: None,
) -> Result:
    """Compare every layer of ``paddle_layer`` with its twin in ``torch_module``, and find the layers at fault.

    ``inputs``: the arguments of both models, one array or several. ``key_map``: ``"auto"``, or ``{layer path in torch:
    in Paddle}`` for layers that cannot be told apart. ``mode`` is ``eval`` or ``train``; dropout is off in either.
    Gradients start from a random direction, drawn with ``seed``, at every output. Everything is computed in float64
    and both models are given back as they came. ``max_memory`` bytes of each record stay in memory, the others go to
    a temporary file.

    Raises ``AmbiguousMatch`` where a layer with weights has several possible twins, and ``ValueError`` for an unknown
    ``mode``.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    with borrow(torch_module, paddle_layer, mode) as models:
        initial = {path: torch_tensors(layer) for path, layer in models.reference.items()}
        progress("torch in float32, for the noise floor")
        with torch_in(torch_module, torch.float32):
            rounded = capture_torch.capture(torch_module, arrays, Store(max_memory), _start(torch, seed, backward))
        progress("torch in float64")
        with torch_in(torch_module, torch.float64):
            tape = capture_torch.capture(torch_module, arrays, Store(max_memory), _start(torch, seed, backward))
        progress("Paddle in float64")
        paddle_layer.to(dtype="float64")
        with state_restored(paddle_layer):
            port = capture_paddle.capture(paddle_layer, arrays, Store(max_memory), _start(paddle, seed, backward))
        matching = _match(models, tape, port, key_map)
        result = _chained(models, tape, rounded, port, matching, backward)
        findings: list[Finding] = []
        if isolated:
            progress("every layer alone, on the reference's inputs")
            findings = _isolated(models, tape, matching, backward)
        result.culprits = locate(
            [record.path for record in tape],
            matching.twins,
            _disagreements(models, matching),
            [*_weight_faults(models, matching, initial)],
            findings,
            [*_state_faults(models, tape, port, matching, initial, result)] if mode == "train" else [],
        )
    return result


def _start(framework: Any, seed: int, backward: bool) -> Callable[[Any], tuple[list[Any], list[Any]]] | None:
    """From which tensors of the output gradients start, and with which: random ones, the same in both frameworks."""
    if not backward:
        return None
    tensor = framework.from_numpy if framework is torch else framework.to_tensor

    def start(output: Any) -> tuple[list[Any], list[Any]]:
        rng = np.random.RandomState(seed)
        roots = [
            value
            for value in leaves(output, lambda v: isinstance(v, framework.Tensor))
            if (value.requires_grad if framework is torch else not value.stop_gradient)
        ]
        grads = [tensor(rng.standard_normal(tuple(root.shape))) for root in roots]
        return roots, [grad.to(root.dtype) if framework is torch else grad for grad, root in zip(grads, roots)]

    return start


def _match(models: Borrowed, tape: Tape, port: Tape, key_map: str | Mapping[str, str]) -> Matching:
    def side(settings: Any, leaf_paths: frozenset[str], run: Tape) -> Side:
        return Side(settings, leaf_paths, [*dict.fromkeys(record.path for record in run)])

    return match(
        side(models.reference_settings, models.reference_leaves(), tape),
        side(models.port_settings, models.port_leaves(), port),
        None if isinstance(key_map, str) else key_map,
    )


def _partial(models: Borrowed, matching: Matching) -> frozenset[str]:
    """Layers with weights and inner layers whose twin stands for their own computation only (BN without its ReLU)."""
    leaf_twins = models.port_leaves()
    return frozenset(
        path
        for path, twin in matching.twins.items()
        if models.reference_settings[path].has_weights
        and path not in models.reference_leaves()
        and twin in leaf_twins
        and "activation" not in models.port_settings[twin].fields
    )


def _chained(
    models: Borrowed, tape: Tape, rounded: Tape, port: Tape, matching: Matching, backward: bool
) -> Result:  # fmt: skip
    title = f"{type(models.torch_module).__name__}: torch against Paddle"
    partial = _partial(models, matching)
    result = compare_tapes(title, tape, port, measure_floor(tape, rounded, "float64"), matching.twins, partial)
    if backward:
        parameters = parameter_pairs(models, matching.twins)
        result.rows += compare_gradients(tape, rounded, port, matching.twins, parameters, partial)
    for paths, side, kinds in (
        (matching.only_reference, "torch", tape.layers),
        (matching.only_port, "Paddle", port.layers),
    ):
        result.skipped += [Skipped(path, kinds[path], side, reason) for path, reason in paths.items()]
    result.facts.update(models.notes)
    return result


def _disagreements(models: Borrowed, matching: Matching) -> dict[str, dict[str, tuple[Any, Any]]]:
    found = {
        path: disagreements(models.reference_settings[path], models.port_settings[twin])
        for path, twin in matching.twins.items()
    }
    return {path: fields for path, fields in found.items() if fields}


def _weight_faults(
    models: Borrowed, matching: Matching, initial: Mapping[str, Mapping[str, np.ndarray]]
) -> Iterator[WeightFault]:
    for path, twin in matching.twins.items():
        theirs = paddle_tensors(models.port[twin])
        for name, array in initial[path].items():
            other = theirs.get(twin_name(name))
            if other is None:
                yield WeightFault(path, name, np.inf, "missing in Paddle")
                continue
            if other.shape != array.shape and other.size == array.size:
                other = other.reshape(array.shape)
            found = compare(array, other)
            if found.max_abs:
                yield WeightFault(path, name, found.relative, found.mismatch)


def _isolated(models: Borrowed, tape: Tape, matching: Matching, backward: bool) -> list[Finding]:
    twins, leaf_twins = matching.twins, models.port_leaves()

    def container(twin: str, record: Any, calls: Sequence[Any]) -> Any:
        inner = {call.path: models.port[twins[call.path]] for call in calls if call.path in twins}
        return replay_container(models.port[twin], tape, record, calls, inner, backward)

    measured = isolate(
        tape,
        twins,
        lambda twin, record, grads: replay_leaf(models.port[twin], tape, record, grads, backward),
        container,
        lambda twin: twin not in leaf_twins,
        _partial(models, matching),
    )
    return measured.findings


def _state_faults(
    models: Borrowed,
    tape: Tape,
    port: Tape,
    matching: Matching,
    initial: Mapping[str, Mapping[str, np.ndarray]],
    result: Result,
) -> Iterator[StateFault]:
    """Buffers that a step changed, of layers whose inputs are still the reference's."""
    forward = [row for row in result.rows if row.direction == "forward"]
    allowed = {row.layer: row.allowed for row in forward if row.aligned}
    for path, twin in matching.twins.items():
        for name, before in initial[path].items():
            full, twin_full = f"{path}.{name}", f"{twin}.{twin_name(name)}"
            if full not in tape.buffers or twin_full not in port.buffers or path not in allowed:
                continue
            found = compare(tape.get(tape.buffers[full]), port.get(port.buffers[twin_full]))
            changed = compare(before, tape.get(tape.buffers[full])).max_abs
            if changed and not found.relative <= allowed[path]:
                yield StateFault(path, name, found.relative)
