"""Record one side of a comparison, on a machine that has one framework only; ``compare.py`` compares two records.

Usage::

    python alignment/record.py torch --model dla60 --checkpoint model.safetensors --dump A
    python alignment/record.py paddle --model dla60 --converted dla60.pdparams --inputs A/inputs.npy --dump B
    python alignment/compare.py A B

The torch side runs in float64, which is recorded, and in float32: their distance is the noise floor. Without
``--inputs`` both sides draw the same random images from ``--seed``. Exit codes: 0 recorded, 1 refused, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alignment.command import SIDE_MULTIPLE, add_inputs
from alignment.engine.tape_file import save_tape
from convert.readers import read_source
from paddle_dla import checkpoint
from paddle_dla.models.variants import resolve_name
from paddle_dla.storage.errors import CheckpointError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="record", description=__doc__.split("\n")[0])
    result.add_argument("side", choices=("torch", "paddle"))
    result.add_argument("--model", required=True, help="timm's name")
    result.add_argument("--checkpoint", help="torch side: the timm checkpoint")
    result.add_argument("--converted", help="Paddle side: the converted file")
    result.add_argument("--inputs", metavar="FILE.npy", help="inputs (B, C, H, W) that the other side wrote")
    result.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")
    result.add_argument("--dump", required=True, metavar="DIR", help="where to write the record")
    add_inputs(result)
    return result


def record_torch(args: argparse.Namespace, model: str) -> None:
    """Run timm's model in both types; write the exact tape, how far the rounded one is from it, and the inputs.

    Raises ``CheckpointError``.
    """
    import torch

    from alignment.engine.capture_torch import capture
    from alignment.engine.noise import RoundedRun
    from alignment.engine.settings_torch import round_epsilons
    from torch_ref.data import eval_batch
    from torch_ref.model import create_model, load_tensors

    source = read_source(args.checkpoint)
    reference = create_model(model, num_classes=source.num_classes or 1000, in_chans=source.in_chans)
    tensors = {name: torch.from_numpy(stored.raw.copy()) for name, stored in source.tensors.items()}
    load_tensors(reference, {k: v.view(torch.bfloat16) if v.dtype == torch.uint16 else v for k, v in tensors.items()})
    inputs = eval_batch(reference, args.image) if args.image else _inputs(args, source.in_chans)
    epsilon = ", ".join(map(repr, sorted(set(round_epsilons(reference).values()))))
    exact = capture(reference.double(), inputs)
    rounded = RoundedRun(exact.store)
    capture(reference.float(), inputs, rounded)
    facts = {"model": model, "weights": source.describe(), "torch": torch.__version__, "epsilon": epsilon}
    save_tape(exact, args.dump, facts, rounded.errors)
    np.save(Path(args.dump) / "inputs.npy", inputs)


def record_paddle(args: argparse.Namespace, model: str) -> None:
    """Run the Paddle model in float64 and write its tape. Raises ``CheckpointError``."""
    import paddle

    from alignment.engine.capture_paddle import capture
    from paddle_dla import create_model

    arrays, _ = checkpoint.read(args.converted)
    classes, in_chans = arrays["fc.weight"].shape[0], arrays["base_layer.0.weight"].shape[1]
    port = create_model(model, pretrained=args.converted, num_classes=classes, in_chans=in_chans)
    port.eval()
    tape = capture(port.to(dtype="float64"), _inputs(args, in_chans))
    save_tape(tape, args.dump, {"model": model, "weights": args.converted, "Paddle": paddle.__version__})


def _inputs(args: argparse.Namespace, in_chans: int) -> np.ndarray:
    if args.inputs:
        try:
            return np.load(args.inputs, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {args.inputs}: {error}") from error
    return np.random.RandomState(args.seed).standard_normal((args.batch, in_chans, args.size, args.size))


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = parser()
    args = usage.parse_args(argv)
    try:
        model = resolve_name(args.model)
    except ValueError as error:
        usage.error(str(error))
    if args.batch < 1 or args.size < 1 or args.size % SIDE_MULTIPLE:
        usage.error(f"--batch must be at least 1 and --size a multiple of {SIDE_MULTIPLE}")
    if not (args.checkpoint if args.side == "torch" else args.converted):
        usage.error("the torch side needs --checkpoint, the Paddle side --converted")
    try:
        record_torch(args, model) if args.side == "torch" else record_paddle(args, model)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{model}: {args.side} side recorded in {args.dump}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
