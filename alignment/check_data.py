"""Compare the images that reach the model: every sample, label, byte and float.

Usage::

    python alignment/check_data.py --model dla60
    python alignment/check_data.py --model dla60 --data imagenet/val --samples 500
    python alignment/check_data.py --model dla60 --image a.jpg b.png

Without data, a few images are generated in the formats that pipelines disagree on. The check compares the list of
samples with timm's reader of class folders; decoding, crop and normalisation with timm's evaluation transform; the
loader's batches; and the training transforms, with the same random numbers on both sides. No difference is allowed, not
of a bit.

Exit codes: 0 aligned, 1 not aligned or the data cannot be read, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from alignment.command import CheckOptions, Progress, at_least_one, parser, run
from alignment.engine.result import Result
from paddle_dla.terminal import run_command


@dataclass(frozen=True, kw_only=True)
class SampleOptions(CheckOptions):
    """The samples to compare: of a data set or of images, at most ``samples``; without either, generated images."""

    data: str | None = None
    image: tuple[str, ...] | None = None
    samples: int = 16


def check_data(options: SampleOptions, progress: Progress) -> Result:
    """Compare the given samples, or generated ones, as one model takes them.

    Raises ``DataError`` for data that cannot be read.
    """
    from alignment.data_comparison import compare_data

    images = options.image or ()
    return compare_data(options.model, options.seed, options.data, images, options.samples, progress)


def add_data(to: argparse.ArgumentParser) -> None:
    """Add the arguments of ``SampleOptions``, except the images."""
    few = SampleOptions.samples
    to.add_argument(
        "--data", metavar="DIR|LIST|TAR", help="class folders, list file, or tar shards (default: generated images)"
    )
    to.add_argument(
        "--samples", type=at_least_one, default=few, metavar="N", help=f"number of samples to compare (default: {few})"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-data", __doc__)
    usage.add_argument("--image", nargs="+", metavar="PATH", help="images, folders or glob patterns, instead of --data")
    add_data(usage)
    return run(usage, argv, SampleOptions, check_data)


if __name__ == "__main__":
    sys.exit(run_command(main))
