"""Record one side of a comparison on a machine that has one framework only.

Usage::

    python alignment/record.py torch --model dla60 --checkpoint model.safetensors --output A
    python alignment/record.py paddle --model dla60 --converted dla60.pdparams --inputs A/inputs.npy --output B
    python alignment/compare.py A B

The torch side runs in float64, which is recorded, and in float32; their difference is the noise floor. Without
``--inputs`` both sides draw the same random images from ``--seed``. For other models call ``alignment.record_torch``
and ``alignment.record_paddle``, each on its machine; layers are compared by name.

Exit codes: 0 recorded, 1 refused, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.command import SIDE_MULTIPLE, SIZE, ModelOptions, add_inputs
from alignment.engine.recording import record_paddle, record_torch
from alignment.engine.records.files import check_dump
from alignment.engine.records.store import MEMORY
from convert.readers import read_source
from paddle_dla import weight_files
from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError
from paddle_dla.models.adapt_weights import HEAD, STEM
from paddle_dla.models.variants import resolve_name
from paddle_dla.options import natural, options_of
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.npy import read_arrays, write_npy
from paddle_dla.terminal import run_command

INPUTS = "inputs.npy"
"""The inputs of the torch side, stored next to its tape."""


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """The side to record, its weights and inputs, and the folder of the record; ``max_memory`` in MiB."""

    side: str
    model: str
    output: str
    checkpoint: str | None = None
    converted: str | None = None
    image: tuple[str, ...] | None = None
    inputs: str | None = None
    batch_size: int = ModelOptions.batch_size
    input_size: int = SIZE
    seed: int = 0
    mode: str = "eval"
    forward_only: bool = False
    max_memory: int = MEMORY // 2**20


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = CommandParser("record", __doc__)
    result.add_argument("side", choices=("torch", "paddle"))
    result.add_argument("--model", required=True, help="timm model name")
    result.add_argument("--checkpoint", help="timm checkpoint (torch side)")
    result.add_argument("--converted", help="converted weights (Paddle side)")
    result.add_argument("--inputs", metavar="FILE.npy", help="inputs (B, C, H, W) written by the other side")
    result.add_argument("--seed", type=natural, default=0, help="random seed of the inputs (default: 0)")
    result.add_argument("--mode", choices=("eval", "train"), default="eval", help="mode of both models (default: eval)")
    result.add_argument("--forward-only", action="store_true", help="record no gradients")
    result.add_argument(
        "--max-memory", type=natural, default=RecordOptions.max_memory, metavar="MB",
        help="memory for the record; the rest goes to a temporary file (default: %(default)s)",
    )  # fmt: skip
    result.add_argument("--output", required=True, metavar="DIR", help="output folder")
    add_inputs(result)
    result.set_defaults(input_size=RecordOptions.input_size)
    return result


def _torch_side(options: RecordOptions, weights: str) -> None:
    """Record timm's model and store the inputs next to the record. Raises ``CheckpointError``."""
    import torch

    from torch_ref.data import eval_batch
    from torch_ref.model import create_model, load_tensors

    source = read_source(weights)
    reference = create_model(options.model, num_classes=source.num_classes or 1000, in_chans=source.in_chans)
    tensors = {name: torch.from_numpy(stored.raw.copy()) for name, stored in source.tensors.items()}
    load_tensors(reference, {k: v.view(torch.bfloat16) if v.dtype == torch.uint16 else v for k, v in tensors.items()})
    inputs = eval_batch(reference, list(options.image)) if options.image else _inputs(options, source.in_chans)
    record_torch(reference, inputs, options.output, **_arguments(options, source.describe()))
    with atomic_path(Path(options.output) / INPUTS) as part:
        write_npy(part, inputs)


def _paddle_side(options: RecordOptions, weights: str) -> None:
    """Record the Paddle model. Raises ``CheckpointError``."""
    from paddle_dla import create_model

    arrays, _ = weight_files.read(weights)
    missing = [name for name in (HEAD[0], STEM) if name not in arrays]
    if missing:
        raise CheckpointError(f"{weights} is no classifier of this family: it has no {missing[0]}")
    classes, in_chans = arrays[HEAD[0]].shape[0], arrays[STEM].shape[1]
    port = create_model(options.model, pretrained=weights, num_classes=classes, in_chans=in_chans)
    record_paddle(port, _inputs(options, in_chans), options.output, **_arguments(options, weights))


def _arguments(options: RecordOptions, weights: str) -> dict[str, Any]:
    return {
        "mode": options.mode,
        "backward": not options.forward_only,
        "seed": options.seed,
        "max_memory": options.max_memory * 2**20,
        "facts": {"model": options.model, "weights": weights},
    }


def _inputs(options: RecordOptions, in_chans: int) -> np.ndarray:
    if options.inputs:
        return read_inputs(options.inputs)
    shape = (options.batch_size, in_chans, options.input_size, options.input_size)
    return np.random.RandomState(options.seed).standard_normal(shape)


def read_inputs(path: str) -> np.ndarray:
    """Read images (B, C, H, W) from a ``.npy``. Raises ``CheckpointError`` for anything else."""
    inputs = read_arrays(path).get("")
    if inputs is None or inputs.dtype.kind != "f" or inputs.ndim != 4:
        raise CheckpointError(f"{path} does not contain floating-point images (B, C, H, W)")
    return inputs


def run(options: RecordOptions) -> None:
    """Record one side. Raises ``CheckpointError`` for an unreadable file, before anything is written."""
    check_dump(options.output, INPUTS)
    is_torch = options.side == "torch"
    weights = options.checkpoint if is_torch else options.converted
    if weights is None:
        raise CheckpointError(f"the {options.side} side has no weights to run with")
    _torch_side(options, weights) if is_torch else _paddle_side(options, weights)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser()
    args = usage.parse_args(argv)
    try:
        model = resolve_name(args.model)
    except UserError as error:
        usage.error(str(error))
    if args.batch_size < 1 or args.input_size < 1 or args.input_size % SIDE_MULTIPLE:
        usage.error(f"--batch-size must be at least 1 and --input-size a multiple of {SIDE_MULTIPLE}")
    if not (args.checkpoint if args.side == "torch" else args.converted):
        usage.error("the torch side needs --checkpoint, the Paddle side --converted")
    options = options_of(RecordOptions, args, model=model)
    try:
        run(options)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{model}: {options.side} side recorded in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
