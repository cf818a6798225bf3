"""Trainings of whole epochs, side by side from one seed, as plain values, and their evaluation. No framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.engine.result import ALIGNED, DIFFERS, UNDECIDED
from alignment.equivalence import CONFIDENCE, Equivalence, equivalence
from paddle_dla.errors import WrongValue

WORDS = {ALIGNED: "ALIGNED", DIFFERS: "NOT ALIGNED", UNDECIDED: "UNDECIDED"}
DEVIATIONS = 1.645
"""The standard score of guessing that one in 20 guessers exceeds."""


@dataclass(frozen=True)
class Run:
    """One training: the loss of each update, and the final accuracy in percent."""

    losses: list[float]
    top1: float


@dataclass(frozen=True)
class Validation:
    """The validation set: the number of ``images``; ``chance`` is the percentage of the most frequent class."""

    images: int
    chance: float

    @classmethod
    def of(cls, labels: np.ndarray) -> Validation:
        """Return the validation set of images with the classes ``labels``, (N,)."""
        return cls(len(labels), 100 * float(np.bincount(labels).max()) / len(labels))

    @property
    def image(self) -> float:
        """The accuracy of one image, in percent."""
        return 100 / self.images

    @property
    def guessed(self) -> float:
        """The accuracy in percent that always predicting the most frequent class exceeds in one of 20 cases only."""
        return self.chance + DEVIATIONS * (self.chance * (100 - self.chance) / self.images) ** 0.5


@dataclass(frozen=True)
class Seed:
    """Both trainings from one seed; ``again`` is torch's with each batch in reverse order, for the first seed."""

    seed: int
    torch: Run
    paddle: Run
    validation: Validation
    again: Run | None = None


def refuse_meaningless(seeds: Sequence[Seed], margin: float) -> None:
    """Raise ``WrongValue`` if a margin of ``margin`` points would prove nothing.

    That is the case if a single image exceeds it, or if a network that has learned nothing is within it.
    """
    validation = seeds[0].validation
    if validation.image > margin:
        raise WrongValue(
            f"one of the {validation.images} validation images is {validation.image:.2f} points, more than the margin "
            f"of {margin:g}: validate on more images, or pass a larger --margin"
        )
    reached = float(np.mean([seed.torch.top1 for seed in seeds]))
    if reached - margin <= validation.guessed:
        raise WrongValue(
            f"torch itself ends at a top-1 of {reached:.2f}, and a network that has learned nothing at up to "
            f"{validation.guessed:.2f}: equality would prove nothing; train longer, or on an easier task"
        )


def judged(seeds: Sequence[Seed], margin: float) -> Equivalence:
    """Judge whether Paddle's accuracies equal torch's to within ``margin`` points. Raises ``WrongValue``."""
    refuse_meaningless(seeds, margin)
    return equivalence([seed.paddle.top1 - seed.torch.top1 for seed in seeds], margin)


def sentence(seeds: Sequence[Seed], found: Equivalence) -> str:
    """Describe the result of ``judged`` in one sentence."""
    ends = [[seed.torch.top1 for seed in seeds], [seed.paddle.top1 for seed in seeds]]
    torch, paddle = (f"{np.mean(end):.2f} ({min(end):.2f} to {max(end):.2f})" for end in ends)
    hint = "; more --seeds make the interval narrower" if found.verdict == UNDECIDED else ""
    return (
        f"{WORDS[found.verdict]}: top-1 of torch {torch}, of Paddle {paddle}; mean difference {found.mean:+.2f} points "
        f"({CONFIDENCE:.0%} interval {found.low:+.2f} to {found.high:+.2f}), margin {found.margin:g}{hint}"
    )


def table(seeds: Sequence[Seed]) -> str:
    """Return a table with a line for each seed."""
    lines = [f"{'seed':>6}{'updates':>9}{'last loss, torch':>18}{'Paddle':>9}{'top-1, torch':>14}{'Paddle':>9}"
             f"{'difference':>12}"]  # fmt: skip
    for seed in seeds:
        tail = max(1, len(seed.torch.losses) // 20)
        ends = [float(np.mean(run.losses[-tail:])) for run in (seed.torch, seed.paddle)]
        counts, apart = f"{seed.seed:>6}{len(seed.paddle.losses):>9}", seed.paddle.top1 - seed.torch.top1
        lines.append(
            f"{counts}{ends[0]:>18.4f}{ends[1]:>9.4f}{seed.torch.top1:>14.2f}{seed.paddle.top1:>9.2f}{apart:>+12.2f}"
        )
    again = seeds[0].again
    if again is not None:
        lines.append(f"torch again on seed {seeds[0].seed}, with each batch in reverse order: top-1 {again.top1:.2f}")
    return "\n".join(lines)
