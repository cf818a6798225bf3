"""Port a torch model: readable Paddle source, its weights, and the proof that both compute the same.

Usage::

    python convert/port.py --model convnext_atto --output ports/convnext_atto
    python convert/port.py --torch my_package.models:build --torch-args '{"num_classes": 10}' \\
        --input-shape 3x224x224 --output ports/mine
    python convert/port.py --torch my_package.models:bert --inputs tokens.npz --output ports/bert

``--model`` takes any model of timm, ``--torch`` any callable that returns a torch module. The port is compared with its
reference layer by layer in float64, forward and backward, in evaluation and in training mode. It is written only if it
is ALIGNED in all of them (``--keep-unproved`` keeps a draft, which no other command opens).

Exit codes: 0 aligned and written, 1 not (what has no rule, or where the two differ, is printed), 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from convert.porting.arguments import Arguments, each
from convert.porting.folder import check_folder
from convert.porting.inputs import read_inputs
from convert.porting.porting import Port, port_model
from convert.porting.reference import BuildError, Reference, load_checkpoint
from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError
from paddle_dla.options import HIGHEST, natural, positive
from paddle_dla.storage.apart import check_apart, check_outside
from paddle_dla.storage.atomic import check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import RecordError, parse_json
from paddle_dla.terminal import run_command

Progress = Callable[[str], None]
BATCH = 2


@dataclass(frozen=True)
class Options:
    """Options of a port: the reference, its weights, and the output.

    ``input_shape`` is without the batch: (C, H, W) for images. ``inputs`` is a file of arrays that replaces it, see
    ``read_inputs``.
    """

    reference: Reference
    output: Path
    input_shape: tuple[int, ...] = ()
    inputs: Path | None = None
    checkpoint: Path | None = None
    hub: str | None = None
    eval_only: bool = False
    keep_unproved: bool = False
    overwrite: bool = False
    json: Path | None = None
    html: Path | None = None


def port(options: Options, progress: Progress = lambda line: None) -> Port:
    """Make and write the port. Raises ``TranslationError``, ``CheckpointError`` and ``BuildError``."""
    check_folder(options.output, options.overwrite)
    for path in filter(None, (options.json, options.html)):
        check_writable(path)
    reports = {"--json": options.json, "--html": options.html}
    check_apart(reports, [options.checkpoint, options.inputs])
    check_outside(reports, options.output)
    given = read_inputs(options.inputs) if options.inputs is not None else None
    progress(f"building {options.reference.name}")
    module = options.reference.build()
    weights: dict[str, Any] = {"seed": options.reference.seed}
    if options.checkpoint is not None:
        weights = load_checkpoint(module, options.checkpoint)
    elif options.hub is not None:
        weights = load_checkpoint(module, _downloaded(module, options.hub)) | {"hub": options.hub}
    elif options.reference.model:
        progress(f"random weights of seed {options.reference.seed}; --hub or --checkpoint loads trained ones")
    inputs = _inputs(module, options.input_shape, given)
    made = port_model(
        module, inputs, options.output, reference=options.reference, weights=weights,
        eval_only=options.eval_only, keep_unproved=options.keep_unproved, overwrite=options.overwrite,
        progress=progress,
    )  # fmt: skip
    first = next(iter(made.results.values()))
    if options.json is not None:
        first.to_json(options.json)
    if options.html is not None:
        first.to_html(options.html)
    return made


def _downloaded(module: Any, hub: str) -> Path:
    from convert.hub import download

    config = getattr(module, "pretrained_cfg", None) or {}
    found = hub or config.get("hf_hub_id")
    if not found:
        raise CheckpointError("this model has no weights on the hub; pass --checkpoint FILE or --seed N")
    return download(found)


def _inputs(module: Any, shape: tuple[int, ...], given: Arguments | None = None) -> Arguments:
    import torch

    if given is not None:
        return each(given, torch.from_numpy)
    config = getattr(module, "pretrained_cfg", None) or {}
    shape = shape or tuple(config.get("input_size", ()))
    if not shape:
        raise BuildError("the module has no default input size, unlike timm's models; pass --input-shape or --inputs")
    if config and len(shape) == 3 and getattr(module, "in_chans", None):
        shape = (module.in_chans, *shape[1:])
    try:
        return (torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1)),)
    except RuntimeError as error:  # no memory
        raise BuildError(f"--input-shape {'x'.join(map(str, shape))}: {error}") from error


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = CommandParser("port", __doc__)
    model = result.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="NAME", help="timm model name")
    model.add_argument("--torch", metavar="PACKAGE.MODULE:FUNCTION", help="callable that returns a torch module")
    result.add_argument("--torch-args", metavar="JSON", help="keyword arguments for --torch")
    example = result.add_mutually_exclusive_group()
    example.add_argument(
        "--input-shape", type=_shape, metavar="CxHxW", help="shape of one sample (default: the model's own)"
    )
    example.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="example inputs: a .npy, or a .npz with the arguments by name (token ids, masks)",
    )
    source = result.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="timm weights: .safetensors, .pth, .pth.tar, .pt or .bin"
    )
    source.add_argument(
        "--hub", nargs="?", const="", metavar="ID", help="repository on the hub (default: the model's own)"
    )
    source.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="random seed of the initialisation, without a checkpoint (default: 0)",
    )
    result.add_argument("--num-classes", type=positive, metavar="N")
    result.add_argument("--in-chans", type=positive, metavar="N")
    result.add_argument(
        "--img-size", type=positive, metavar="N", help="image size, for models that are built for a fixed one"
    )
    result.add_argument("--output", type=Path, required=True, metavar="DIR")
    result.add_argument("--eval-only", action="store_true", help="skip the comparison in training mode")
    result.add_argument(
        "--keep-unproved", action="store_true", help="also write a port that is not aligned, marked as a draft"
    )
    result.add_argument("--overwrite", action="store_true", help="replace an existing port")
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON here")
    result.add_argument("--html", type=Path, metavar="FILE")
    return result


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(side) for side in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or BATCH * prod(shape) > HIGHEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write 3x224x224")
    return shape


def options_of(args: argparse.Namespace, usage: argparse.ArgumentParser) -> Options:
    """Return the options of the command line; exit with code 2 if they are invalid."""
    named = {"num_classes": args.num_classes, "in_chans": args.in_chans, "img_size": args.img_size}
    chosen = {name: value for name, value in named.items() if value is not None}
    if args.torch:
        if chosen:
            usage.error("--num-classes, --in-chans and --img-size belong to --model; use --torch-args")
        if ":" not in args.torch:
            usage.error(f"--torch {args.torch}: write package.module:function")
        chosen = _arguments(args.torch_args, usage)
    elif args.torch_args:
        usage.error("--torch-args belongs to --torch")
    shape = args.input_shape or ()
    if args.img_size and not shape:
        shape = (args.in_chans or 3, args.img_size, args.img_size)
    reference = Reference(args.model or "", args.torch or "", chosen, args.seed)
    return Options(
        reference, args.output, shape, args.inputs, args.checkpoint, args.hub, args.eval_only, args.keep_unproved,
        args.overwrite, args.json, args.html,
    )  # fmt: skip


def _arguments(text: str | None, usage: argparse.ArgumentParser) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = parse_json(text)
    except RecordError as error:
        usage.error(f"--torch-args {error}")
    if not isinstance(found, dict):
        usage.error("--torch-args must be a JSON object: '{\"num_classes\": 10}'")
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        usage.error("--torch-args contains a number that is not finite, which the port's card cannot record")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    usage = parser()
    options = options_of(usage.parse_args(argv), usage)
    name = options.reference.name

    def progress(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    try:
        made = port(options, progress)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return 1
    for mode, result in made.results.items():
        print(f"{name}: {mode}: {result.verdict()}")
    if not made.proved:
        outcome = "the draft is in" if options.keep_unproved else "nothing was written to"
        print(f"error: {name}: not proved; {outcome} {options.output}", file=sys.stderr)
        return 1
    print(f"{name}: {len(made.source.splitlines())} lines of Paddle source, written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
