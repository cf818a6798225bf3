"""Export a model as a folder that runs without this package: Paddle Inference, ONNX, int8.

Usage::

    python -m paddle_dla.export --model dla60 --checkpoint dla60.pdparams --output dla60_export --format onnx
    python -m paddle_dla.export --model dla60 --checkpoint dla60.pdparams --output dla60_int8 --int8 \
        --calibration imagenet/train --check imagenet/val

The folder holds the network, ``preprocessing.json`` (how an image becomes its input, where the weights came from,
checksums) and ``run.py``, which classifies images and needs only numpy, Pillow and the engine. The files are run and
held against the model before the folder appears.

Exit codes: 0 written, 1 refused (nothing was written), 2 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_dla.command_parser import CommandParser
from paddle_dla.data.class_names import chosen_class_names
from paddle_dla.data.walk import refuse_folder_in
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.exporting.folder import FORMATS, check_target
from paddle_dla.options import add_preprocessing, chosen_preprocessing, finite, positive
from paddle_dla.storage.manifest import file_sha256
from paddle_dla.subject import CHECKPOINT, MODEL
from paddle_dla.terminal import run_command

if TYPE_CHECKING:
    from paddle_dla.exporting.exporter import Wanted

CHECKED = 16
"""Images of ``--check`` that the float network is checked on: float64 takes its time."""
HELD_OUT = 4
"""Of the images of ``--calibration`` every fourth measures int8, where ``--check`` names no others."""

Images = tuple[np.ndarray, np.ndarray]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("export", __doc__)
    result.add_argument("--model", metavar="NAME|PORT", help=f"{MODEL}; known from a DLA's converted checkpoint")
    result.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    result.add_argument("--output", required=True, metavar="FOLDER", help="the folder to make")
    result.add_argument("--format", action="append", choices=FORMATS, help="may be repeated; default: inference")
    result.add_argument("--num-classes", type=positive, metavar="N", help="refuse weights with another number")
    result.add_argument("--classes", metavar="FILE", help="class names, one a line, in the order of the labels")
    result.add_argument("--int8", action="store_true", help="quantise; the format is then onnx")
    result.add_argument("--calibration", metavar="DATA", help="images that int8 is calibrated on: as for evaluation")
    result.add_argument("--check", metavar="DATA", default="none", help="images to check on; none: seeded noise")
    result.add_argument("--images", type=positive, default=512, metavar="N", help="to take of DATA at most (512)")
    result.add_argument(
        "--max-loss", type=finite, default=5.0, metavar="POINTS", help="of top-1, beyond which int8 is refused (5)"
    )
    result.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    add_preprocessing(result)
    return result


def export(args: argparse.Namespace) -> list[str]:
    """Do what the command line says; returns what to print. Raises ``UserError``."""
    check_target(args.output, args.overwrite)
    for data in (args.check, args.calibration):
        refuse_folder_in(data, args.output, "--output")

    from paddle_dla.exporting.exporter import Wanted, export_model
    from paddle_dla.loading import load_model

    loaded = load_model(args.model, args.checkpoint, args.num_classes)
    preprocessing = chosen_preprocessing(args, loaded.preprocessing)
    names, named_by = chosen_class_names(args.classes, loaded.class_names, loaded.named_by, loaded.num_classes)
    wanted = Wanted(
        loaded.name,
        preprocessing,
        args.format or ["inference"],
        None if names is None else names.names,
        _weights(loaded.source),
        class_ids=None if names is None else names.ids,
    )

    def read(data: str) -> Images:
        from paddle_dla.exporting.images import read_images

        return read_images(data, preprocessing, args.images, names, named_by, loaded.num_classes, _tell)

    images = None if args.check == "none" else read(args.check)
    if images is not None:
        wanted = replace(wanted, images=images[0][:CHECKED])
    if args.int8:
        return _int8(args, loaded.layer, replace(wanted, formats=["onnx"]), read(args.calibration), images)
    agreements = export_model(loaded.layer, args.output, wanted, overwrite=args.overwrite, progress=_tell)
    return [str(agreement) for agreement in agreements]


def _int8(
    args: argparse.Namespace, layer: Any, wanted: Wanted, calibration: Images, images: Images | None
) -> list[str]:
    from paddle_dla.exporting.export_int8 import export_int8

    if images is None:
        calibration, images = held_out(calibration)
    agreement, measured = export_int8(
        layer,
        args.output,
        wanted,
        calibration[0],
        images,
        max_loss=args.max_loss,
        overwrite=args.overwrite,
        progress=_tell,
    )
    return [f"before quantisation, {agreement}", str(measured)]


def held_out(data: Images) -> tuple[Images, Images]:
    """``data`` for calibration, less every ``HELD_OUT``-th image, and these, which int8 is then measured on.

    Raises ``ValueError`` where there are too few: on its own calibration images int8 looks better than it is.
    """
    images, labels = data
    apart = np.arange(len(images)) % HELD_OUT == HELD_OUT - 1
    if not apart.any():
        raise WrongValue(
            f"{len(images)} images are too few to calibrate on and to measure on; pass --check"
        )
    return (images[~apart], labels[~apart]), (images[apart], labels[apart])


def _weights(source: str) -> dict[str, str] | None:
    """What the record says of the weights; of a hub's, nothing but what the tensors themselves say."""
    if not os.path.isfile(source):
        return None
    return {"source": os.path.basename(source), "sha256": file_sha256(source)}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = parser()
    args = usage.parse_args(argv)
    if args.int8 != bool(args.calibration):
        usage.error("--int8 needs --calibration DATA, and --calibration is for --int8")
    if args.int8 and args.format not in (None, ["onnx"]):
        usage.error("--int8 makes an onnx network; leave out --format, or export inference into another folder")
    try:
        lines = export(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*lines, f"wrote {args.output}"]))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
