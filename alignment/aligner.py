"""``align``: is this Paddle layer the same as that torch module, and if not, which layer is at fault?

It knows no model. Both frameworks meet here; the comparison itself is ``alignment.engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle
import torch

from alignment.borrowed import (
    Borrowed,
    borrow,
    join,
    paddle_tensors,
    parameter_pairs,
    state_restored,
    torch_in,
    torch_tensors,
    twin_name,
)
from alignment.engine import capture_paddle, capture_torch
from alignment.engine.backward import compare_gradients
from alignment.engine.causes import Causes, WeightIndex, state_cause, weight_cause
from alignment.engine.causes_torch import alternatives
from alignment.engine.compare import compare
from alignment.engine.forward import compare_tapes
from alignment.engine.isolate import FORWARD_LIMIT, Finding, isolate
from alignment.engine.locate import StateFault, WeightFault, locate
from alignment.engine.match import Matching, Side, match
from alignment.engine.noise import measure_floor
from alignment.engine.replay_paddle import replay_container, replay_leaf
from alignment.engine.result import Result, Skipped
from alignment.engine.settings import AFFINE, Settings, disagreements
from alignment.engine.store import Store
from alignment.engine.tape import Record, Tape, is_ref
from alignment.engine.tree import leaves, mapped
from convert.pairing import Layer, pair_layers

Inputs = np.ndarray | Sequence[np.ndarray]
Progress = Callable[[str], None]
Tensors = Mapping[str, Mapping[str, np.ndarray]]
"""Parameters and buffers by layer and name."""
After = Mapping[str, tuple[Mapping[str, np.ndarray], float]]
"""By layer: the buffers that a run left, by their names in Paddle, and the error that rounding explains in them."""


@dataclass
class Reference:
    """The reference's two runs, kept so that several ports can be compared with it.

    Filled by the first ``align`` that it is given to; good for the same module, weights, inputs and options only.
    """

    rounded: Tape | None = None
    exact: Tape | None = None


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
    reference: Reference | None = None,
    progress: Progress = lambda line: None,
) -> Result:
    """Compare every layer of ``paddle_layer`` with its twin in ``torch_module``, and find the layers at fault.

    ``inputs``: the arguments of both models, one array or several. ``key_map``: ``"auto"``, or ``{layer path in torch:
    in Paddle}`` for layers that cannot be told apart. ``mode`` is ``eval`` or ``train``; dropout is off in either.
    Gradients start from a random direction, drawn with ``seed``, at every output. Everything is computed in float64
    and both models are given back as they came. ``max_memory`` bytes of each record stay in memory, the others go to
    a temporary file. ``reference`` saves the runs of torch when one module is compared with several ports.

    An exception in the Paddle model ends its chained run; its layers are then still compared alone.

    Raises ``AmbiguousMatch`` where a layer with weights has several possible twins, and ``ValueError`` for an unknown
    ``mode``.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    with borrow(torch_module, paddle_layer, mode) as models:
        initial = {path: torch_tensors(layer) for path, layer in models.reference.items()}
        runs = reference or Reference()
        if runs.rounded is None or runs.exact is None:
            progress("torch in float32, for the noise floor")
            runs.rounded = _run_torch(torch_module, torch.float32, arrays, Store(max_memory), seed, backward)
            progress("torch in float64")
            runs.exact = _run_torch(torch_module, torch.float64, arrays, Store(max_memory), seed, backward)
        tape, errors = runs.exact, []
        progress("Paddle in float64")
        paddle_layer.to(dtype="float64")
        start = _start(paddle, seed, backward)
        with state_restored(paddle_layer):
            port = capture_paddle.capture(paddle_layer, arrays, Store(max_memory), start, errors.append)
        matching = _match(models, tape, port, key_map)
        result = _chained(models, tape, runs.rounded, port, matching, backward)
        for error in errors:
            result.facts["Paddle raised"] = f"{type(error).__name__}: {str(error).strip()}"
        weights = [*_weight_faults(models, matching, initial)]
        findings: list[Finding] = []
        after = _after_step(models, port, matching, result)
        if isolated:
            progress("every layer alone, on the reference's inputs")
            findings, after = _isolated(models, tape, port, matching, backward)
        result.culprits = locate(
            [record.path for record in tape],
            matching.twins,
            _disagreements(models, matching),
            weights,
            findings,
            [*_state_faults(models, tape, after, {(fault.layer, fault.name) for fault in weights}, initial)],
            Causes(tape, models.reference_settings, initial, alternatives).explain,
        )
    return result


def _run_torch(
    module: torch.nn.Module, dtype: torch.dtype, arrays: Sequence[np.ndarray], store: Store, seed: int, backward: bool
) -> Tape:  # fmt: skip
    with torch_in(module, dtype):
        return capture_torch.capture(module, arrays, store, _start(torch, seed, backward))


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
    def side(settings: Mapping[str, Settings], leaf_paths: frozenset[str], run: Tape) -> Side:
        returns = {record.path: [ref.shape for ref in record.output_refs()] for record in run if record.call == 0}
        return Side(settings, leaf_paths, run.begun(), returns)

    def weighted(of: Side) -> list[Layer]:
        return [Layer(p, of.layers[p].category, of.layers[p].shapes) for p in of.called if of.layers[p].has_weights]

    reference = side(models.reference_settings, models.reference_leaves(), tape)
    theirs = side(models.port_settings, models.port_leaves(), port)
    given = {} if isinstance(key_map, str) else dict(key_map)
    _refuse_unknown(given, models)
    with_weights = {path: twin for path, twin in given.items() if reference.layers[path].has_weights}
    return match(reference, theirs, given | pair_layers(weighted(reference), weighted(theirs), with_weights))


