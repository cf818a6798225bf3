"""Compare every layer's output with timm's.

Usage::

    python alignment/check_forward.py --model dla60 --checkpoint dla60.pth --image cat.jpg dog.jpg
    python alignment/check_forward.py --model all --batch-size 2 --input-size 64 --seed 0
    python alignment/check_forward.py --model dla60 --checkpoint dla60.pth --dtype float32 --html report.html

The weights are those of ``--checkpoint``, else timm's initialisation under ``--seed`` with randomised BatchNorm
statistics. They are converted in memory, unless ``--converted`` names a converted file. The verdict is made in float64;
``--dtype float32`` judges Paddle's float32 by timm's own float32 noise.

Exit codes: 0 aligned, 1 not aligned or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignment.command import (
    ModelOptions,
    Progress,
    add_inputs,
    add_weights,
    chosen_inputs,
    chosen_weights,
    parser,
    run,
)
from alignment.engine.result import Result
from paddle_dla.models.registry import find_model
from paddle_dla.terminal import run_command


@dataclass(frozen=True, kw_only=True)
class ForwardOptions(ModelOptions):
    """The options of the check; ``dtype`` is that of the Paddle model."""

    dtype: Literal["float32", "float64"] = "float64"


def check_forward(options: ForwardOptions, progress: Progress) -> Result:
    """Compare one model. Raises ``CheckpointError`` where weights do not fit."""
    from alignment.models import compared_forward

    source, conversion, arrays = chosen_weights(options, progress)
    entry, inputs = find_model(options.model), chosen_inputs(options, conversion)
    return compared_forward(entry, source, conversion, inputs, options.dtype, arrays, progress)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-forward", __doc__)
    add_weights(usage)
    add_inputs(usage)
    usage.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="dtype of the Paddle model (default: float64)",
    )
    return run(usage, argv, ForwardOptions, check_forward)


if __name__ == "__main__":
    sys.exit(run_command(main))
