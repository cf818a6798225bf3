"""Find the inputs and outputs of each call, and remove unused computations. No framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from convert.translate.plain import Call, Op, Program, Ref, State


def references(value: Any) -> Iterator[Ref | State]:
    """Yield every tensor in an argument, in order."""
    if isinstance(value, (Ref, State)):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)


def link(program: Program, opaque: Callable[[str], bool]) -> Program:
    """Fill in the inputs and outputs of every call and drop unused steps.

    ``opaque`` returns whether the module at a path is a layer translated as a whole.
    """
    needed = set(program.root.outputs)
    _prune(program.root, needed)
    _connect(program.root, program, opaque)
    return program


def _prune(call: Call, needed: set[int]) -> None:
    kept: list[Op | Call] = []
    for step in reversed(call.body):
        if isinstance(step, Call):
            if step.outputs:  # a layer recorded by a mark only
                if needed.intersection(step.outputs):
                    needed.update(ref.number for ref in step.inputs if isinstance(ref, Ref))
                    kept.append(step)
                continue
            _prune(step, needed)
            if step.body:
                kept.append(step)
        elif needed.intersection(step.outputs):
            needed.update(ref.number for ref in references(step.args) if isinstance(ref, Ref))
            kept.append(step)
    call.body = kept[::-1]


def _made(call: Call) -> Iterator[int]:
    yield from call.outputs if not call.body else ()
    for step in call.body:
        if isinstance(step, Call):
            yield from _made(step)
        else:
            yield from step.outputs


def used(call: Call) -> Iterator[Ref | State]:
    """Yield every tensor that a step inside takes, in order."""
    if not call.body:
        yield from call.inputs
    for step in call.body:
        yield from used(step) if isinstance(step, Call) else references(step.args)


def _connect(call: Call, program: Program, opaque: Callable[[str], bool]) -> None:
    """Set the inputs and outputs of the calls in ``call``, whose own outputs are known."""
    users: dict[int, list[int]] = {}
    for position, step in enumerate(call.body):
        for ref in used(step) if isinstance(step, Call) else references(step.args):
            if isinstance(ref, Ref):
                users.setdefault(ref.number, []).append(position)
    calls = [(position, step) for position, step in enumerate(call.body) if isinstance(step, Call) and step.body]
    for position, step in calls:
        going_out = [
            number
            for number in dict.fromkeys(_made(step))
            if number in call.outputs or any(user != position for user in users.get(number, ()))
        ]
        step.outputs = sorted(going_out, key=partial(_place_in, step.returned))
    _agree([step for _, step in calls])
    for _, step in calls:
        inside, taken = dict.fromkeys(_made(step)), dict.fromkeys(used(step))
        step.inputs = [ref for ref in taken if _comes_in(ref, step, inside, program)]
    _take_alike([step for _, step in calls])
    for _, step in calls:
        if not opaque(step.path):
            _connect(step, program, opaque)


def _by_path(calls: list[Call]) -> list[list[Call]]:
    """Group the calls by module."""
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.path, []).append(call)
    return [*found.values()]


def _take_alike(calls: list[Call]) -> None:
    """Give calls of one module the same number of inputs.

    A call may pass one tensor twice, as the first step of a recurrent cell does.
    """
    for same in _by_path(calls):
        most = max(same, key=lambda call: len(call.inputs))
        for call in same:
            twins = dict(zip(used(most), used(call)))
            if len(call.inputs) < len(most.inputs) and twins.keys() >= {*most.inputs}:
                call.inputs = [twins[ref] for ref in most.inputs]


def _agree(calls: list[Call]) -> None:
    """Give calls of one module the same number of outputs.

    Some outputs of a call may be unused, as in the last step of a recurrent cell.
    """
    for same in _by_path(calls):
        places = sorted({_place_in(call.returned, number) for call in same for number in call.outputs})
        made = [{*_made(call)} for call in same]
        if len({tuple(call.outputs) for call in same}) > 1 and all(
            place < len(call.returned) and call.returned[place] in inside
            for call, inside in zip(same, made, strict=True) for place in places
        ):  # fmt: skip
            for call in same:
                call.outputs = [call.returned[place] for place in places]


def _place_in(returned: list[int], number: int) -> int:
    return returned.index(number) if number in returned else len(returned)


def _comes_in(ref: Ref | State, call: Call, inside: dict[int, None], program: Program) -> bool:
    if isinstance(ref, Ref):
        return ref.number not in inside
    return bool(call.path) and not ref.path.startswith(f"{call.path}.") and ref.path not in program.constants
