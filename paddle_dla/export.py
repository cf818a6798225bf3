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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_dla.command_parser import CommandParser
from paddle_dla.data.class_names import chosen_class_names
from paddle_dla.data.walk import refuse_folder_in
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.exporting.folder import FORMATS, check_target
from paddle_dla.options import (
    PreprocessingOptions,
    add_preprocessing,
    chosen_preprocessing,
    finite,
    options_of,
    positive,
)
from paddle_dla.storage.manifest import file_sha256
from paddle_dla.subject import CHECKPOINT, MODEL
from paddle_dla.terminal import run_command

if TYPE_CHECKING:
    from paddle_dla.exporting.exporter import Wanted

CHECKED = 16
"""Images of ``--check`` on which the float network is checked: float64 is slow."""
INT8_NEEDS = "--int8 needs --calibration DATA, and --calibration is for --int8"
HELD_OUT = 4
"""Every fourth image of ``--calibration`` measures int8, unless ``--check`` names others."""

Images = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ExportOptions(PreprocessingOptions):
    """Options of ``export``: model, output, formats, images for the check, and the accuracy that int8 may cost.

    ``check``: ``none`` for seeded noise. ``images``: the largest number of images taken from a data set. ``max_loss``:
    the largest loss of top-1 in points; int8 is refused beyond it.
    """

    output: str
    model: str | None = None
    checkpoint: str | None = None
    format: tuple[str, ...] | None = None
    num_classes: int | None = None
    classes: str | None = None
    int8: bool = False
    calibration: str | None = None
    check: str = "none"
    images: int = 512
    max_loss: float = 5.0
    overwrite: bool = False


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("export", __doc__)
    result.add_argument("--model", metavar="NAME|PORT", help=f"{MODEL} (default: from the checkpoint's manifest)")
    result.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    result.add_argument("--output", required=True, metavar="FOLDER", help="output folder")
    result.add_argument(
        "--format", action="append", choices=FORMATS, help="export format; may be repeated (default: inference)"
    )
    result.add_argument(
        "--num-classes", type=positive, metavar="N", help="expected number of classes; other weights are refused"
    )
    result.add_argument(
        "--classes", metavar="FILE", help="file with one class name per line, in the order of the labels"
    )
    result.add_argument("--int8", action="store_true", help="quantise to int8 (ONNX only)")
    result.add_argument(
        "--calibration", metavar="DATA", help="calibration images for int8: class folders, list file, or tar shards"
    )
    result.add_argument(
        "--check", metavar="DATA", default="none", help="images for the check of the export (default: seeded noise)"
    )
    result.add_argument(
        "--images", type=positive, default=512, metavar="N", help="largest number of images to read (default: 512)"
    )
    result.add_argument(
        "--max-loss",
        type=finite,
        default=5.0,
        metavar="POINTS",
        help="largest top-1 loss of int8 in points (default: 5)",
    )
    result.add_argument("--overwrite", action="store_true", help="replace an existing export")
    add_preprocessing(result)
    return result


def export(options: ExportOptions) -> list[str]:
    """Write the export and return the lines to print. Raises ``UserError``."""
    if options.int8 != bool(options.calibration):
        raise WrongValue(INT8_NEEDS)
    check_target(options.output, options.overwrite)
    for data in (options.check, options.calibration):
        refuse_folder_in(data, options.output, "--output")

    from paddle_dla.exporting.exporter import Wanted, export_model
    from paddle_dla.loading import load_model

    loaded = load_model(options.model, options.checkpoint, options.num_classes)
    preprocessing = chosen_preprocessing(options, loaded.preprocessing)
    names, named_by = chosen_class_names(options.classes, loaded.class_names, loaded.named_by, loaded.num_classes)
    wanted = Wanted(
        loaded.name,
        preprocessing,
        list(options.format or ("inference",)),
        None if names is None else names.names,
        _weights(loaded.source),
        class_ids=None if names is None else names.ids,
    )

    def read(data: str) -> Images:
        from paddle_dla.exporting.images import read_images

        return read_images(data, preprocessing, options.images, names, named_by, loaded.num_classes, _tell)

    images = None if options.check == "none" else read(options.check)
    if images is not None:
        wanted = replace(wanted, images=images[0][:CHECKED])
    if options.calibration:
        return _int8(options, loaded.layer, replace(wanted, formats=["onnx"]), read(options.calibration), images)
    agreements = export_model(loaded.layer, options.output, wanted, overwrite=options.overwrite, progress=_tell)
    return [str(agreement) for agreement in agreements]


def _int8(options: ExportOptions, layer: Any, wanted: Wanted, calibration: Images, images: Images | None) -> list[str]:
    from paddle_dla.exporting.export_int8 import export_int8

    if images is None:
        calibration, images = held_out(calibration)
    agreement, measured = export_int8(
        layer,
        options.output,
        wanted,
        calibration[0],
        images,
        max_loss=options.max_loss,
        overwrite=options.overwrite,
        progress=_tell,
    )
    return [f"before quantisation, {agreement}", str(measured)]


def held_out(data: Images) -> tuple[Images, Images]:
    """Split ``data`` for int8: the images for calibration, and every ``HELD_OUT``-th image for measuring the result.

    Raises ``ValueError`` if there are too few images: int8 looks better on its calibration images than it is.
    """
    images, labels = data
    apart = np.arange(len(images)) % HELD_OUT == HELD_OUT - 1
    if not apart.any():
        raise WrongValue(f"{len(images)} images are too few to calibrate on and to measure on; pass --check")
    return (images[~apart], labels[~apart]), (images[apart], labels[apart])


def _weights(source: str) -> dict[str, str] | None:
    """Return the record of the weights. For weights from a hub it contains only what the tensors themselves show."""
    if not os.path.isfile(source):
        return None
    return {"source": os.path.basename(source), "sha256": file_sha256(source)}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    usage = parser()
    options = options_of(ExportOptions, usage.parse_args(argv))
    if options.int8 != bool(options.calibration):
        usage.error(INT8_NEEDS)
    if options.int8 and options.format not in (None, ("onnx",)):
        usage.error("--int8 makes an onnx network; leave out --format, or export inference into another folder")
    try:
        lines = export(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*lines, f"wrote {options.output}"]))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
