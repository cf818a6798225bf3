"""Find out whether different settings of two layers change what they compute. No framework.

Where the spelling does not decide, both layers run alone, with the same tensors, on inputs of the recorded shape and of
neighbouring ones, in evaluation and in training. A setting that gives the same results on all of them is a remark. A
setting that changes any of them is a fault, also where the recorded run does not show it: a padding of ``[1, 0, 1, 0]``
on an even image, a momentum in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import FORWARD_LIMIT
from alignment.engine.sides.probed import CannotProbe, Probe, Probed
from alignment.engine.sides.settings import Settings, Shape, disagreements

MODES = ("eval", "train")
TRAINED = 3
"""The number of sizes also tried in training: the recorded one, another batch, one more in space."""
MODE_FIELDS = frozenset({"training", "use_batch"})
"""Fields that a layer's mode decides; a probe sets the mode itself."""

# Both layers compute in float64 with the same constants. Inputs of a wide spread leave up to 1e-13 in gradients
# (measured over the layers of the vocabulary); a setting changes more than float32's roundoff, 6e-8.
GRADIENT_LIMIT = 2.0**-36
STATE_LIMIT = 2.0**-23
"""The limit of running statistics: Paddle keeps the momentum in float32."""

LARGEST_SPACE = 32
"""Larger sizes are probed at a smaller one with the same remainder modulo 16."""
BATCH, OTHER_BATCH = 2, 3

SPREAD = 1.2
"""Inputs are normal numbers times e to this times a normal number.

Some of them exceed every threshold of an activation (6 of ReLU6, 20 of Softplus).
"""
REACH = 30.0
"""The largest magnitude of an input: Paddle's softmax clips logits of more than 64 apart."""


@dataclass(frozen=True)
class Given:
    """An input of a layer: its ``shape``, and the ``largest`` value if it holds integers."""

    shape: Shape
    largest: int | None = None


@dataclass(frozen=True)
class SettingDifference:
    """One field that the two layers set differently, each in its own spelling.

    ``fault`` tells whether that changes what they compute; ``words`` describe it in one sentence.
    """

    field: str
    reference: Any
    port: Any
    fault: bool
    words: str


def setting_differences(
    reference: Settings,
    port: Settings,
    inputs: Sequence[Given],
    tensors: Mapping[str, Shape],
    probe_reference: Probe | None = None,
    probe_port: Probe | None = None,
) -> list[SettingDifference]:
    """Return every setting of ``port`` that differs from ``reference``'s, and whether it is a fault.

    ``inputs`` are those of the recorded run, none if the layer was never called. ``tensors`` are the shapes of the
    reference's own parameters and buffers by role, with which both layers run. Without a probe every difference is a
    fault.
    """
    found = disagreements(reference, port, inputs[0].shape if inputs else None)
    if not found:
        return []
    probed = None
    tells = inputs and found.keys() - MODE_FIELDS and not (_is_random(reference) or _is_random(port))
    if tells and probe_reference and probe_port:
        probed = seen(inputs, tensors, probe_reference, probe_port)
    return [_difference(name, one, other, probed) for name, (one, other) in found.items()]


@dataclass(frozen=True)
class Seen:
    """The result of probing: where the layers differ, or, if they do not, the number of sizes tried."""

    differ: str
    sizes: int


def _difference(name: str, one: Any, other: Any, probed: Seen | None) -> SettingDifference:
    words = f"{name} {shown(other)} instead of {shown(one)}"
    if probed is None or name in MODE_FIELDS or probed.differ:
        return SettingDifference(name, one, other, True, words)
    tried = f"both layers compute the same on inputs of {probed.sizes} sizes, in evaluation and in training"
    return SettingDifference(name, one, other, False, f"{words}: {tried}")


def shown(value: Any) -> str:
    """Return a value with the digits of float32, in which Paddle keeps settings."""
    return str(np.float32(value)) if isinstance(value, float) else str(value)


def _is_random(settings: Settings) -> bool:
    """Return whether the layer draws random numbers in training, which cannot be equal in two frameworks."""
    return bool(settings.fields.get("rate")) or settings.fields.get("kind") == "rrelu"


