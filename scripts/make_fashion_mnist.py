"""Fashion-MNIST (70,000 real images) as class folders, list files and tar shards, from Debian's package.

Usage::

    apt-get install dataset-fashion-mnist
    python scripts/make_fashion_mnist.py out/fashion_mnist [--shards] [--limit 100]

Writes ``OUT/{train,val}/{class}/{index:05d}.png`` (index: the place in the original file), ``OUT/classes.txt``,
``OUT/{train,val}.txt`` with ``path label`` lines in the original order and, with ``--shards``,
``OUT/shards/{train,val}/`` in that order. An image is the original's 28x28 grey pixels with 2 pixels of zeros around
them: 32x32, a multiple of the networks' stride. OUT appears when all of it is written; a run that was interrupted is
done again from the start. Exit codes: 0 written, 2 for what cannot be read or written.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from paddle_dla.data.errors import DataError
from paddle_dla.data.folders import new_folder
from paddle_dla.data.list_file import open_list
from paddle_dla.data.shard_writer import write_shards
from paddle_dla.terminal import run_command

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = {"train": "train", "val": "t10k"}  # split -> how the original names begin
# numbered, so that natural order is the order of the labels
CLASSES = (
    "0_t-shirt_top",
    "1_trouser",
    "2_pullover",
    "3_dress",
    "4_coat",
    "5_sandal",
    "6_shirt",
    "7_sneaker",
    "8_bag",
    "9_ankle_boot",
)
PADDING = 2
SAMPLES_PER_SHARD = 5000
_UINT8 = 8  # code of the only element type used, http://yann.lecun.com/exdb/mnist (idx format)


def read_idx(path: Path) -> np.ndarray:
    """The array of a gzipped idx file: uint8, (N, 28, 28) images or (N,) labels. Raises ``DataError``."""
    try:
        with gzip.open(path) as file:
            data = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: is not there; apt-get install dataset-fashion-mnist, or name its folder") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); install dataset-fashion-mnist again") from error
    header = np.frombuffer(data[:4], np.uint8)
    if len(header) < 4 or header[:3].tolist() != [0, 0, _UINT8]:
        raise DataError(f"{path}: is no idx file of bytes")
    start = 4 + 4 * int(header[3])
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if len(shape) != header[3] or len(data) != start + int(np.prod(shape)):
        raise DataError(f"{path}: has {len(data)} bytes, which is not an idx file of shape {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, (N, 28, 28) uint8, and labels, (N,) uint8 from 0 to 9, of "train" or "val"."""
    images = read_idx(folder / f"{FILES[split]}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{FILES[split]}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASSES):
        raise DataError(f"{folder}: images {images.shape} and labels {labels.shape} of {split} do not belong together")
    return images, labels


def write_split(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one split's class folders and list file into ``folder``."""
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True)
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    lines = []
    for index, (pixels, label) in enumerate(zip(tqdm(padded, split), labels)):
        name = f"{split}/{CLASSES[label]}/{index:05d}.png"
        Image.fromarray(pixels).save(folder / name)
        lines.append(f"{name} {label}\n")
    (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


def make(source: Path, out: Path, shards: bool = False, limit: int | None = None) -> dict[str, int]:
    """Write everything to the new folder ``out``; returns the number of images of each split.

    ``limit`` keeps the first so many of each split. Raises ``DataError``, before anything is written, for files that
    are missing or damaged and for an ``out`` that is not empty.
    """
    splits = {split: [array[:limit] for array in read_split(source, split)] for split in FILES}
    with new_folder(out) as part:
        (part / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
        for split, (images, labels) in splits.items():
            write_split(part, split, images, labels)
            if shards:
                listed = open_list(part / f"{split}.txt", classes=part / "classes.txt")
                (part / "shards").mkdir(exist_ok=True)
                write_shards(listed, part / "shards" / split, SAMPLES_PER_SHARD)
    return {split: len(labels) for split, (_, labels) in splits.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of the original idx files")
    parser.add_argument("--shards", action="store_true", help="also write tar shards")
    parser.add_argument("--limit", type=int, help="only the first so many images of each split")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit is 1 or more")
    try:
        counts = make(args.source, args.out, args.shards, args.limit)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: " + ", ".join(f"{count} images in {split}" for split, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
