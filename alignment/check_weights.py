"""Compare a converted file with its checkpoint: every tensor, bit for bit; runs no model.

Usage::

    python alignment/check_weights.py --model dla60 --checkpoint model.safetensors --converted dla60.pdparams

Needs neither framework (torch for a ``.pth``). Exit codes: 0 the same, 1 not, or a file does not fit, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from alignment.command import Progress, WeightOptions, add_weights, chosen_source, parser, run
from alignment.engine.judging.error import compare
from alignment.engine.judging.rows import UNMEASURED, tensor_row
from alignment.engine.result import WEIGHTS, Culprit, Result, Row
from convert.conversion import converted
from convert.key_map import to_timm
from paddle_dla import weight_files
from paddle_dla.errors import WrongValue
from paddle_dla.terminal import run_command


def check_weights(options: WeightOptions, progress: Progress) -> Result:
    """Compare a checkpoint with ``options.converted``, tensor by tensor.

    Raises ``CheckpointError`` where a file is unreadable or does not fit, ``WrongValue`` where ``converted`` is
    missing.
    """
    if not options.converted:
        raise WrongValue("--converted names the file to check")
    source = chosen_source(options, progress)
    expected = converted(source, options.model).arrays
    actual, _ = weight_files.read(options.converted)
    result = Result(f"{options.model}: weights, timm against Paddle", "float32")
    result.facts = {"timm": source.describe(), "Paddle": options.converted}
    for depth, name in enumerate(dict.fromkeys([*expected, *actual])):
        row = _row(name, depth, expected.get(name), actual.get(name))
        result.rows.append(row)
        if not row.aligned:
            cause = row.note or f"relative error {row.relative:.1e} at {list(row.worst)}"
            result.culprits.append(Culprit(row.layer, name, WEIGHTS, cause))
    return result


def _row(name: str, depth: int, expected: np.ndarray | None, actual: np.ndarray | None) -> Row:
    shown = next(array for array in (expected, actual) if array is not None)
    found, note = UNMEASURED, f"not in {'timm' if expected is None else 'Paddle'}"
    if expected is not None and actual is not None:
        found = compare(expected, actual)
        note = found.mismatch
    # copied values have no rounding
    return tensor_row(to_timm(name), name, "Tensor", depth, shown.shape, found, (0.0, 0.0), note=note)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-weights", __doc__)
    add_weights(usage)
    arguments = usage.parse_args(argv)
    if not arguments.converted:
        usage.error("--converted names the file to check")
    return run(usage, argv, WeightOptions, check_weights)


if __name__ == "__main__":
    sys.exit(run_command(main))
