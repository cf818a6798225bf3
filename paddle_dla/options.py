"""Command-line options shared by several commands, and their dataclasses. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, TypeVar

from paddle_dla.cpu import usable_threads
from paddle_dla.errors import WrongValue
from paddle_dla.preprocessing import INTERPOLATIONS, Preprocessing
from paddle_dla.storage.shown import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def options_of(kind: type[Options], given: object, **changes: object) -> Options:
    """Create the options ``kind``, a dataclass, from the attributes of ``given`` with the names of its fields.

    ``given`` is a namespace of ``argparse``, or other options. ``changes`` override it. All other fields keep their
    defaults.
    """
    known = {field.name: getattr(given, field.name) for field in fields(kind) if hasattr(given, field.name)}
    return kind(**{name: _frozen(value) for name, value in {**known, **changes}.items()})


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """Overrides of the preprocessing of a model; ``None`` keeps the model's value."""

    input_size: tuple[int, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def add_preprocessing(to: argparse.ArgumentParser) -> None:
    """Add the options of ``PreprocessingOptions``."""
    group = to.add_argument_group("preprocessing", "default: what the weights were published or converted with")
    group.add_argument(
        "--input-size", type=positive, nargs="+", metavar="N", help="image side, or height and width, in pixels"
    )
    group.add_argument("--crop-pct", type=float, metavar="X", help="fraction of the resized short side that is kept")
    group.add_argument("--interpolation", choices=INTERPOLATIONS)
    group.add_argument("--mean", type=float, nargs="+", metavar="X", help="per channel, for pixels in [0, 1]")
    group.add_argument("--std", type=float, nargs="+", metavar="X", help="per channel, for pixels in [0, 1]")


def chosen_preprocessing(options: PreprocessingOptions, base: Preprocessing) -> Preprocessing:
    """Return ``base`` with the overrides of the options. Raises ``WrongValue`` for invalid values."""
    given = {name: getattr(options, name) for name in ("crop_pct", "interpolation", "mean", "std")}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.input_size:
        height, width = options.input_size[0], options.input_size[-1]
        if len(options.input_size) > 2:
            raise WrongValue(f"--input-size takes one side, or height and width, not {list(options.input_size)}")
        changes["input_size"] = (base.input_size[0], height, width)
    return replace(base, **changes)


@dataclass(frozen=True)
class Loading:
    """Arguments of a loader: see ``Loader``."""

    batch_size: int = 64
    workers: int = 0
    max_skipped: int = 0
    timeout: float = 120.0


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data and how to read it. ``workers`` is the number of processes that read it."""

    data: str | None = None
    data_root: str | None = None
    batch_size: int = Loading.batch_size
    workers: int = field(default_factory=usable_threads)
    max_skipped: int = Loading.max_skipped
    log_interval: int = 10
    timeout: float = Loading.timeout

    def loading(self) -> Loading:
        """Return the arguments of the loader."""
        return Loading(self.batch_size, self.workers, self.max_skipped, self.timeout)


def add_data(to: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options of ``DataOptions``. ``required``: whether ``--data`` is required."""
    group = to.add_argument_group("data")
    group.add_argument(
        "--data", required=required, metavar="DIR|LIST|TAR", help="class folders, list file, or tar shards"
    )
    group.add_argument(
        "--data-root", metavar="DIR", help="folder of the files in a list file (default: the list's own)"
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=DataOptions.batch_size,
        metavar="N",
        help="images per step and rank (default: 64)",
    )
    group.add_argument(
        "--workers", type=workers, default=usable_threads(), metavar="N", help="number of processes that load images"
    )
    group.add_argument(
        "--max-skipped",
        type=natural,
        default=0,
        metavar="N",
        help="largest number of damaged images to skip (default: 0)",
    )
    group.add_argument(
        "--log-interval", type=positive, default=10, metavar="N", help="steps between two log lines (default: 10)"
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        default=DataOptions.timeout,
        metavar="S",
        help="seconds to wait for one image (default: 120)",
    )


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """A YAML file, and changes to it: ``KEY=VALUE`` each."""

    config: str | None = None
    override: tuple[str, ...] = ()


def add_config(to: argparse.ArgumentParser, required: bool = False, what: str = "a YAML file") -> None:
    """Add the options of ``ConfigOptions``."""
    to.add_argument("--config", "-c", required=required, metavar="FILE", help=f"{what}, such as configs/dla60.yaml")
    to.add_argument(
        "--override",
        "-o",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options to override in the config",
    )


HIGHEST = 2**31 - 1
"""Counters and shapes are ``int`` in many places of Paddle and numpy, and limited to this."""
MOST_THREADS = 1024
"""No machine has as many cores for one process."""


def finite(text: str) -> float:
    """Convert an ``argparse`` argument to a number of 0 or more; refuses ``nan`` and ``inf``."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of 0 or more")
    return value


def whole(text: str) -> int:
    """Convert an ``argparse`` argument to a whole number."""
    value = int(text)
    if abs(value) > HIGHEST:
        raise argparse.ArgumentTypeError(f"{shown(text, 40)} is larger than {HIGHEST:,}")
    return value


def natural(text: str) -> int:
    """Convert an argument to a whole number of 0 or more."""
    return _from(0, whole(text))


def positive(text: str) -> int:
    """Convert an argument to a whole number above 0."""
    return _from(1, whole(text))


def threads(text: str) -> int:
    """Convert an argument to a number of threads or processes."""
    value = positive(text)
    if value > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{value} is more than {MOST_THREADS:,}")
    return value


def workers(text: str) -> int:
    """Convert an argument to a number of additional processes, which may be 0."""
    return 0 if natural(text) == 0 else threads(text)


def seconds(text: str) -> float:
    """Convert an argument to a finite time above 0, in seconds."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a finite time above 0")
    return value


def _from(least: int, value: int) -> int:
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is less than {least}")
    return value
