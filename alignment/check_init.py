"""Does the Paddle model start training from the same distribution as timm's? Every parameter and buffer.

Usage::

    python alignment/check_init.py --model dla60
    python alignment/check_init.py --model all --seeds 5 --html report.html

Each model is made under several seeds. Constant tensors must be equal. Random ones are compared by the
Kolmogorov-Smirnov test, by mean and by standard deviation, corrected for the number of tests. The same seed must draw
the same numbers again, and no two tensors of the port may come from the same random numbers.

Exit codes: 0 aligned, 1 not aligned, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.command import CheckOptions, Progress, parser, run
from alignment.engine.distributions.distribution import Drawn
from alignment.engine.distributions.initialisation import collect, compare_draws
from alignment.engine.result import Result, Skipped
from convert.key_map import drop_reason
from paddle_dla.terminal import run_command


@dataclass(frozen=True, kw_only=True)
class InitOptions(CheckOptions):
    """The options of the check; ``seeds`` is the number of models drawn on each side."""

    seeds: int = 5


def check_init(options: InitOptions, progress: Progress) -> Result:
    """Compare freshly initialised models under ``seeds`` seeds, starting with ``seed``."""
    from alignment.models import twins
    from alignment.pairs import versions

    model, seeds = options.model, range(options.seed, options.seed + options.seeds)
    names = f"{seeds[0]} to {seeds[-1]}"
    progress(f"{model}: timm's initialisation under the seeds {names}")
    reference = collect(lambda seed: fresh_timm(model, seed), seeds)
    progress(f"{model}: Paddle's initialisation under the seeds {names}")
    port = collect(lambda seed: fresh_paddle(model, seed), seeds)
    kept = twins(model)
    skipped = _take_out_dropped(reference.tensors, kept)
    theirs = {name: kept[name].paddle for name in reference.tensors}
    result = compare_draws(f"{model}: initialisation, timm against Paddle", reference, port, theirs, skipped)
    result.facts = {"seeds": f"{names} in either framework", **result.facts, "versions": versions()}
    return result


def fresh_timm(model: str, seed: int) -> dict[str, np.ndarray]:
    """Return every parameter and buffer of a new timm model, by timm's names."""
    from alignment.models import fresh_reference
    from torch_ref.model import state_arrays

    return state_arrays(fresh_reference(model, seed))


def fresh_paddle(model: str, seed: int) -> dict[str, np.ndarray]:
    """Return every parameter and buffer of a new Paddle model, by timm's names; Paddle's random state is kept."""
    import paddle

    from alignment.models import twins
    from paddle_dla import create_model

    state = paddle.get_rng_state()
    try:
        paddle.seed(seed)
        tensors = create_model(model).state_dict()  # of a port: as Paddle initialises its layers
    finally:
        paddle.set_rng_state(state)
    return {name: np.array(twin.carried(tensors[twin.paddle].numpy())) for name, twin in twins(model).items()}


def _take_out_dropped(tensors: dict[str, Drawn], known: Collection[str]) -> list[Skipped]:
    """Remove tensors that have no counterpart in Paddle; return one entry for all tensors of one reason."""
    names: dict[str, list[str]] = {}
    for name in [name for name in tensors if name not in known]:
        names.setdefault(drop_reason(name), []).append(name)
        del tensors[name]
    return [Skipped(_several(found), "Tensor", "torch", reason) for reason, found in names.items()]


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more like it"


def add_seeds(to: argparse.ArgumentParser) -> None:
    """Add the argument of ``InitOptions``."""
    few = InitOptions.seeds
    to.add_argument(
        "--seeds", type=_at_least_two, default=few, metavar="N", help=f"number of random seeds (default: {few})"
    )


def _at_least_two(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 2 on; one seed cannot tell random from constant")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-init", __doc__)
    add_seeds(usage)
    return run(usage, argv, InitOptions, check_init)


if __name__ == "__main__":
    sys.exit(run_command(main))
