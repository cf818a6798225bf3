"""Make known mistakes in a correct port, and see which of them are found.

Usage::

    python alignment/selftest.py
    python alignment/selftest.py --model dla34 --fault bn_epsilon_1e-3 root_concat_permuted
    python alignment/selftest.py --clean --model all --seeds 3
    python alignment/selftest.py --pair my_package.my_module:my_pair

Each model is first compared without a fault, which must raise no alarm. Then every fault of
``alignment.faults.catalogue`` is injected and must be found, with initial weights and with trained-like BatchNorm
weights and statistics. ``--clean`` injects no fault.

``--pair`` tests the comparison on a port of your own, of any structure, with the faults that apply to it. The function
returns the reference, its port with the same weights, and inputs as ``align`` takes them::

    def my_pair():
        reference, port = torch_model(), paddle_model()
        inputs = numpy.random.RandomState(0).standard_normal((2, 3, 64, 64))
        alignment.transfer(reference, port, inputs)
        return reference, port, inputs

A fault that shows in training mode applies if the port is aligned in that mode.

Exit codes: 0 every fault is found with the right layer and kind, and nine of ten causes are right; with ``--pair``,
every fault is found and nine of ten in the right layer. 1 otherwise. 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.command import Progress
from paddle_dla.command_parser import CommandParser
from paddle_dla.cpu import use_vector_kernels
from paddle_dla.errors import UserError
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.options import options_of, positive
from paddle_dla.terminal import run_command

if TYPE_CHECKING:
    from alignment.bench import Found

MODELS = ("dla34", "dla46x_c", "dla60", "dla60_res2net")


@dataclass(frozen=True, kw_only=True)
class SelftestOptions:
    """The models and the number of weight sets of each kind, or the pairs, and the faults to inject."""

    model: tuple[str, ...] | None = None
    pair: tuple[str, ...] | None = None
    fault: tuple[str, ...] | None = None
    seeds: int = 1
    clean: bool = False


def _parser() -> argparse.ArgumentParser:
    usage = CommandParser("selftest", __doc__)
    usage.add_argument("--model", nargs="+", help=f"DLA names, or all (default: {' '.join(MODELS)})")
    usage.add_argument(
        "--pair", nargs="+", metavar="MODULE:FUNCTION", help="functions that return (reference, port, inputs)"
    )
    usage.add_argument(
        "--fault",
        nargs="+",
        metavar="NAME",
        help="faults to inject, by their names in alignment.faults.catalogue (default: all)",
    )
    usage.add_argument("--seeds", type=positive, default=1, help="number of weight sets of each kind (default: 1)")
    usage.add_argument("--clean", action="store_true", help="inject no fault: check correct ports for false alarms")
    return usage


def run(options: SelftestOptions, progress: Progress) -> Found:
    """Inject the faults and look for them. Raises ``UserError`` and ``KeyError`` for unknown names."""
    from alignment.bench import benches, pair_bench, selftest
    from alignment.faults.catalogue import by_name

    faults = [*map(by_name, options.fault)] if options.fault else [] if options.clean else None
    names = options.model or MODELS
    models = [*VARIANTS] if names == ("all",) else [resolve_name(name) for name in names]
    tested = map(pair_bench, options.pair) if options.pair else benches(models, options.seeds)
    return selftest(tested, faults, progress)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = _parser()
    options = options_of(SelftestOptions, usage.parse_args(argv))
    if options.clean and options.fault:
        usage.error("--clean injects no fault; leave out --fault")
    if options.pair and options.model:
        usage.error("--model and --pair exclude each other")
    use_vector_kernels()
    try:
        found = run(options, lambda text: print(text, file=sys.stderr, flush=True))
    except (KeyError, UserError) as error:
        usage.error(str(error.args[0]))
    print("\n".join(found.lines()))
    return 0 if (found.pairs_passed if options.pair else found.passed) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
