"""Settings that differ on purpose: the user accepts them with a reason. No framework.

``accept={"slope": "Paddle's Hardsigmoid has no other"}`` accepts that field in every layer, ``{"neck.act:slope": ...}``
in one. An accepted setting is only removed from the faults: the reference runs again with the port's setting, and any
remaining difference is judged as usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignment.engine.judging.settings import MODE_FIELDS, SettingDifference

SEPARATOR = ":"
"""The separator between a layer's path and a field's name."""


@dataclass(frozen=True)
class Accepted:
    """A setting of ``layer`` that differs on purpose, and the reason."""

    layer: str
    field: str
    value: Any
    words: str
    reason: str


@dataclass(frozen=True)
class Split:
    """Setting differences, accepted or not; ``unused`` are accepted names that match no difference."""

    faults: Mapping[str, Sequence[SettingDifference]]
    accepted: Sequence[Accepted] = ()
    unused: Sequence[str] = field(default=())

    def wanted(self) -> dict[str, dict[str, Any]]:
        """Return ``{layer: {field: value}}``: the accepted values that the reference has to be set to."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.accepted:
            found.setdefault(one.layer, {})[one.field] = one.value
        return found


def split(compared: Mapping[str, Sequence[SettingDifference]], accept: Mapping[str, str]) -> Split:
    """Remove the accepted fields from ``compared``, which lists differing settings by layer.

    Raises ``ValueError`` for a name without a reason, and for a mode, which is not a setting of a layer.

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
    """Describe the accepted settings for the verdict, each with its reason; layers of one setting are grouped."""
    layers: dict[tuple[str, str], list[str]] = {}
    for one in accepted:
        layers.setdefault((one.words, one.reason), []).append(one.layer)
    return "; ".join(
        f"{words} in {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''} (accepted: {reason})"
        for (words, reason), paths in layers.items()
    )
