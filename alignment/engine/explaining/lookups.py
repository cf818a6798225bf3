"""Hypotheses on embeddings: the padding row, indices off by one. numpy only."""

from __future__ import annotations

import numpy as np

from alignment.engine.explaining.case import Case


def lookup(case: Case, ids: np.ndarray, table: np.ndarray, padding_idx: int | None) -> str:
    """Describe what an embedding does with ``ids`` instead of returning the rows of ``table``."""
    if not case.same_shape or ids.dtype.kind not in "iu" or case.expected.shape != (*ids.shape, table.shape[1]):
        return ""
    gone = case.expected.any(-1) & ~case.actual.any(-1)
    rows = np.unique(ids[gone])
    if len(rows) == 1 and case.is_actual(np.where((ids == rows[0])[..., None], 0, case.expected)):
        return _zero_row(int(rows[0]), padding_idx, len(table))
    for step in (1, -1):
        others = ids.astype(np.int64) + step
        if others.min(initial=0) >= 0 and others.max(initial=0) < len(table) and case.is_actual(table[others]):
            return f"ids are larger by {step}: each takes the row {'after' if step > 0 else 'before'} its own"
    return ""


def _zero_row(row: int, padding_idx: int | None, rows: int) -> str:
    if padding_idx is not None and padding_idx % rows == row:
        return f"the row of padding_idx {row} is returned as zeros, as Paddle does; torch returns the row as it is"
    return f"padding_idx {row} instead of {padding_idx}: its row is returned as zeros, as Paddle does"
