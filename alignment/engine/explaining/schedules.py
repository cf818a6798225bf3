"""How a schedule of the learning rate differs from the reference's, from the rates of all steps. numpy only."""

from __future__ import annotations

import numpy as np

from alignment.engine.explaining.optimizer_rules import SAME


def rate_cause(a: np.ndarray, b: np.ndarray) -> str:
    """``a`` and ``b``: the rates of all steps, of the reference and of the port."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return len(x) > 1 and bool(np.all(np.abs(x - y) <= SAME * np.abs(x)))

    if np.ptp(a) and same(a[1:], b[:-1]):
        return "the learning rate of step k is that of step k + 1 (one step ahead)"
    if np.ptp(a) and same(a[:-1], b[1:]):
        return "the learning rate of step k is that of step k - 1 (one step behind)"
    if np.ptp(a) and not np.ptp(b):
        return f"the learning rate stays {b[0]:.9g}: the schedule is never stepped"
    if np.all(a) and np.ptp(b / a) <= SAME * abs(b[0] / a[0]):
        return f"the learning rate is {b[0] / a[0]:.6g} times the reference's"
    return "another schedule of the learning rate"
