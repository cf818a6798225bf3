"""Does the Paddle model compute what the timm model computes? Every layer's output, compared.

Usage::

    python alignment/check_forward.py --model dla60 --checkpoint dla60.pth --image cat.jpg dog.jpg
    python alignment/check_forward.py --model all --batch 2 --size 64 --seed 0
    python alignment/check_forward.py --model dla60 --checkpoint dla60.pth --dtype float32 --html report.html

The weights are those of ``--checkpoint``, else timm's initialisation under ``--seed`` with randomised BatchNorm
statistics. They are converted in memory, or ``--converted`` names the file that was written. float64 is the judge;
``--dtype float32`` judges Paddle's float32 by the float32 noise of timm itself.

Exit codes: 0 aligned, 1 not aligned or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np

from alignment.engine.page import write_html
from alignment.engine.report import text, write_json
from alignment.engine.result import Result
from convert.conversion import convert_source
from convert.readers import read_source
from paddle_dla import checkpoint
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.storage.errors import CheckpointError

MAX_SIDE_MULTIPLE = 32


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="check_forward", description=__doc__.split("\n")[0])
    result.add_argument("--model", required=True, help="timm's name, or 'all'")
    result.add_argument("--checkpoint", help="timm checkpoint; default: timm's initialisation, seeded")
    result.add_argument("--use-ema", action="store_true", help="take the averaged weights of a training checkpoint")
    result.add_argument("--converted", help="load this converted file into Paddle instead of converting in memory")
    result.add_argument("--image", nargs="+", metavar="PATH", help="images, through timm's evaluation transform")
    result.add_argument("--batch", type=int, default=2, help="without images: random inputs, this many (default 2)")
    result.add_argument("--size", type=int, default=64, help="their side in pixels (default 64)")
    result.add_argument("--seed", type=int, default=0, help="of random inputs and of seeded weights (default 0)")
    result.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="of the Paddle model")
    result.add_argument("--json", metavar="FILE", help="write everything that was measured")
    result.add_argument("--html", metavar="FILE", help="write a page with a picture")
    result.add_argument("--full", action="store_true", help="print every row of the table")
    return result


def _validated(args: argparse.Namespace, usage: argparse.ArgumentParser) -> list[str]:
    """The models to check; ends the program with exit code 2 for arguments that make no sense."""
    try:
        models = list(VARIANTS) if args.model == "all" else [resolve_name(args.model)]
    except ValueError as error:
        usage.error(str(error))
    if len(models) > 1 and (args.checkpoint or args.converted):
        usage.error("--checkpoint and --converted belong to one model; name it instead of 'all'")
    if args.batch < 1 or args.size < 1 or args.size % MAX_SIDE_MULTIPLE:
        usage.error(f"--batch must be at least 1 and --size a multiple of {MAX_SIDE_MULTIPLE}")
    if args.use_ema and not args.checkpoint:
        usage.error("--use-ema needs --checkpoint")
    return models


def check_one(args: argparse.Namespace, model: str, progress: Callable[[str], None]) -> Result:
    """Compare one model as the command line asks. Raises ``CheckpointError`` where weights do not fit."""
    # both frameworks are imported here, so that usage errors need not wait for them
    from alignment.pairs import align_forward, seeded_source

    if args.checkpoint:
        source = read_source(args.checkpoint, args.use_ema)
    else:
        progress(f"{model}: no checkpoint given, weights seeded with {args.seed}")
        source = seeded_source(model, args.seed, randomise_batch_norm=True)
    conversion = convert_source(source, model, source.num_classes or None, source.in_chans)
    arrays = checkpoint.read(args.converted)[0] if args.converted else None
    shape = (args.batch, source.in_chans, args.size, args.size)
    inputs = args.image or np.random.RandomState(args.seed).standard_normal(shape)
    return align_forward(source, conversion, inputs, args.dtype, arrays, progress)


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = parser()
    args = usage.parse_args(argv)
    models = _validated(args, usage)
    results = []
    try:
        for number, model in enumerate(models, 1):

            def progress(line: str, prefix: str = f"[{number}/{len(models)}] ") -> None:
                print(prefix + line, file=sys.stderr, flush=True)

            results.append(check_one(args, model, progress))
            print(text(results[-1], fold=not args.full), end="\n\n", flush=True)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        _write(args, results)
    if len(results) > 1:
        print("\n".join(f"{r.title.split(':')[0]:16}{r.verdict()}" for r in results))
    return 0 if all(result.passed for result in results) else 1


def _write(args: argparse.Namespace, results: list[Result]) -> None:
    if results and args.json:
        write_json(results, args.json)
    if results and args.html:
        write_html(results, args.html)


if __name__ == "__main__":
    sys.exit(main())
