"""A converted model as a folder that runs without this package: for Paddle Inference, ONNX Runtime, or both.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_dla.engines.base import EngineError
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.folder import FORMATS, check_target
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import resolve_name
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import file_sha256, read_manifest

if TYPE_CHECKING:
    import numpy as np

    from paddle_dla.exporting.exporter import Wanted

CHECKED = 16
"""Images of ``--check`` that every layer's rounding is measured on: float64 takes its time."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="export", description="A model as files that run without this package.")
    result.add_argument("--model", required=True, help="timm's name")
    result.add_argument("--checkpoint", required=True, metavar="FILE", help="a converted file, or timm's")
    result.add_argument("--output", required=True, metavar="FOLDER", help="the folder to make")
    result.add_argument("--format", action="append", choices=FORMATS, help="may be repeated; default: inference")
    result.add_argument("--input-size", type=_positive, metavar="N", help="side of the images; default: the model's")
    result.add_argument("--num-classes", type=_positive, metavar="N", help="default: as in the checkpoint's manifest")
    result.add_argument("--class-names", metavar="FILE", help="one name a line, in the order of the labels")
    result.add_argument("--int8", action="store_true", help="quantise; the format is then onnx")
    result.add_argument("--calibration", metavar="DATA", help="images that int8 is calibrated on: a folder or a list")
    result.add_argument("--check", metavar="DATA", default="none", help="images to check on; none: seeded noise")
    result.add_argument("--images", type=_positive, default=512, metavar="N", help="images to take of DATA at most")
    result.add_argument(
        "--max-loss", type=float, default=5.0, metavar="POINTS", help="of top-1, beyond which int8 is refused"
    )
    result.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def export(args: argparse.Namespace) -> list[str]:
    """Do what the command line says; returns what to print. Raises ``CheckpointError`` and ``EngineError``."""
    check_target(args.output, args.overwrite)
    name = resolve_name(args.model)
    manifest = _manifest(args.checkpoint)
    preprocessing = _preprocessing(manifest, name, args.input_size)
    num_classes = args.num_classes or manifest.get("num_classes") or 1000
    names = _class_names(args.class_names, num_classes)

    from paddle_dla.exporting.exporter import Wanted, export_model
    from paddle_dla.models.factory import create_model

    model = create_model(name, args.checkpoint, num_classes, in_chans=preprocessing.input_size[0])
    wanted = Wanted(name, preprocessing, args.format or ["inference"], names, _weights(args.checkpoint))
    images, labels = _images(args.check, preprocessing, args.images)
    wanted = replace(wanted, images=None if images is None else images[:CHECKED])
    if args.int8:
        return _int8(args, model, wanted, images, labels)
    return [str(line) for line in export_model(model, args.output, wanted, overwrite=args.overwrite, progress=_tell)]


def _int8(
    args: argparse.Namespace, model: Any, wanted: Wanted, images: np.ndarray | None, labels: np.ndarray | None
) -> list[str]:
    from paddle_dla.exporting.export_int8 import export_int8
    from paddle_dla.exporting.images import read_images

    calibration, known = read_images(args.calibration, wanted.preprocessing, args.images)
    judged = (calibration, known) if images is None else (images, labels)
    agreement, measured = export_int8(
        model, args.output, replace(wanted, formats=["onnx"]), calibration, judged,
        max_loss=args.max_loss, overwrite=args.overwrite, progress=_tell,
    )  # fmt: skip
    return [f"before quantisation, {agreement}", str(measured)]


def _manifest(checkpoint: str) -> dict[str, Any]:
    if not os.path.exists(checkpoint):
        raise ExportError(f"{checkpoint}: no such file")
    return read_manifest(checkpoint) or {}


def _preprocessing(manifest: dict[str, Any], name: str, side: int | None) -> Preprocessing:
    try:
        known = manifest.get("preprocessing")
        found = PRETRAINED[name].preprocessing if known is None else Preprocessing.from_dict(known)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the checkpoint's manifest: {error}") from error
    return found if side is None else replace(found, input_size=(found.input_size[0], side, side))


def _class_names(path: str | None, num_classes: int) -> list[str] | None:
    if path is None:
        return None
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read the class names {path}: {error}") from error
    if len(names) != num_classes:
        raise ExportError(f"{path} has {len(names)} names, one a line; the model has {num_classes} classes")
    return names


def _weights(checkpoint: str) -> dict[str, str]:
    return {"source": os.path.basename(checkpoint), "sha256": file_sha256(checkpoint)}


def _images(data: str, preprocessing: Preprocessing, limit: int) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    if data == "none":
        return None, None
    from paddle_dla.exporting.images import read_images

    return read_images(data, preprocessing, limit)


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
    except (CheckpointError, EngineError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*lines, f"wrote {args.output}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
