"""Layer groups for layer-wise learning-rate decay, as ``timm.models.group_parameters`` forms them. No framework."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

STATISTICS = ("_mean", "_variance")
"""BatchNorm's buffers, which Paddle counts as parameters."""
# a suffix ending in this ordinal joins the previous group instead of starting one (timm: MATCH_PREV_GROUP)
JOIN_PREVIOUS = 99999


Matcher = Mapping[str, str | Sequence[tuple[str, tuple[int, ...] | None]]]
"""See ``layer_groups``."""


def layer_groups(names: Iterable[str], matcher: Matcher) -> dict[str, int]:
    """Sort parameter names into consecutive groups from the input to the output.

    ``matcher`` maps a section to one regular expression, or to a list of ``(expression, suffix)``. The first match
    gives the ordinal ``(section, *captured numbers, *suffix)``. Names without a match (the head) come last.
    Returns ``{name: group}``, groups numbered from 0.
    """
    rules = list(_rules(matcher))
    ordinals = {name: _ordinal(name, rules) for name in names}
    groups: dict[tuple[float, ...], int] = {}
    group = -1
    for ordinal in sorted(set(ordinals.values())):
        if group < 0 or ordinal[-1] != JOIN_PREVIOUS:
            group += 1
        groups[ordinal] = group
    return {name: groups[ordinal] for name, ordinal in ordinals.items()}


def _rules(matcher: Matcher) -> Iterable[tuple[re.Pattern[str], int, tuple[int, ...]]]:
    for section, spec in enumerate(matcher.values()):
        for expression, suffix in [(spec, None)] if isinstance(spec, str) else spec:
            yield re.compile(expression), section, suffix or ()


def _ordinal(name: str, rules: list[tuple[re.Pattern[str], int, tuple[int, ...]]]) -> tuple[float, ...]:
    for pattern, section, suffix in rules:
        match = pattern.match(name)
        if match:
            return (float(section), *(float(g) for g in match.groups() if g is not None), *map(float, suffix))
    return (float("inf"),)
