"""Run torch with the constants that Paddle's kernels keep in float32, also in float64 computations. torch only.

A port cannot set these constants: the ratio by which an image is resized, the 1/49 of an average pool's gradient, the
alpha of ELU. In float64 they separate a correct port from its reference by 1e-9 to 1e-6. Within ``constants_of_paddle``
torch's functions use the same constants, forward and backward, so that only rounding separates the two.

Measured with paddlepaddle 3.3.1 on CPU; ``tests/test_constants.py`` compares every entry with Paddle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch._C._nn
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from alignment.engine.sides.torch.kernels import (
    ADAPTIVE,
    Entry,
    avg_pool,
    cross_entropy,
    default_epsilon,
    exact_hardsigmoid,
    hardsigmoid,
    interpolate,
    local_response_norm,
    mean_of_each,
    norm,
    normalize,
    rounded,
    selu,
    smooth_l1_loss,
)


@dataclass
class Constant:
    """A function whose constants Paddle keeps in float32: its name, the largest deviation, and the place of the call.

    ``size`` is relative, or absolute for the weights that mix pixels, which add up to 1.
    """

    name: str
    size: float = 0.0
    calls: int = 0
    places: list[str] = field(default_factory=list)


class constants_of_paddle(TorchFunctionMode):
    """Context in which torch's float64 functions use Paddle's constants; other dtypes are unaffected.

    ``used`` holds, by name, the functions whose constants differ from torch's; ``where`` returns the place of a call.
    With ``apply=False`` they are recorded and not changed; with ``places`` only the calls there are changed: a port may
    use Paddle's pool in one place and a mean, which is exact, in another. With ``alternatives`` functions that a port
    may write differently are computed that way: a mean as an average pool, a hard sigmoid as a division by 6. ``only``:
    of these names.

    >>> with constants_of_paddle() as constants:
    ...     _ = F.interpolate(torch.zeros(1, 1, 7, 7, dtype=torch.float64), (13, 14), mode="bilinear")
    >>> [*constants.used]
    ['interpolate']
    """

    def __init__(
        self, where: Callable[[], str] = lambda: "", *, apply: bool = True, places: Collection[str] | None = None,
        alternatives: bool = False, only: Collection[str] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.used: dict[str, Constant] = {}
        self.where = where
        self.apply = apply
        self.places = places
        self.only = only
        self.tables = (ENTRIES, ALTERNATIVES) if alternatives else (ENTRIES,)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        entries = [table[func] for table in self.tables if func in table]
        chosen = partial(func, *args, **kwargs)
        for name, deviating in entries if _in_float64(args, kwargs) else ():
            size, compute = deviating(func, *args, **kwargs)
            if size:
                place = self.where()
                self._note(name, size, place)
                chosen = compute if self._takes(name, place) else chosen
        return chosen()

    def _takes(self, name: str, place: str) -> bool:
        named = self.only is None or name in self.only
        return self.apply and named and (self.places is None or place in self.places)

    def _note(self, name: str, size: float, place: str) -> None:
        constant = self.used.setdefault(name, Constant(name))
        constant.size = max(constant.size, size)
        constant.calls += 1
        if place and place not in constant.places:
            constant.places.append(place)


def _in_float64(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    given = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    return (tensor := next(given, None)) is not None and tensor.dtype == torch.float64


# --- the table ------------------------------------------------------------------------------------------------------

_EXPONENT = rounded(exponent=1)
_FACTORS = rounded(alpha=10, beta=10)  # by name only

ENTRIES: dict[Callable[..., Any], tuple[str, Entry]] = {
    F.interpolate: ("interpolate", interpolate),
    F.avg_pool1d: ("avg_pool1d", avg_pool(1)),
    F.avg_pool2d: ("avg_pool2d", avg_pool(2)),
    F.avg_pool3d: ("avg_pool3d", avg_pool(3)),
    F.adaptive_avg_pool1d: ("adaptive_avg_pool1d", ADAPTIVE[1]),
    F.adaptive_avg_pool2d: ("adaptive_avg_pool2d", ADAPTIVE[2]),
    F.adaptive_avg_pool3d: ("adaptive_avg_pool3d", ADAPTIVE[3]),
    torch._C._nn.adaptive_avg_pool2d: ("adaptive_avg_pool2d", ADAPTIVE[2]),
    torch._C._nn.adaptive_avg_pool3d: ("adaptive_avg_pool3d", ADAPTIVE[3]),
    F.local_response_norm: ("local_response_norm", local_response_norm),
    F.elu: ("elu", rounded(alpha=1)),
    F.celu: ("celu", rounded(alpha=1)),
    F.selu: ("selu", selu),
    F.hardsigmoid: ("hardsigmoid", hardsigmoid),
    F.hardtanh: ("hardtanh", rounded(min_val=1, max_val=2)),
    F.softshrink: ("softshrink", rounded(lambd=1)),
    F.threshold: ("threshold", rounded(threshold=1, value=2)),
    torch.celu: ("celu", rounded(alpha=1)),
    torch.selu: ("selu", selu),
    torch.threshold: ("threshold", rounded(threshold=1, value=2)),
    torch.pow: ("pow", _EXPONENT),
    torch.Tensor.pow: ("pow", _EXPONENT),
    torch.Tensor.__pow__: ("pow", _EXPONENT),
    torch.Tensor.pow_: ("pow", _EXPONENT),
    torch.Tensor.__ipow__: ("pow", _EXPONENT),
    torch.addmm: ("addmm", _FACTORS),
    torch.Tensor.addmm: ("addmm", _FACTORS),
    torch.baddbmm: ("baddbmm", _FACTORS),
    torch.Tensor.baddbmm: ("baddbmm", _FACTORS),
    F.batch_norm: ("batch_norm", default_epsilon(7)),
    F.instance_norm: ("instance_norm", default_epsilon(7)),
    F.layer_norm: ("layer_norm", default_epsilon(4)),
    torch.batch_norm: ("batch_norm", default_epsilon(7)),
    torch.instance_norm: ("instance_norm", default_epsilon(7)),
    torch.layer_norm: ("layer_norm", default_epsilon(4)),
    torch.norm: ("norm", norm),
    torch.Tensor.norm: ("norm", norm),
    torch.linalg.vector_norm: ("norm", norm),
    F.normalize: ("normalize", normalize),
    F.huber_loss: ("huber_loss", rounded(delta=3)),
    F.smooth_l1_loss: ("smooth_l1_loss", smooth_l1_loss),
    F.cross_entropy: ("cross_entropy with label_smoothing", cross_entropy),
}

BACKWARD_ALONE = frozenset(f"{kind}_pool{dims}d" for kind in ("avg", "adaptive_avg") for dims in (1, 2, 3))
"""Functions whose constants change only gradients, no outputs."""

OWN = frozenset(name for name, _ in ENTRIES.values())
"""Functions with Paddle's own constants, without the alternatives."""

ALTERNATIVES: dict[Callable[..., Any], tuple[str, Entry]] = {
    torch.mean: ("mean, an average pool in the port", mean_of_each),
    torch.Tensor.mean: ("mean, an average pool in the port", mean_of_each),
    F.hardsigmoid: ("hardsigmoid, a division in the port", exact_hardsigmoid),
}
