"""Settings that a port has on purpose: named by the user with a reason, and shown to be all that differs. No framework.

``accept={"slope": "Paddle's Hardsigmoid has no other"}`` accepts that field in every layer, ``{"neck.act:slope": ...}``
in one. It takes a setting out of the faults and nothing else: the reference is run again with that setting, and what
the port computes otherwise then is judged as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignment.engine.judging.settings import MODE_FIELDS, SettingDifference

SEPARATOR = ":"
"""Between a layer's path and the name of a field."""


@dataclass(frozen=True)
class Accepted:
    """A setting of ``layer`` that differs, is meant to, and why."""

    layer: str
    field: str
    value: Any
    words: str
    reason: str


@dataclass(frozen=True)
class Split:
    """Setting differences by whether they were accepted; ``unused`` are names that no difference bears."""

    faults: Mapping[str, Sequence[SettingDifference]]
    accepted: Sequence[Accepted] = ()
    unused: Sequence[str] = field(default=())

    def wanted(self) -> dict[str, dict[str, Any]]:
        """``{layer: {field: value}}``: how the reference is to be set to be what was accepted."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.accepted:
            found.setdefault(one.layer, {})[one.field] = one.value
        return found


def split(compared: Mapping[str, Sequence[SettingDifference]], accept: Mapping[str, str]) -> Split:
    """Take the accepted fields out of ``compared``, by layer the settings that differ.

    Raises ``ValueError`` for a name without a reason, and for a mode, which is no setting of a layer.

    >>> slope = SettingDifference("slope", 0.2, 0.1, True, "slope 0.1 instead of 0.2")
    >>> found = split({"act": [slope]}, {"slope": "as published"})
    >>> found.wanted(), found.faults
    ({'act': {'slope': 0.1}}, {})
    """
    _refuse_unreasoned(accept)
    faults: dict[str, list[SettingDifference]] = {}
    accepted, used = [], set()
    for layer, differences in compared.items():
        for found in differences:
            names = [name for name in (f"{layer}{SEPARATOR}{found.field}", found.field) if name in accept]
            used.update(names)
            if names and found.fault:
                accepted.append(Accepted(layer, found.field, found.port, found.words, accept[names[0]]))
            else:
                faults.setdefault(layer, []).append(found)
    return Split(faults, accepted, [name for name in accept if name not in used])


def _refuse_unreasoned(accept: Mapping[str, str]) -> None:
    for name, reason in accept.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"accept needs a reason for {name!r}: {{{name!r}: 'why the port differs on purpose'}}")
        if name.rpartition(SEPARATOR)[2] in MODE_FIELDS:
            raise ValueError(f"{name!r} is a mode and cannot be accepted; put both models into the same mode")


def in_words(accepted: Iterable[Accepted]) -> str:
    """What a verdict says after ALIGNED: each setting with its reason, layers of one setting together."""
    layers: dict[tuple[str, str], list[str]] = {}
    for one in accepted:
        layers.setdefault((one.words, one.reason), []).append(one.layer)
    return "; ".join(
        f"{words} in {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} (accepted: {reason})"
        for (words, reason), paths in layers.items()
    )