def _refuse_unknown(given: Mapping[str, str], models: Borrowed) -> None:
    unknown = [f"{path} in torch" for path in given if path not in models.reference]
    unknown += [f"{twin} in Paddle" for twin in given.values() if twin not in models.port]
    if unknown:
        raise ValueError(f"the key map names layers that do not exist: {', '.join(unknown)}")


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
    result = compare_tapes(title, tape, port, measure_floor(tape, rounded, "float64"), matching.calls, partial)
    if backward:
        parameters = parameter_pairs(models, matching.twins)
        result.rows += compare_gradients(tape, rounded, port, matching.calls, parameters, partial)
    for paths, side, kinds in (
        (matching.only_reference, "torch", tape.layers),
        (matching.only_port, "Paddle", port.layers),
    ):
        result.skipped += [Skipped(path, kinds[path], side, reason) for path, reason in paths.items()]
    result.facts.update(models.notes)
    return result


def _disagreements(models: Borrowed, matching: Matching) -> dict[str, dict[str, tuple[Any, Any]]]:
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for path, twin in matching.pairs():
        if fields := disagreements(models.reference_settings[path], models.port_settings[twin]):
            found[path] = found.get(path, {}) | fields
    return found


def _weight_faults(models: Borrowed, matching: Matching, initial: Tensors) -> Iterator[WeightFault]:
    index = WeightIndex({join(path, name): array for path, own in initial.items() for name, array in own.items()})
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
                yield WeightFault(path, name, found.relative, found.mismatch, weight_cause(array, other, index))


def _isolated(
    models: Borrowed, tape: Tape, port: Tape, matching: Matching, backward: bool
) -> tuple[list[Finding], After]:
    """What every layer did alone, and the buffers that it left."""
    leaf_twins, made = models.port_leaves(), port.by_key()
    returns = {
        key: [ref.shape for ref in made[twin].output_refs()] for key, twin in matching.calls.items() if twin in made
    }

    def leaf(twin: str, record: Record, grads: Sequence[Any]) -> Any:
        taken = _as_taken(tape, record, models.reference_settings[record.path], models.port_settings[twin])
        return replay_leaf(models.port[twin], tape, taken, grads, backward)

    def container(twin: str, record: Record, calls: Sequence[Record]) -> Any:
        inner = {call.key: models.port[matching.calls[call.key][0]] for call in calls}
        return replay_container(models.port[twin], tape, record, calls, inner, backward, returns)

    with state_restored(models.paddle_layer):
        measured = isolate(
            tape,
            matching.twins,
            matching.calls,
            leaf,
            container,
            lambda twin: twin not in leaf_twins,
            _partial(models, matching),
            _judged_parameters(models, matching) if backward else {},
        )
        called = {record.path for record in tape}
        twins = {path: twin for path, twin in matching.twins.items() if path in called}
        after = {path: (paddle_tensors(models.port[twin]), FORWARD_LIMIT) for path, twin in twins.items()}
    return measured.findings, after


def _judged_parameters(models: Borrowed, matching: Matching) -> dict[str, tuple[str, str]]:
    """``{name in torch: (its layer, the parameter's unique name in Paddle)}``."""
    unique = {
        join(path, name): parameter.name
        for path, layer in models.port.items()
        for name, parameter in layer._parameters.items()
        if parameter is not None
    }
    pairs = parameter_pairs(models, matching.twins)
    return {name: (path, unique[twin]) for name, (path, twin) in pairs.items() if twin in unique}


def _after_step(models: Borrowed, port: Tape, matching: Matching, result: Result) -> After:
    """From the chained run: of layers whose outputs are still the reference's."""

    def buffers(twin: str) -> dict[str, np.ndarray]:
        names = {name: join(twin, name) for name in paddle_tensors(models.port[twin])}
        return {name: port.get(port.buffers[full]) for name, full in names.items() if full in port.buffers}

    rows = [row for row in result.rows if row.direction == "forward" and row.aligned]
    return {row.layer: (buffers(row.twin), row.allowed) for row in rows if matching.twins.get(row.layer) == row.twin}


def _as_taken(tape: Tape, record: Record, reference: Settings, port: Settings) -> Record:
    """The record with its inputs as the twin takes them: (B, C, H, W) as (B, C * H * W) where it is a linear layer."""
    if {reference.category, port.category} != AFFINE:
        return record
    sides = (-1,) if port.category == "linear" else port.shapes["weight"][1:]

    def reshaped(ref: Any) -> Any:
        return tape.store.put(tape.get(ref).reshape(ref.shape[0], *sides), shared=True)

    return replace(record, args=mapped(record.args, is_ref, reshaped))


def _state_faults(
    models: Borrowed,
    tape: Tape,
    after: After,
    wrong: set[tuple[str, str]],
    initial: Tensors,
) -> Iterator[StateFault]:
    """Buffers that were right (not in ``wrong``) and that the run left otherwise than the reference's."""
    for path, (buffers, allowed) in after.items():
        for name, before in initial[path].items():
            full, actual = join(path, name), buffers.get(twin_name(name))
            if full not in tape.buffers or actual is None or (path, name) in wrong:
                continue
            expected = tape.get(tape.buffers[full])
            found = compare(expected, actual)
            if not found.relative <= allowed:
                momentum = models.reference_settings[path].fields.get("momentum")
                cause = state_cause(before.astype(np.float64), expected, actual, momentum)
                yield StateFault(path, name, found.relative, cause)
