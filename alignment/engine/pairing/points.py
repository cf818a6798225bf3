"""Find the points where both models have the same value. No framework.

A layer of one model may do more than its twin: a normalisation may contain its activation, a convolution a folded
normalisation. The two then have a common value only further on, or further inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignment.engine.pairing.calls import PASSIVE, Matching, Model
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape


@dataclass(frozen=True, eq=False)
class Point:
    """A call of the reference, as it is compared with the port's.

    ``outputs`` are the reference's values that the port's call must return and ``seeds`` the gradients that reach them;
    ``own`` tells whether the reference's call itself returns them. ``cut`` tells whether both calls are single layers
    with the same tensors, at which a graph can be cut. ``folded`` names a normalisation that the port's layer contains
    as well.
    """

    record: Record
    outputs: Sequence[Ref]
    seeds: Sequence[Slot | None]
    own: bool
    cut: bool
    folded: str = ""


def plain_point(record: Record) -> Point:
    """Return the point of a call that is compared by its outputs."""
    return Point(record, record.output_refs(), record.seeds(), True, False)


def find_points(reference: Model, port: Model, tape: Tape, found: Matching) -> dict[Key, Point]:
    """Return the point of every paired call, by the reference's call."""
    inside, users = tape.children(), _users(tape, reference)
    points = {}
    for record in tape:
        if record.key not in found.calls:
            continue
        twin = found.calls[record.key][0]
        where = _inner(record, twin, reference, port, inside, found) or _further(
            record, twin, reference, port, users, found
        )
        norm = _folded(record, _only_user(record, users), reference, port, twin, found)
        outputs, seeds = where or (record.output_refs(), record.seeds())
        single = not inside[record.key] or where is not None
        cut = single and twin not in port.composite and record.path in found.whole
        points[record.key] = Point(record, outputs, seeds, where is None, cut, norm.path if norm else "")
    return points


Place = tuple[list[Ref], list[Slot | None]]


def _inner(
    record: Record, twin: str, reference: Model, port: Model, inside: Mapping[Key, Sequence[Record]], found: Matching
) -> Place | None:
    """Return the input of the first layer inside a layer with weights, if the twin only computes up to it."""
    calls = inside[record.key]
    alone = (
        calls
        and record.path != ROOT
        and reference.layers[record.path].has_weights
        and twin not in port.composite
        and "activation" not in port.layers[twin].fields
        and not any(reference.layers[call.path].has_weights for call in calls)
    )
    return (calls[0].input_refs(), calls[0].input_grads) if alone else None


def _further(
    record: Record, twin: str, reference: Model, port: Model, users: Mapping[int, Sequence[Record]], found: Matching
) -> Place | None:
    """Return the output of the next layer, if the twin contains that layer as well."""
    if record.path == ROOT or len(record.output_refs()) != 1:
        return None
    follower = _only_user(record, users)
    norm = _folded(record, follower, reference, port, twin, found)
    if norm is not None:
        record, follower = norm, _only_user(norm, users)
        if not _does_more(twin, port):
            return record.output_refs(), record.seeds()
    more = _does_more(twin, port) and not _does_more(record.path, reference)
    if more and follower is not None and reference.layers[follower.path].category == "activation":
        return follower.output_refs(), follower.seeds()
    return None


def _only_user(record: Record, users: Mapping[int, Sequence[Record]]) -> Record | None:
    refs = record.output_refs()
    found = users.get(refs[0].index, ()) if len(refs) == 1 else ()
    return found[0] if len(found) == 1 else None


def _does_more(path: str, model: Model) -> bool:
    """Return whether a layer with weights contains an activation, as a setting or as a layer inside."""
    if "activation" in model.layers[path].fields:
        return True
    inside = [p for p in model.layers if p.startswith(f"{path}.")] if model.layers[path].has_weights else []
    return any(model.layers[p].category == "activation" for p in inside)


def _folded(
    record: Record, follower: Record | None, reference: Model, port: Model, twin: str, found: Matching
) -> Record | None:
    """Return the normalisation behind a layer, if the port lacks it and has a bias in the layer instead."""
    if follower is None:
        return None
    is_one = (
        reference.layers[record.path].category in ("conv", "conv_transpose", "linear")
        and follower.path not in found.twins
        and reference.layers[follower.path].category == "batch_norm"
        and "bias" in port.layers[twin].shapes
    )
    return follower if is_one else None


def _users(tape: Tape, reference: Model) -> dict[int, list[Record]]:
    """Return the single layers that take each tensor, by its handle; layers that return their input do not count."""
    inside, users = tape.children(), {}
    for record in tape:
        if not inside[record.key] and not _hands_on(record, reference):
            for ref in record.input_refs():
                users.setdefault(ref.index, []).append(record)
    return users


def _hands_on(record: Record, reference: Model) -> bool:
    """Return whether a layer returns its input tensor itself, as an identity does."""
    taken, returned = ([ref.index for ref in refs] for refs in (record.input_refs(), record.output_refs()))
    return reference.layers[record.path].category in PASSIVE and taken == returned
