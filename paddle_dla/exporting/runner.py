"""Classify images with the network in this folder: its top-5, as text or as JSON.

    python run.py IMAGE [IMAGE ...] [--engine onnxruntime|inference] [--threads N] [--json]

Needs numpy, Pillow and either onnxruntime (for model.onnx) or paddlepaddle (for model.json or model.pdmodel); nothing
else of what made the folder. ``preprocessing.json`` says how an image becomes the network's input; the rules are those
of timm's evaluation transform, to the byte.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

Run = Callable[[np.ndarray], np.ndarray]

FORMAT = 1
TOP = 5


def preprocess(path: str, spec: Mapping) -> np.ndarray:
    """An image file -> (C, H, W) float32, normalised."""
    mean, std = (np.array(spec[key], np.float32) for key in ("mean", "std"))
    pixels = crop(path, spec).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def crop(path: str, spec: Mapping) -> np.ndarray:
    """An image file -> (H, W, C) uint8: resized, the centre cropped, black around it where it is smaller."""
    channels, *target = spec["input_size"]
    with Image.open(path) as file:
        image = file.convert("RGB")
    image = image.convert("L") if channels == 1 else image
    width, height = resized(*image.size, [math.floor(side / spec["crop_pct"]) for side in target])
    image = image.resize((width, height), Image.Resampling[spec["interpolation"].upper()])
    kept = [min(wanted, there) for wanted, there in zip(target, (height, width))]
    top, left = (round((there - keep) / 2) for there, keep in zip((height, width), kept))
    pixels = np.asarray(image.crop((left, top, left + kept[1], top + kept[0]))).reshape(*kept, channels)
    missing = [wanted - keep for wanted, keep in zip(target, kept)]
    return np.pad(pixels, [*((gap // 2, (gap + 1) // 2) for gap in missing), (0, 0)])


def resized(width: int, height: int, scaled: list[int]) -> tuple[int, int]:
    """(width, height) so that the short side is ``scaled``, or both cover a ``scaled`` (height, width) not square."""
    if scaled[0] != scaled[1]:
        ratio = min(height / scaled[0], width / scaled[1])
        return round(width / ratio), round(height / ratio)
    short = scaled[0]
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def open_onnxruntime(folder: Path, threads: int) -> Run:
    """A function from images (B, C, H, W) to logits (B, K)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def open_inference(folder: Path, threads: int) -> Run:
    """A function from images (B, C, H, W) to logits (B, K)."""
    from paddle import inference

    program = next(path for name in ("model.json", "model.pdmodel") if (path := folder / name).is_file())
    config = inference.Config(str(program), str(folder / "model.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(threads)
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(images: np.ndarray) -> np.ndarray:
        source.reshape(images.shape)
        source.copy_from_cpu(images)
        predictor.run()
        return result.copy_to_cpu()

    return run


# engine: its format in the record, the package that runs it, how it is opened; the fastest first
ENGINES = {
    "onnxruntime": ("onnx", "onnxruntime", open_onnxruntime),
    "inference": ("inference", "paddle", open_inference),
}


def open_engine(folder: Path, record: Mapping, wanted: str | None, threads: int) -> Run:
    """The engine ``wanted``, or the first that the folder has a network for and that is installed."""
    there = {name: rest for name, rest in ENGINES.items() if rest[0] in record["formats"]}
    if wanted and wanted not in there:
        raise SystemExit(f"error: this export has no network for {wanted}; it has: {', '.join(there)}")
    for name in [wanted] if wanted else there:
        _, package, opener = there[name]
        if find_spec(package):
            return opener(folder, threads)
    needed = " or ".join(there[name][1] for name in ([wanted] if wanted else there))
    raise SystemExit(f"error: {needed} is not installed (for paddle: pip install paddlepaddle)")


def best(logits: np.ndarray, names: list[str] | None) -> list[dict]:
    """The five best classes of one image, best first: index, name and probability."""
    exps = np.exp(logits.astype(np.float64) - logits.max())
    shares = exps / exps.sum()
    order = np.argsort(-logits, kind="stable")[:TOP]
    return [{"class": int(i), "name": names[i] if names else None, "probability": float(shares[i])} for i in order]


def read_record(folder: Path) -> dict:
    """What ``preprocessing.json`` says."""
    path = folder / "preprocessing.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: cannot read {path}: {error}") from None
    if record.get("format") != FORMAT:
        raise SystemExit(f"error: {path} has format {record.get('format')!r}; this runner reads {FORMAT}")
    return record


def usable_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_stdout() -> TextIO:
    """stdout for the results alone: what libraries print to it from now on goes to stderr."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return results


def main() -> int:
    """The script: returns 0, or 1 where an image could not be read."""
    parser = argparse.ArgumentParser(description="Classify images with the network in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--engine", choices=ENGINES, help="default: the first that is there and installed")
    parser.add_argument("--threads", type=int, default=usable_threads(), metavar="N")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    record = read_record(folder)
    results = own_stdout()
    run = open_engine(folder, record, args.engine, args.threads)
    failed = 0
    for path in args.images:
        try:
            image = preprocess(path, record["preprocessing"])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            failed = 1
            continue
        found = best(run(image[None])[0], record["class_names"])
        if args.json:
            print(json.dumps({"image": path, "top": found}, allow_nan=False), file=results, flush=True)
            continue
        print(path, file=results)
        for item in found:
            line = f"  {item['probability']:8.2%}  {item['class']:5d}  {item['name'] or ''}"
            print(line.rstrip(), file=results, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
