"""Compare gradients, and every layer alone: forward and backward, in eval or train mode.

Usage::

    python alignment/check_backward.py --model dla60 --checkpoint dla60.pth
    python alignment/check_backward.py --model all --mode train --html report.html

Everything is computed in float64. Gradients start from a random direction at the output. In ``--mode train`` the
statistics that BatchNorm keeps are compared after the step, too. The layer at fault is named with its kind.

Exit codes: 0 aligned, 1 not aligned or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from alignment.command import Progress, add_inputs, add_weights, chosen_inputs, chosen_weights, parser, run
from alignment.engine.result import Result
from paddle_dla.models.registry import find_model
from paddle_dla.terminal import run_command


def check_backward(args: argparse.Namespace, model: str, progress: Progress) -> Result:
    """Compare one model as the command line asks. Raises ``CheckpointError`` where weights do not fit."""
    from alignment.pairs import align_backward
    from alignment.ported import align_port

    source, conversion, arrays = chosen_weights(args, model, progress)
    entry = find_model(model)
    if entry.folder is not None:
        inputs = chosen_inputs(args, model, conversion)
        return align_port(
            entry, source, conversion, inputs, args.mode, seed=args.seed, paddle_arrays=arrays, progress=progress
        )
    return align_backward(
        source, conversion, chosen_inputs(args, model, conversion), args.mode, args.seed, arrays, progress
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = parser("check-backward", __doc__)
    add_weights(usage)
    add_inputs(usage)
    usage.add_argument("--mode", choices=("eval", "train"), default="eval", help="of both models (default eval)")
    return run(usage, argv, check_backward)


if __name__ == "__main__":
    sys.exit(run_command(main))
