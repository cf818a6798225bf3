"""Tar shards from a class-folder tree or a list file, image bytes unchanged; or an index for shards that have none.

Usage::

    python scripts/make_shards.py imagenet/val shards/val --samples-per-shard 1000
    python scripts/make_shards.py imagenet/train shards/train --shuffle 0
    python scripts/make_shards.py shards/val --index

Exit codes: 0 written, 2 for what cannot be read or written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from paddle_dla.data.errors import DataError
from paddle_dla.data.opening import open_source
from paddle_dla.data.shard_index import INDEX_NAME, write_index
from paddle_dla.data.shard_tar import read_headers
from paddle_dla.data.shard_writer import write_shards
from paddle_dla.data.shards import find_shards
from paddle_dla.options import natural, positive
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.terminal import run_command


def index_shards(folder: Path, classes: list[str] | None = None) -> int:
    """Write ``shards.json`` for a folder of tars by counting their headers; returns the number of samples."""
    samples = {os.path.basename(path): len(read_headers(path)) for path in tqdm(find_shards(folder), "shards")}
    write_index(folder, samples, classes)
    return sum(samples.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("data", type=Path, help="class-folder tree, list file, or tar shards")
    parser.add_argument("out", type=Path, nargs="?", help="new folder for the shards")
    parser.add_argument("--root", type=Path, help="where the files of a list lie, if not beside it")
    parser.add_argument("--classes", type=Path, help="file of class names, one a line")
    parser.add_argument("--samples-per-shard", type=positive, default=1000)
    parser.add_argument("--shuffle", type=natural, metavar="SEED", help="write in a random order, as training wants it")
    parser.add_argument("--index", action="store_true", help=f"only write {INDEX_NAME} into the folder DATA of tars")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.index == (args.out is not None):
        parser.error("give OUT, or --index")
    try:
        if args.index:
            print(f"{args.data / INDEX_NAME}: {index_shards(args.data)} samples")
            return 0
        source = open_source(args.data, args.root, args.classes)
        for note in source.notes:
            print(note, file=sys.stderr)
        order = None if args.shuffle is None else np.random.default_rng(args.shuffle).permutation(source.num_samples)
        with tqdm(total=source.num_samples, desc="samples") as bar:
            names = write_shards(source, args.out, args.samples_per_shard, order, bar.update)
        print(f"{args.out}: {source.num_samples} samples in {len(names)} shards")
    except (DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
