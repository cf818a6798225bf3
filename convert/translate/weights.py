"""Derive the key map between a torch module and its port from the translation. numpy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convert.matching.key_map import TRANSPOSE, KeyMap, Line
from convert.translate.classes import Translation
from convert.translate.plain import Program

COUNTER = "Paddle counts no batches"
MADE = "the forward method makes it"
COMPUTED = "a constant of the forward method, which the port keeps as a buffer"


def key_map(program: Program, translation: Translation) -> KeyMap:
    """Return the key map with one line for every tensor of both sides."""
    lines = []
    for name, target in translation.names.items():
        if name in program.constants:
            lines.append(Line(None, target, dropped=COMPUTED))
        elif target is None:
            counter = name.endswith("num_batches_tracked")
            lines.append(Line(name, None, dropped=COUNTER if counter else MADE))
        else:
            lines.append(Line(name, target, (TRANSPOSE,) if name in translation.transposed else ()))
    return KeyMap(tuple(lines))


def port_arrays(key_map: KeyMap, program: Program, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert ``{name in torch: array}`` to ``{name in the port: array}``, including constants of forward methods.

    These constants have the precision of the trace, float64; ``stored`` rounds them.
    """
    return key_map.apply(arrays) | {name: np.asarray(value) for name, value in program.constants.items()}


def stored(arrays: Mapping[str, np.ndarray], program: Program) -> dict[str, np.ndarray]:
    """Return the ``arrays`` of a port as they are saved: constants of forward methods become float32, like buffers."""
    double = {name for name in program.constants if arrays[name].dtype == np.float64}
    return {name: array.astype(np.float32) if name in double else array for name, array in arrays.items()}
