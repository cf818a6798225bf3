"""Compare gradients, and every layer alone: forward and backward, in eval or train mode.

Usage::

    python alignment/check_backward.py --model dla60 --checkpoint dla60.pth
    python alignment/check_backward.py --model all --mode train --html report.html

Everything is computed in float64. Gradients start from a random direction at the output. ``--mode train`` also compares
the statistics that BatchNorm keeps after the step. The report names the layer at fault and the kind of fault.

Exit codes: 0 aligned, 1 not aligned or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

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
class BackwardOptions(ModelOptions):
    """The options of the check; ``mode`` of both models is ``eval`` or ``train``."""

    mode: str = "eval"


def check_backward(options: BackwardOptions, progress: Progress) -> Result:
    """Compare one model. Raises ``CheckpointError`` where weights do not fit."""
    from alignment.models import compared_backward

    source, conversion, arrays = chosen_weights(options, progress)
    entry, inputs = find_model(options.model), chosen_inputs(options, conversion)
    return compared_backward(entry, source, conversion, inputs, options.mode, options.seed, arrays, progress)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-backward", __doc__)
    add_weights(usage)
    add_inputs(usage)
    usage.add_argument("--mode", choices=("eval", "train"), default="eval", help="mode of both models (default: eval)")
    return run(usage, argv, BackwardOptions, check_backward)


if __name__ == "__main__":
    sys.exit(run_command(main))
