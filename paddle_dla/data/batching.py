"""Make one batch: read, decode, transform, stack, mix. The same in a worker and in the main process."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from paddle_dla.data.batch import Batch
from paddle_dla.data.decoding import Decoder
from paddle_dla.data.errors import DataError, ImageError, WorkerError
from paddle_dla.data.plan import Plan
from paddle_dla.data.slots import MIXING, Arrays, Layout
from paddle_dla.data.source import Reader, Source


class SampleTransform(Protocol):
    """(H, W, 3) uint8 RGB of any size -> an image (an array or Pillow's) of the one size that a batch has."""

    def __call__(self, image: np.ndarray, rng: random.Random) -> np.ndarray | Image.Image: ...


class BatchTransform(Protocol):
    """A batch of transformed images -> the finished batch. It may change its input in place.

    If it has a parameter ``out``, it receives the array into which the images are to be written, which saves a copy.
    """

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int) -> Batch: ...


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to make batches; it is pickled into every worker. ``rising``: indices rise."""

    source: Source
    transform: SampleTransform
    batch_transform: BatchTransform | None
    plan: Plan
    layout: Layout
    seed: int
    epoch: int
    rank: int
    start: int
    rising: bool

    def numbers(self, worker: int) -> list[int]:
        """Return the numbers of the batches that a worker makes, in order."""
        return [number for number, by in self.plan.deliveries(self.start) if by == worker]

    def sample_rng(self, index: int, turn: int) -> random.Random:
        """Return the random generator of one sample, the same in any process (text is hashed, so that all differ)."""
        return random.Random(f"{self.seed} {self.epoch} {index} {turn}")

    def batch_rng(self, number: int) -> np.random.Generator:
        """Return the random generator of one batch of this rank."""
        return np.random.default_rng([self.seed, self.epoch, self.rank, number])


class BatchMaker:
    """Make the batches of a job, one at a time. ``note`` receives the next step: a sample's index, or a state."""

    def __init__(self, job: Job, note: Callable[[int], None] = lambda state: None):
        self._job = job
        self._note = note
        self._reader: Reader = job.source.reader(rising=job.rising)
        self._decoder = Decoder()
        self._stack: np.ndarray | None = None
        mix = job.batch_transform
        self._mix_takes_out = mix is not None and "out" in inspect.signature(mix).parameters

    def close(self) -> None:
        """Close the files of the source."""
        self._reader.close()

    def make(self, number: int, arrays: Arrays) -> tuple[int, list[tuple[str, str]]]:
        """Write batch ``number`` to ``arrays``. Returns its number of samples, and (name, reason) of those left out.

        Raises ``DataError`` for a broken source, and ``WorkerError`` (from the original exception) if a transform
        raises or returns something else than declared.
        """
        images, labels, indices = arrays
        given_labels = np.empty(len(indices), np.int64)
        count, skipped = 0, []
        for index, turn in self._job.plan.batch(number):
            self._note(index)
            try:
                image, given_labels[count] = self._sample(index, turn)
            except ImageError as error:
                skipped.append((self._job.source.name(index), str(error)))
                continue
            target = self._target(images, image, index)
            target[count] = image
            indices[count] = index
            count += 1
        if count:
            self._note(MIXING)
            self._finish(number, images[:count], labels[:count], given_labels[:count], indices[:count])
        return count, skipped

    def _sample(self, index: int, turn: int) -> tuple[np.ndarray, int]:
        sample = self._reader.sample(index)
        pixels = self._decoder.decode(sample.data)
        try:
            return np.asarray(self._job.transform(pixels, self._job.sample_rng(index, turn))), sample.label
        except DataError:
            raise
        except Exception as error:
            raise WorkerError(f"the transform failed at sample {sample.name!r}: {_described(error)}") from error

    def _target(self, images: np.ndarray, image: np.ndarray, index: int) -> np.ndarray:
        """Return the array for transformed images: the slot itself, or a stack of inputs for the batch transform."""
        if self._job.batch_transform is None:
            target = images
        else:
            if self._stack is None:
                self._stack = np.empty((len(images), *image.shape), image.dtype)
            target = self._stack
        if image.shape != target.shape[1:] or image.dtype != target.dtype:
            raise WorkerError(
                f"the transform made {image.dtype} of shape {image.shape} of sample {self._job.source.name(index)!r}; "
                f"expected is {target.dtype} of shape {target.shape[1:]}, the same for each image"
            )
        return target

    def _finish(
        self, number: int, images: np.ndarray, labels: np.ndarray, given_labels: np.ndarray, indices: np.ndarray
    ) -> None:
        """Apply the batch transform, if any, and write the result into ``images`` and ``labels``."""
        made_labels = given_labels
        if self._job.batch_transform is not None:
            assert self._stack is not None  # _target has created it for the first image
            given = Batch(self._stack[: len(images)], given_labels, indices.copy())
            batch = self._mixed(self._job.batch_transform, number, given, images)
            _place(batch.images, images, "images", "output_shape and output_dtype")
            made_labels = batch.labels
        _place(made_labels, labels, "labels", "soft_labels")

    def _mixed(self, mix: BatchTransform, number: int, batch: Batch, out: np.ndarray) -> Batch:
        options = {"out": out} if self._mix_takes_out else {}
        try:
            return mix(batch, self._job.batch_rng(number), self._job.epoch, **options)
        except DataError:
            raise
        except Exception as error:
            raise WorkerError(f"the batch transform failed at batch {number}: {_described(error)}") from error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _place(found: np.ndarray, target: np.ndarray, what: str, option: str) -> None:
    if found.shape != target.shape or found.dtype != target.dtype:
        raise WorkerError(
            f"the {what} of a batch are {found.dtype} of shape {found.shape}, and by {option} of the loader "
            f"{target.dtype} of shape {target.shape}"
        )
    if found.ctypes.data != target.ctypes.data:
        target[...] = found
