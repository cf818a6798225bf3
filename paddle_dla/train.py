"""Train or fine-tune as a config says; the same command resumes a run that was killed.

Usage::

    python -m paddle_dla.train --config configs/dla60.yaml -o data.train=imagenet/train data.val=imagenet/val
    paddle-dla train --config configs/dla46_c.yaml -o base=recipes/finetune.yaml data.train=flowers/train
    paddle-dla launch --nproc 2 train --config configs/dla60.yaml -o data.train=imagenet/train

After a crash, a ``kill -9`` or a full disk the same command resumes in the middle of the epoch, bit for bit. SIGTERM
and Ctrl-C write a checkpoint and end the run. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 stopped by a signal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from paddle_dla.command_parser import CommandParser
from paddle_dla.config import Config, load_config
from paddle_dla.errors import UserError
from paddle_dla.options import ConfigOptions, add_config, options_of
from paddle_dla.ranks import Ranks, joined
from paddle_dla.terminal import run_command
from paddle_dla.training.errors import Stopped
from paddle_dla.training.stopping import listening

STOPPED = 3


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ConfigOptions):
    """Options of ``train``: a config, and overrides of its output folder and of resuming."""

    config: str = field()  # required here
    output: str | None = None
    resume: str | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("train", __doc__)
    add_config(result, required=True)
    result.add_argument(
        "--output",
        metavar="DIR",
        help="output folder for checkpoints, logs and the resolved config (default: train.output)",
    )
    result.add_argument(
        "--resume",
        metavar="auto|never|PATH",
        help="auto: resume from the last checkpoint in the output folder, if there is one",
    )
    return result


def chosen_config(options: TrainOptions) -> Config:
    """Return the chosen config. Raises ``ConfigError``."""
    chosen: dict[str, object] = {}
    if options.output is not None:
        chosen["train.output"] = options.output
    if options.resume is not None:
        chosen["train.resume"] = {"auto": True, "never": False}.get(options.resume, options.resume)
    return load_config(options.config, options.override, chosen)


def run(options: TrainOptions, ranks: Ranks) -> int:
    """Train; the first rank prints. Raises ``UserError`` or ``Stopped``."""
    config = chosen_config(options)
    # imports Paddle; mistakes in the config are reported before that
    from paddle_dla.training.start import train

    def say(line: str) -> None:
        if ranks.first:
            print(line, flush=True)

    with listening() as stop:
        outcome = train(config, ranks, stop, say)
    best = "" if outcome.best is None else f"; best {config.train.eval_metric}: {abs(outcome.best.score):.5g}"
    say(f"done{best}; checkpoints are in {outcome.folder}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = options_of(TrainOptions, parser().parse_args(argv))
    who = ""
    try:
        chosen_config(options)
        with joined() as ranks:
            who = f" on rank {ranks.rank}" if ranks.count > 1 else ""
            return run(options, ranks)
    except Stopped as stopped:
        _tell(f"{stopped}{who}", stopped)
        return STOPPED
    except UserError as error:
        _tell(f"error{who}: {error}", error)
        return 1


def _tell(text: str, error: Exception) -> None:
    print("\n".join([text, *getattr(error, "__notes__", [])]), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