def seen(
    inputs: Sequence[Given], tensors: Mapping[str, Shape], probe_reference: Probe, probe_port: Probe
) -> Seen | None:
    """Probe both layers; ``None`` if they accept no input in common."""
    rng = np.random.RandomState(0)
    values = {role: _tensor(role, shape, rng) for role, shape in tensors.items()}
    sizes = 0
    for number, shapes in enumerate(neighbours([given.shape for given in inputs])):
        arrays = [_drawn(shape, given.largest, rng) for shape, given in zip(shapes, inputs)]
        tried = False
        for mode in MODES[: 2 if number < TRAINED else 1]:
            one = _tried(probe_reference, arrays, mode, values)
            other = _tried(probe_port, arrays, mode, values)
            if isinstance(one, CannotProbe) or isinstance(other, CannotProbe):
                return None
            if isinstance(one, Exception):
                continue  # inputs that the reference refuses are not compared
            at = f"inputs of shape {', '.join(str([*shape]) for shape in shapes)} in {mode} mode"
            differ = f"the port raises {other}" if isinstance(other, Exception) else _differ(one, other)
            if differ:
                return Seen(f"on {at}: {differ}", sizes)
            tried = True
        sizes += tried
    return Seen("", sizes) if sizes else None


def _tried(
    probe: Probe, arrays: Sequence[np.ndarray], mode: str, values: Mapping[str, np.ndarray]
) -> Probed | Exception:
    """Run the probe with gradients, or without if the layer has none (as Paddle's LSTM in evaluation)."""
    failed: Exception | None = None
    for backward in (True, False):
        try:
            return probe(arrays, mode, values, backward)
        except CannotProbe as error:
            return error
        # a layer may fail in any way on a size that it does not support
        except Exception as error:  # noqa: BLE001
            failed = failed or error
    return failed


def _differ(one: Probed, other: Probed) -> str:
    """Describe what differs; empty if nothing does."""
    if len(one.outputs) != len(other.outputs):
        return f"{len(other.outputs)} outputs instead of {len(one.outputs)}"
    rows = [("output", a, b, FORWARD_LIMIT) for a, b in zip(one.outputs, other.outputs)]
    if one.input_grads and other.input_grads:
        rows += [("gradient of the input", a, b, GRADIENT_LIMIT) for a, b in zip(one.input_grads, other.input_grads)]
    for names, a, b, limit in (
        ("gradient of {}", one.param_grads, other.param_grads, GRADIENT_LIMIT),
        ("{} after the call", one.state, other.state, STATE_LIMIT),
    ):
        rows += [(names.format(role), a[role], b[role], limit) for role in a.keys() & b.keys()]
    for name, expected, actual, limit in rows:
        found = compare(expected, actual)
        if found.mismatch or not found.relative <= limit:
            return f"{name}: {found.mismatch or f'relative error {found.relative:.1e}'}"
    return ""


# --- what they are tried with ---------------------------------------------------------------------------------------


def neighbours(shapes: Sequence[Shape]) -> Iterator[list[Shape]]:
    """Yield the shapes of all inputs: as recorded (small batch), with another batch, and one or two larger and smaller.

    First all axes of space change together, then the first and the last alone.
    """
    recorded = [_of_batch(shape, min(shape[0], BATCH)) if shape else shape for shape in shapes]
    yield recorded
    small = [(*shape[:2], *map(_smaller, shape[2:])) for shape in recorded]
    if any(shape for shape in shapes):
        yield [_of_batch(shape, OTHER_BATCH) if shape else shape for shape in small]
    if not any(len(shape) > 2 for shape in shapes):
        return
    for step in (1, -1, 2, -2):
        yield [(*shape[:2], *(max(size + step, 1) for size in shape[2:])) for shape in small]
    yield [(*shape[:2], *(size + 1 for size in shape[2:3]), *shape[3:]) for shape in small]
    yield [(*shape[:2], *shape[2:-1], *(size + 1 for size in shape[2:][-1:])) for shape in small]


def _of_batch(shape: Shape, batch: int) -> Shape:
    return (batch, *shape[1:])


def _smaller(size: int) -> int:
    return size if size <= LARGEST_SPACE else 16 + size % 16


def _drawn(shape: Shape, largest: int | None, rng: np.random.RandomState) -> np.ndarray:
    if largest is not None:
        return rng.randint(0, largest + 1, shape)
    values = rng.standard_normal(shape) * np.exp(SPREAD * rng.standard_normal(shape))
    return np.clip(values, -REACH, REACH)


def _tensor(role: str, shape: Shape, rng: np.random.RandomState) -> np.ndarray:
    """Draw a parameter or buffer like a trained one; a variance is positive."""
    return rng.uniform(0.5, 2.0, shape) if role.endswith("var") else rng.standard_normal(shape)
