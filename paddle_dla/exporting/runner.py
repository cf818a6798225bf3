"""Classify images with the network in this folder: its top-5, as text or as JSON.

    python run.py IMAGE [IMAGE ...] [--engine onnxruntime|inference] [--threads N] [--json]

Needs numpy, Pillow and either onnxruntime (for model.onnx) or paddlepaddle (for model.json or model.pdmodel), and not
the package that made the folder. ``preprocessing.json`` defines how an image becomes the network's input; the rules are
those of timm's evaluation transform, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import stat
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from PIL import Image

Run = Callable[[np.ndarray], np.ndarray]

FORMAT = 1
TOP = 5
MOST_THREADS = 1024
MOST_SHOWN = 300  # characters of an engine's message
# exceptions of Pillow's readers for damaged bytes, besides OSError and ValueError
DAMAGED = (SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, AttributeError, AssertionError,
           struct.error, zlib.error)  # fmt: skip
MOST_BYTES = 2**28  # largest image, or record
MOST_PIXELS = 1024**3 // 4 // 3  # largest image, before and after resizing: Pillow's own limit
LONGEST = 16  # largest ratio of the sides of an image that is resized to more
# channels, height and width; mean, std and crop_pct: the limits of the package that wrote this folder
UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode: control, format, surrogates, line and paragraph separators
LIMITS = {
    "input_size": (1, 2**14),
    "mean": (-(2.0**15), 2.0**15),
    "std": (2.0**-20, 2.0**20),
    "crop_pct": (2.0**-4, 4.0),
}


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading; a FIFO would wait forever, and a device has no end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{shown(path)} is no regular file")
    return file


def read_file(path: str | Path) -> bytes:
    """Read a regular file of up to ``MOST_BYTES``."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise OSError(f"it has more than {MOST_BYTES:,} bytes")
        return file.read()


def shown(text: object) -> str:
    """Return ``text`` in one line; characters that move the cursor, end the line or change direction are escaped."""
    return "".join(c.encode("unicode_escape", "surrogatepass").decode() if unicodedata.category(c) in UNSHOWN else c
                   for c in str(text))  # fmt: skip


