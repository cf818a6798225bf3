"""Compare two records made on machines with one framework each; needs neither framework."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from alignment.engine.judging.by_name import compare_tapes
from alignment.engine.judging.limits import NoiseFloor, credible
from alignment.engine.judging.noise import Noise
from alignment.engine.records.files import TapeError, load_tape
from alignment.engine.records.store import Store
from alignment.engine.records.tape import Tape
from alignment.engine.reporting.report import Report


def compare_records(torch_folder: str | os.PathLike[str], paddle_folder: str | os.PathLike[str]) -> Report:
    """Compare the record of the Paddle side with that of the torch side, layer by layer, by name.

    Raises ``TapeError`` where a record is missing or damaged, or the two do not belong together.
    """
    exact, facts, measured = load_tape(torch_folder)
    if measured is None:
        raise TapeError(f"{torch_folder} is no record of the torch side: it has no noise floor; is it the second one?")
    port, port_facts, port_measured = load_tape(paddle_folder)
    if port_measured is not None:
        raise TapeError(f"{paddle_folder} is a record of the torch side, too; pass the Paddle side second")
    _refuse_other_runs(facts, port_facts)
    _refuse_other_extent(exact, port)
    _refuse_non_finite(exact, torch_folder)
    noise, leaks = (_noise(exact.store, found) for found in (measured.errors, measured.leaks))
    floor = NoiseFloor("float64", credible(exact, noise), leaks)
    title = f"{facts.get('model', 'model')}: torch against Paddle"
    found = compare_tapes(title, exact, port, floor, backward=bool(exact.param_grads and port.param_grads))
    facts = {
        **{f"torch side, {name}": value for name, value in facts.items()},
        **{f"Paddle side, {name}": value for name, value in port_facts.items()},
    }
    return Report(**{**vars(found), "facts": facts})


def _noise(store: Store, errors: Mapping[int, float]) -> dict[int, Noise]:
    return {n: Noise(error, float(np.abs(store.get(store.refs[n])).max(initial=0.0))) for n, error in errors.items()}


def _refuse_other_runs(facts: Mapping[str, str], port_facts: Mapping[str, str]) -> None:
    for name in ("model", "mode"):
        ours, theirs = facts.get(name), port_facts.get(name)
        if ours != theirs:
            raise TapeError(f"the records do not belong together: {name} {ours} in torch, {theirs} in Paddle")


def _refuse_other_extent(exact: Tape, port: Tape) -> None:
    sides = {"torch": bool(exact.param_grads), "Paddle": bool(port.param_grads)}
    if len({*sides.values()}) > 1:
        with_gradients, without = sorted(sides, key=sides.__getitem__, reverse=True)
        raise TapeError(
            f"the records do not belong together: {with_gradients} has gradients, {without} has none; record both with "
            "--forward-only, or neither"
        )


def _refuse_non_finite(exact: Tape, folder: str | os.PathLike[str]) -> None:
    """Raise ``TapeError`` if the reference is not finite: the port may have the same NaN for another reason."""
    for record in exact:
        if not all(np.isfinite(array).all() for array in exact.outputs(record) if array.dtype.kind in "fc"):
            raise TapeError(f"{folder}: {record.path} is NaN or infinite in the reference, which then judges nothing")
