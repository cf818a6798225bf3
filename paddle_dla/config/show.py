"""Print a config as it will be used: base, file and overrides together, every option.

    paddle-dla config --config configs/dla60.yaml -o optimizer.lr=0.02
    paddle-dla config --config OLD.yaml > NEW.yaml      # a config of PaddleClas 2.0, in today's names

Exit codes: 0 printed, 1 refused (every fault is listed), 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from paddle_dla.command_parser import CommandParser
from paddle_dla.config.cost import IMAGENET_IMAGES, cost
from paddle_dla.config.reading import Translated, translate_config
from paddle_dla.config.writing import to_yaml
from paddle_dla.errors import UserError
from paddle_dla.options import add_config, positive
from paddle_dla.terminal import run_command


def shown(reading: Translated, images: int) -> str:
    """Return the config as YAML, with comments at the top: notes on older names, and the cost of a training."""
    comments = [*reading.notes, f"cost: {cost(reading.config, images)}"]
    return "".join(f"# {line}\n" for line in comments) + to_yaml(reading.config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        print(shown(translate_config(arguments.config, arguments.override), arguments.images), end="")
    except UserError as error:
        print(f"paddle-dla config: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("config", __doc__)
    add_config(parser, required=True)
    parser.add_argument(
        "--images",
        type=positive,
        default=IMAGENET_IMAGES,
        metavar="N",
        help="images per epoch, for the cost estimate (default: ImageNet's)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