def preprocess(path: str, spec: Mapping) -> np.ndarray:
    """Read an image file -> (C, H, W) float32, normalised."""
    mean, std = (np.array(spec[key], np.float32) for key in ("mean", "std"))
    pixels = crop(path, spec).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def crop(path: str, spec: Mapping) -> np.ndarray:
    """Read an image file -> (H, W, C) uint8: resized, the centre cropped, padded with black if it is smaller."""
    channels, *target = spec["input_size"]
    data = read_file(path)
    try:
        with Image.open(io.BytesIO(data)) as file:
            refuse_larger(*file.size, MOST_PIXELS)
            if file.format == "EPS":
                raise ValueError("EPS is a program, which Ghostscript would run")
            image = file.convert("RGB")
    except Image.UnidentifiedImageError:
        raise ValueError("cannot identify image file") from None
    except DAMAGED as error:
        raise ValueError(f"damaged image: {error}") from error
    image = image.convert("L") if channels == 1 else image
    width, height = resized(*image.size, [math.floor(side / spec["crop_pct"]) for side in target])
    refuse_larger(width, height, max(MOST_PIXELS, LONGEST * min(width, height) ** 2))
    image = image.resize((width, height), Image.Resampling[spec["interpolation"].upper()])
    kept = [min(wanted, there) for wanted, there in zip(target, (height, width))]
    top, left = (round((there - keep) / 2) for there, keep in zip((height, width), kept))
    pixels = np.asarray(image.crop((left, top, left + kept[1], top + kept[0]))).reshape(*kept, channels)
    missing = [wanted - keep for wanted, keep in zip(target, kept)]
    return np.pad(pixels, [*((gap // 2, (gap + 1) // 2) for gap in missing), (0, 0)])


def refuse_larger(width: int, height: int, most: int) -> None:
    """Raise ``ValueError`` for an image with too many pixels."""
    if width * height > most:
        raise ValueError(f"{width} x {height} pixels are more than {most:,}")


def resized(width: int, height: int, scaled: list[int]) -> tuple[int, int]:
    """Return (width, height) with the short side ``scaled``, or both covering a non-square (height, width)."""
    if scaled[0] != scaled[1]:
        ratio = min(height / scaled[0], width / scaled[1])
        return round(width / ratio), round(height / ratio)
    short = scaled[0]
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def open_onnxruntime(folder: Path, threads: int) -> Run:
    """Return a function from images (B, C, H, W) to logits (B, K)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda images: cast("np.ndarray", session.run(["logits"], {"images": images})[0])


def open_inference(folder: Path, threads: int) -> Run:
    """Return a function from images (B, C, H, W) to logits (B, K)."""
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


# engine: its format in the record, its package, and the function that opens it; the fastest first
ENGINES = {
    "onnxruntime": ("onnx", "onnxruntime", open_onnxruntime),
    "inference": ("inference", "paddle", open_inference),
}


def open_engine(folder: Path, record: Mapping, wanted: str | None, threads: int) -> Run:
    """Open the engine ``wanted``, or the first that is installed and for which the folder has a network."""
    there = {name: rest for name, rest in ENGINES.items() if rest[0] in record["formats"]}
    if not there:
        raise SystemExit(f"error: this export has no network that this runner knows: {shown(record['formats'])}")
    if wanted and wanted not in there:
        raise SystemExit(f"error: this export has no network for {wanted}; it has: {', '.join(there)}")
    for name in [wanted] if wanted else there:
        _, package, opener = there[name]
        if find_spec(package):
            return opener(folder, threads)
    needed = " or ".join(there[name][1] for name in ([wanted] if wanted else there))
    raise SystemExit(f"error: {needed} is not installed (for paddle: pip install paddlepaddle)")


def logits_of(run: Run, image: np.ndarray, classes: int) -> np.ndarray:
    """Return the logits of one image, one for each of ``classes``; exits if their number differs."""
    try:
        logits = run(image[None])[0]
    except Exception as error:  # noqa: BLE001 - engines raise what they like
        reason = " ".join(str(error).split())[:MOST_SHOWN]
        raise SystemExit(f"error: the network does not take images of {list(image.shape)}: {reason}") from None
    if logits.shape != (classes,):
        raise SystemExit(f"error: the record has {classes} classes, the network {logits.size}; export again")
    return logits


def best(logits: np.ndarray, names: list[str] | None) -> list[dict]:
    """Return the five best classes of one image, best first: index, name and probability.

    Raises ``ValueError`` if the logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the network's output is not finite: its files or the preprocessing are broken")
    exps = np.exp(logits.astype(np.float64) - logits.max())
    shares = exps / exps.sum()
    order = np.argsort(-logits, kind="stable")[:TOP]
    return [{"class": int(i), "name": names[i] if names else None, "probability": float(shares[i])} for i in order]


def read_record(folder: Path) -> dict:
    """Read ``preprocessing.json`` and verify the files beside it."""
    path = folder / "preprocessing.json"
    try:
        record = json.loads(read_file(path).decode("utf-8-sig"), object_pairs_hook=each_key_once)
        if not isinstance(record, dict):
            raise ValueError("it is no record of an export")
        if type(record.get("format")) is not int or record["format"] != FORMAT:
            raise SystemExit(f"error: {path} has format {shown(record.get('format'))}; this runner reads {FORMAT}")
        check_preprocessing(record["preprocessing"])
        names = record["class_names"]
        texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if names is not None and not (texts and len(names) == record["num_classes"]):
            raise ValueError(f"class names are {record['num_classes']} texts, not {str(names)[:80]}")
        if record["num_classes"] < 2:
            raise ValueError("the network has one class: any image would get a probability of 100 %")
        check_files(folder, record["files"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SystemExit(f"error: cannot read {path}: {shown(error) or type(error).__name__}") from None
    return record


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ``ValueError`` for a duplicate key, for which readers use one value or the other."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is named twice")
    return found


def check_preprocessing(spec: Mapping) -> None:
    """Raise ``ValueError`` for a preprocessing that cannot be applied to any image."""
    for key, (low, high) in LIMITS.items():
        values = [spec[key]] if key == "crop_pct" else spec[key]
        kinds = (int,) if key == "input_size" else (int, float)
        # a NaN is in no range
        if not all(type(value) in kinds and low <= value <= high for value in values):
            raise ValueError(f"{key} is {spec[key]}, expected are numbers from {low:g} to {high:g}")
    if spec["interpolation"] not in [kind.name.lower() for kind in Image.Resampling]:
        raise ValueError(f"interpolation is {shown(spec['interpolation'])}, which Pillow does not know")
    channels = spec["input_size"][0]
    if len(spec["input_size"]) != 3 or not len(spec["mean"]) == len(spec["std"]) == channels or channels not in (1, 3):
        raise ValueError(f"mean and std do not belong to images of {spec['input_size']}")


def check_files(folder: Path, files: Mapping) -> None:
    """Raise ``ValueError`` if a file of the network differs from the exported one, or is not listed."""
    networks = sorted(path.name for path in folder.glob("model.*"))
    unlisted = [name for name in networks if name not in files]
    if unlisted or not networks:
        raise ValueError(f"no checksum is listed for {', '.join(unlisted) or 'any network'}; export again")
    for name in networks:
        with open_regular(folder / name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != files[name]["sha256"]:
            raise ValueError(f"{name} is not what was exported; copy the folder or export again")


def usable_threads() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(text: str) -> int:
    """Convert an argument to a possible number of threads."""
    value = int(text)
    if not 1 <= value <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{value} is not from 1 to {MOST_THREADS:,}")
    return value


def own_stdout() -> TextIO:
    """Return stdout for the results only: whatever libraries print to it from now on goes to stderr."""
    # if one of the three is closed, the next opened file would get its number, and all printed text
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    results = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    return results


def main() -> int:
    """Run the script: returns 0, or 1 if an image could not be read."""
    parser = argparse.ArgumentParser(description="Classify images with the network in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--engine", choices=ENGINES, help="engine (default: the first that is installed)")
    parser.add_argument("--threads", type=threads, default=usable_threads(), metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    record = read_record(folder)
    results = own_stdout()
    run = open_engine(folder, record, args.engine, args.threads)
    failed = 0
    for path in args.images:
        try:
            image = preprocess(path, record["preprocessing"])
            found = best(logits_of(run, image, record["num_classes"]), record["class_names"])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"error: {shown(path)}: {shown(error)}", file=sys.stderr)
            failed = 1
            continue
        if args.json:
            print(json.dumps({"image": path, "top": found}, allow_nan=False), file=results, flush=True)
            continue
        print(shown(path), file=results)
        for item in found:
            line = f"  {item['probability']:8.2%}  {item['class']:5d}  {shown(item['name'] or '')}"
            print(line.rstrip(), file=results, flush=True)
    return failed


def guarded() -> int:
    """Run ``main``: one line if its output cannot be written; 141 and no message if the reader has exited."""
    try:
        return main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    sys.exit(guarded())
