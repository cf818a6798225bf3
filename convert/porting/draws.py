"""Make the reference and its port draw the same random numbers in every run of a proof.

Dropout functions called in a forward method do nothing, like dropout layers in ``align``. This module uses both
frameworks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from convert.translate.replacing import replaced

DROPOUTS = {
    "torch": ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    "paddle": ("dropout", "alpha_dropout", "feature_alpha_dropout"),
}
"""Functions of ``nn.functional`` that draw at random."""
NUMBERS = {"rand": "random_sample", "randn": "standard_normal"}
"""Functions of both frameworks that return random numbers, and their counterparts in ``numpy.random.RandomState``."""


class Draws:
    """Random numbers that depend on their shape and on how many of that shape the current run has drawn before."""

    def __init__(self) -> None:
        self.drawn: Counter[tuple[Any, ...]] = Counter()

    def begin(self, *ignored: Any) -> None:
        """Reset the counts at the start of a run (a forward pre-hook)."""
        self.drawn.clear()

    def numbers(self, kind: str, shape: Sequence[Any]) -> np.ndarray:
        """Return the next numbers of ``shape``; ``kind`` is a method of ``RandomState``."""
        key = (kind, *(int(side) for side in shape))
        self.drawn[key] += 1
        generator = np.random.RandomState(crc32(repr((self.drawn[key], key)).encode()))
        return np.asarray(getattr(generator, kind)(key[1:]))

    def torch(self, kind: str, *sides: Any, size: Any = None, dtype: Any = None, **options: Any) -> Any:
        """Like ``torch.rand``."""
        import torch

        shape = size or (sides[0] if len(sides) == 1 and not isinstance(sides[0], int) else sides)
        return torch.from_numpy(self.numbers(kind, shape)).to(dtype or torch.get_default_dtype())

    def torch_like(self, kind: str, x: Any, dtype: Any = None, **options: Any) -> Any:
        """Like ``torch.rand_like``."""
        return self.torch(kind, x.shape, dtype=dtype or x.dtype)

    def decided(self, x: Any, p: Any = None, **options: Any) -> Any:
        """Like ``torch.bernoulli``: 1 where a uniform number is below ``p``, or below ``x`` if ``p`` is not given."""
        return (self.torch_like("random_sample", x) < (x if p is None else p)).to(x.dtype)

    def exponential(self, x: Any, lambd: float = 1.0, **options: Any) -> Any:
        """Like ``Tensor.exponential_``."""
        return x.copy_(-(1 - self.torch_like("random_sample", x)).log() / lambd)

    def paddle(self, kind: str, shape: Sequence[Any], dtype: Any = None) -> Any:
        """Like ``paddle.rand``."""
        import paddle

        return paddle.to_tensor(self.numbers(kind, shape)).astype(dtype or paddle.get_default_dtype())


@contextmanager
def drawn_alike(reference: Any, port: Any) -> Iterator[None]:
    """Context manager in which ``reference`` and ``port`` draw the same random numbers in each run."""
    import paddle
    import torch

    draws = Draws()
    attention = torch.nn.functional.scaled_dot_product_attention

    def attention_without(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
                          *args: Any, **kwargs: Any) -> Any:  # fmt: skip
        return attention(query, key, value, attn_mask, 0.0, *args, **kwargs)

    holders = {"torch": torch.nn.functional, "paddle": paddle.nn.functional}
    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (torch.nn.functional, "scaled_dot_product_attention", attention_without),
        *((holders[side], name, _same) for side in holders for name in DROPOUTS[side]),
        (torch, "bernoulli", draws.decided),
        (torch.Tensor, "bernoulli", lambda x, p=None, **given: draws.decided(x, p)),
        (torch.Tensor, "bernoulli_", lambda x, p=0.5, **given: x.copy_(draws.decided(x, p))),
        (torch.Tensor, "exponential_", lambda x, lambd=1.0, **given: draws.exponential(x, lambd)),
    ]
    for name, kind in NUMBERS.items():
        changes += [(torch, name, partial(draws.torch, kind)), (torch, f"{name}_like", partial(draws.torch_like, kind)),
                    (paddle, name, partial(draws.paddle, kind))]  # fmt: skip
    with ExitStack() as stack:
        for model in (reference, port):
            stack.callback(model.register_forward_pre_hook(draws.begin).remove)
        for change in changes:
            stack.enter_context(replaced(*change))
        yield


def _same(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x
