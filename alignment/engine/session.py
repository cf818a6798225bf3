"""``align``: is this Paddle layer the same as that torch module, and if not, which layer is at fault?

It knows no model. Both frameworks meet here; the comparison itself is ``alignment.engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import paddle
import torch

from alignment.engine.audit import After, Tensors, left_in_chain, setting_faults, state_faults, weight_faults
from alignment.engine.borrowed import Borrowed, borrow, parameter_pairs
from alignment.engine.explaining.causes import Causes
from alignment.engine.judging.gradients import compare_gradients
from alignment.engine.judging.noise import FORWARD_LIMIT, NoiseFloor
from alignment.engine.judging.outputs import compare_tapes
from alignment.engine.locating.culprits import locate
from alignment.engine.locating.isolate import Finding, isolate_layers, seen_alone
from alignment.engine.pairing.calls import Matching, Side, match
from alignment.engine.records.losses import LOSS, LossCase
from alignment.engine.records.store import MEMORY, Budget
from alignment.engine.records.tape import Record, Tape, is_ref
from alignment.engine.records.tree import mapped
from alignment.engine.result import Culprit, Result, Skipped
from alignment.engine.runs import (
    Loss,
    Reference,
    Start,
    give_back_memory,
    run_port,
    run_reference,
    start_of,
    threads_as_torch,
)
from alignment.engine.sides.model import join
from alignment.engine.sides.paddle.borrow import paddle_in, paddle_tensors, state_restored
from alignment.engine.sides.paddle.replay import replay_container, replay_leaf
from alignment.engine.sides.settings import AFFINE, Settings
from alignment.engine.sides.torch.alternatives import alternatives
from alignment.engine.sides.torch.borrow import torch_tensors
from alignment.engine.sides.torch.other_losses import loss_cause
from convert.matching.pairing import Layer, pair_layers

Inputs = np.ndarray | Sequence[Any] | Mapping[str, Any]
Progress = Callable[[str], None]
SEEN = "not run again: in the chain each took and returned the reference's own values, to the limit of a layer alone"


def align(
    torch_module: torch.nn.Module,
    paddle_layer: paddle.nn.Layer,
    inputs: Inputs,
    labels: Any = None,
    loss: str | tuple[Loss, Loss] | None = None,
    *,
    key_map: str | Mapping[str, str] = "auto",
    mode: str = "eval",
    dtype: str = "float64",
    backward: bool = True,
    isolate: bool = True,
    seed: int = 0,
    max_memory: int = MEMORY,
    reference: Reference | None = None,
    progress: Progress = lambda line: None,
) -> Result:
    """Compare every layer of ``paddle_layer`` with its twin in ``torch_module``, and find the layers at fault.

    ``inputs``: the arguments of both models: one array, a sequence of arrays, or a mapping by name. ``loss``: a name
    of ``alignment.engine.runs.LOSSES``, or two functions ``(output, *labels) -> number``, for torch and for Paddle; it
    is compared as one more layer, ``(loss)``, and gradients start at it. Labels without a loss mean cross entropy.
    Without either, gradients start from a random direction, drawn with ``seed``, at every output.

    ``key_map``: ``"auto"``, or ``{layer path in torch: in Paddle}`` for layers that cannot be told apart. ``mode`` is
    ``eval`` or ``train``; dropout is off in either. Everything is judged in float64, and both models are given back as
    they came. With ``dtype="float32"`` the port runs in float32 too, beside the reference's own float32 noise:
    ``result.working`` informs, float64 judges.

    ``max_memory`` bytes of the records stay in memory, the others go to a temporary file. ``reference`` saves the runs
    of torch when one module is compared with several ports. An exception in the Paddle model ends its chained run;
    its layers are then still compared alone.

    Raises ``AmbiguousMatch`` where a layer with weights has several possible twins, and ``ValueError`` for an unknown
    ``mode``, ``dtype`` or loss, or a loss that is not one number.
    """
    _refuse_unknown_type(dtype)
    start = start_of(loss, labels, seed) if backward else None
    runs, budget = reference or Reference(), Budget(max_memory)
    with borrow(torch_module, paddle_layer, mode) as models, threads_as_torch(), paddle_in(paddle_layer, "float64"):
        if start is not None and start.torch_loss is not None:
            models.add(LOSS, start.torch_loss, start.paddle_loss, LOSS)
        initial = {path: torch_tensors(layer) for path, layer in models.reference.items()}
        if runs.tape is None:
            runs.tape, runs.errors = run_reference(models, inputs, start, budget, progress)
        progress("Paddle in float64")
        result, port, matching = _chained_run(models, runs, inputs, start, "float64", budget, key_map)
        result.culprits = _culprits(models, runs, port, matching, result, start, initial, isolate, progress)
        if dtype == "float32":
            progress("Paddle in float32, for information")
            result.working = _chained_run(models, runs, inputs, start, dtype, budget, key_map)[0]
    return result


def _culprits(
    models: Borrowed, runs: Reference, port: Tape, matching: Matching, result: Result, start: Start | None,
    initial: Tensors, isolate: bool, progress: Progress,
) -> list[Culprit]:  # fmt: skip
    """The layers at fault by everything that is known of them; those unseen in the chain are run alone for it."""
    weights = [*weight_faults(models, matching, initial)]
    known = {(fault.layer, fault.name) for fault in weights}
    states = [*state_faults(models, runs.tape, left_in_chain(models, port, matching, result), known, initial)]
    findings: list[Finding] = []
    if isolate and seen_alone(result.rows) and not states:
        result.facts["every layer alone"] = SEEN
    elif isolate:
        progress("every layer alone, on the reference's inputs")
        give_back_memory()
        findings, after = _isolated(models, runs, port, matching, start is not None)
        states = [*state_faults(models, runs.tape, after, known, initial)]
    return locate(
        [record.path for record in runs.tape],
        matching.twins,
        setting_faults(models, matching),
        weights,
        findings,
        states,
        Causes(runs.tape, models.reference_settings, initial, alternatives, _loss_cause(start)).explain,
    )


def _loss_cause(start: Start | None) -> Callable[[LossCase], str]:
    return partial(loss_cause, start.torch_loss) if start and start.torch_loss else lambda case: ""


def _refuse_unknown_type(dtype: str) -> None:
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype must be 'float64' or 'float32', got {dtype!r}")


def _chained_run(
    models: Borrowed, runs: Reference, inputs: Inputs, start: Start | None, dtype: str, budget: Budget,
    key_map: str | Mapping[str, str],
) -> tuple[Result, Tape, Matching]:  # fmt: skip
    """The whole port in ``dtype``, compared layer by layer with the reference in float64."""
    errors: list[Exception] = []
    port = run_port(models, inputs, start, dtype, budget, runs.tape, errors.append)
    matching = _match(models, runs.tape, port, key_map)
    result = _compared(models, runs.tape, port, runs.floor(dtype), matching, start is not None)
    for error in errors:
        result.facts["Paddle raised"] = f"{type(error).__name__}: {str(error).strip()}"
    return result, port, matching


def _match(models: Borrowed, tape: Tape, port: Tape, key_map: str | Mapping[str, str]) -> Matching:
    def side(settings: Mapping[str, Settings], leaf_paths: frozenset[str], run: Tape) -> Side:
        returns = {record.path: [ref.shape for ref in record.output_refs()] for record in run if record.call == 0}
        return Side(settings, leaf_paths, run.begun(), returns)

    def weighted(of: Side) -> list[Layer]:
        return [Layer(p, of.layers[p].category, of.layers[p].shapes) for p in of.called if of.layers[p].has_weights]

    reference = side(models.reference_settings, models.reference_leaves(), tape)
    theirs = side(models.port_settings, models.port_leaves(), port)
    given = {} if isinstance(key_map, str) else dict(key_map)
    _refuse_unknown_layers(given, models)
    with_weights = {path: twin for path, twin in given.items() if reference.layers[path].has_weights}
    return match(reference, theirs, given | pair_layers(weighted(reference), weighted(theirs), with_weights))


def _refuse_unknown_layers(given: Mapping[str, str], models: Borrowed) -> None:
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


def _compared(
    models: Borrowed, tape: Tape, port: Tape, floor: NoiseFloor, matching: Matching, backward: bool
) -> Result:  # fmt: skip
    title = f"{type(models.torch_module).__name__}: torch against Paddle"
    partial = _partial(models, matching)
    result = compare_tapes(title, tape, port, floor, matching.calls, partial)
    if backward:
        parameters = parameter_pairs(models, matching.twins)
        result.rows += compare_gradients(tape, port, floor, matching.calls, parameters, partial)
    for paths, side, kinds in (
        (matching.only_reference, "torch", tape.layers),
        (matching.only_port, "Paddle", port.layers),
    ):
        result.skipped += [Skipped(path, kinds[path], side, reason) for path, reason in paths.items()]
    result.facts.update(models.notes)
    return result


def _isolated(
    models: Borrowed, runs: Reference, port: Tape, matching: Matching, backward: bool
) -> tuple[list[Finding], After]:
    """What every layer did alone, and the buffers that it left."""
    tape, leaf_twins, made = runs.tape, models.port_leaves(), port.by_key()
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
        measured = isolate_layers(
            tape,
            runs.floor("float64"),
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


def _as_taken(tape: Tape, record: Record, reference: Settings, port: Settings) -> Record:
    """The record with its inputs as the twin takes them: (B, C, H, W) as (B, C * H * W) where it is a linear layer."""
    if {reference.category, port.category} != AFFINE:
        return record
    sides = (-1,) if port.category == "linear" else port.shapes["weight"][1:]

    def reshaped(ref: Any) -> Any:
        return tape.store.put(tape.get(ref).reshape(ref.shape[0], *sides))

    return replace(record, args=mapped(record.args, is_ref, reshaped))
