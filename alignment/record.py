"""Record one side of a comparison on a machine that has one framework only.

Usage::

    python alignment/record.py torch --model dla60 --checkpoint model.safetensors --output A
    python alignment/record.py paddle --model dla60 --converted dla60.pdparams --inputs A/inputs.npy --output B
    python alignment/compare.py A B

The torch side runs in float64, which is recorded, and in float32: their distance is the noise floor. Without
``--inputs`` both sides draw the same random images from ``--seed``. For any other model call ``record_torch`` and
``record_paddle``, each on its machine; layers are then compared by their names.

Exit codes: 0 recorded, 1 refused, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from alignment.command import SIDE_MULTIPLE, SIZE, ModelOptions, add_inputs
from alignment.engine.judging.noise import measure_leaks, run_in_both
from alignment.engine.records.files import Measured, check_dump, save_tape
from alignment.engine.records.store import MEMORY, Budget, Store
from alignment.engine.records.tape import Tape
from convert.readers import read_source
from paddle_dla import checkpoint
from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError
from paddle_dla.models.adapt import HEAD, STEM
from paddle_dla.models.variants import resolve_name
from paddle_dla.options import natural, options_of
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import UNPICKLING_ERRORS, CheckpointError
from paddle_dla.storage.npy import write_npy
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.shown import shown
from paddle_dla.terminal import run_command

INPUTS = "inputs.npy"
"""What the torch side ran on, beside its tape."""


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Which side runs with which weights on what, and the folder of its record; ``max_memory`` in MiB."""

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
    """The command line."""
    result = CommandParser("record", __doc__)
    result.add_argument("side", choices=("torch", "paddle"))
    result.add_argument("--model", required=True, help="timm's name")
    result.add_argument("--checkpoint", help="torch side: the timm checkpoint")
    result.add_argument("--converted", help="Paddle side: the converted file")
    result.add_argument("--inputs", metavar="FILE.npy", help="inputs (B, C, H, W) that the other side wrote")
    result.add_argument("--seed", type=natural, default=0, help="of random inputs (default 0)")
    result.add_argument("--mode", choices=("eval", "train"), default="eval", help="of both models (default eval)")
    result.add_argument("--forward-only", action="store_true", help="leave gradients out")
    result.add_argument(
        "--max-memory", type=natural, default=RecordOptions.max_memory, metavar="MB",
        help="of the record while the model runs; the rest goes to a temporary file (default %(default)s)",
    )  # fmt: skip
    result.add_argument("--output", required=True, metavar="DIR", help="where to write the record")
    add_inputs(result)
    result.set_defaults(input_size=RecordOptions.input_size)
    return result


def record_torch(
    module: Any, inputs: Any, folder: str | os.PathLike[str], *, mode: str = "eval", backward: bool = True,
    seed: int = 0, max_memory: int = MEMORY, facts: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run any torch module in float64, and in float32 for the noise floor, and write the record into ``folder``.

    Arguments as in ``alignment.align``; ``facts`` say what ran. The module is given back as it came.
    """
    import torch

    from alignment.engine.sides.torch import side
    from alignment.engine.sides.torch.constants import constants_of_paddle

    start = partial(side.in_random_directions, seed=seed) if backward else None
    with side.borrow(module, mode) as half:

        def run(dtype: str, store: Store, nudge: int = 0) -> Tape:
            with side.in_type(module, dtype, nudge):
                return side.capture(module, inputs, store, start)

        with constants_of_paddle(apply=False, alternatives=True) as constants:
            tape, noise = run_in_both(run, Budget(max_memory))
        def leaking(store: Store, name: str) -> Tape:
            with constants_of_paddle(alternatives=True, only={name}):
                return run("float64", store)

        ways = [partial(leaking, name=name) for name in constants.used] if backward else []
        leaks = measure_leaks(ways, tape, Budget(max_memory))
    errors, leaks = ({index: noise.error for index, noise in found.items()} for found in (noise, leaks))
    facts = {**(facts or {}), "torch": torch.__version__, "mode": mode, **half.notes}
    save_tape(tape, folder, facts, Measured(errors, leaks))


def record_paddle(
    layer: Any, inputs: Any, folder: str | os.PathLike[str], *, mode: str = "eval", backward: bool = True,
    seed: int = 0, max_memory: int = MEMORY, facts: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """The same for any Paddle layer, which runs in float64 only."""
    import paddle

    from alignment.engine.sides.paddle import side

    start = partial(side.in_random_directions, seed=seed) if backward else None
    with side.borrow(layer, mode) as half, side.in_type(layer, "float64"):
        tape = side.capture(layer, inputs, Store(Budget(max_memory)), start)
        for name, ref in tape.param_grads.items():
            if isinstance(half.layers.get(name.rpartition(".")[0]), paddle.nn.Linear) and name.endswith("weight"):
                tape.param_grads[name] = tape.store.put(tape.get(ref).T)  # as torch lays it out
    save_tape(tape, folder, {**(facts or {}), "Paddle": paddle.__version__, "mode": mode, **half.notes})


def _torch_side(options: RecordOptions) -> None:
    """Record timm's model and keep the inputs beside it. Raises ``CheckpointError``."""
    import torch

    from torch_ref.data import eval_batch
    from torch_ref.model import create_model, load_tensors

    source = read_source(options.checkpoint)
    reference = create_model(options.model, num_classes=source.num_classes or 1000, in_chans=source.in_chans)
    tensors = {name: torch.from_numpy(stored.raw.copy()) for name, stored in source.tensors.items()}
    load_tensors(reference, {k: v.view(torch.bfloat16) if v.dtype == torch.uint16 else v for k, v in tensors.items()})
    inputs = eval_batch(reference, list(options.image)) if options.image else _inputs(options, source.in_chans)
    record_torch(reference, inputs, options.output, **_arguments(options, source.describe()))
    with atomic_path(Path(options.output) / INPUTS) as part:
        write_npy(part, inputs)


def _paddle_side(options: RecordOptions) -> None:
    """Record the Paddle model. Raises ``CheckpointError``."""
    from paddle_dla import create_model

    arrays, _ = checkpoint.read(options.converted)
    missing = [name for name in (HEAD[0], STEM) if name not in arrays]
    if missing:
        raise CheckpointError(f"{options.converted} is no classifier of this family: it has no {missing[0]}")
    classes, in_chans = arrays[HEAD[0]].shape[0], arrays[STEM].shape[1]
    port = create_model(options.model, pretrained=options.converted, num_classes=classes, in_chans=in_chans)
    record_paddle(port, _inputs(options, in_chans), options.output, **_arguments(options, options.converted))


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
    """Images (B, C, H, W) of a ``.npy``. Raises ``CheckpointError`` for anything else."""
    try:
        open_regular(path).close()
        # mapped, so that a header that promises more than the file holds takes no memory
        inputs = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, TokenError, zipfile.BadZipFile, *UNPICKLING_ERRORS) as error:
        raise CheckpointError(f"cannot read {path}: {shown(error)}") from error
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind != "f" or inputs.ndim != 4:
        raise CheckpointError(f"{path} holds no images (B, C, H, W) in floating point")
    return np.array(inputs)


def run(options: RecordOptions) -> None:
    """Record one side. Raises ``CheckpointError`` before anything is written where a file is unreadable."""
    check_dump(options.output, INPUTS)
    _torch_side(options) if options.side == "torch" else _paddle_side(options)


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
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
