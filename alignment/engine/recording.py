"""Record one side of a comparison on a machine that has one framework only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from alignment.engine.judging.noise import measure_leaks, run_in_both
from alignment.engine.records.files import Measured, save_tape
from alignment.engine.records.store import MEMORY, Budget, Store
from alignment.engine.records.tape import Tape


def record_torch(
    module: Any, inputs: Any, folder: str | os.PathLike[str], *, mode: str = "eval", backward: bool = True,
    seed: int = 0, max_memory: int = MEMORY, facts: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run a torch module in float64, and in float32 for the noise floor, and write the record into ``folder``.

    The arguments are those of ``alignment.align``; ``facts`` describe the run. The module is returned as it came.
    """
    import torch

    from alignment.engine.sides.torch import side
    from alignment.engine.sides.torch.constants import constants_of_paddle

    start = partial(side.in_random_directions, seed=seed) if backward else None
    with side.borrow(module, mode) as half:

        def run(dtype: str, store: Store, nudge: int = 0) -> Tape:
            with side.in_type(module, dtype, nudge):
                return side.capture(module, inputs, store, start)

        with constants_of_paddle(apply=False, alternatives=True) as constants:
            tape, noise = run_in_both(run, Budget(max_memory))

        def leaking(store: Store, name: str) -> Tape:
            with constants_of_paddle(alternatives=True, only={name}):
                return run("float64", store)

        ways = [partial(leaking, name=name) for name in constants.used] if backward else []
        leaks = measure_leaks(ways, tape, Budget(max_memory))
    errors, leaks = ({index: noise.error for index, noise in found.items()} for found in (noise, leaks))
    facts = {**(facts or {}), "torch": torch.__version__, "mode": mode, **half.notes}
    save_tape(tape, folder, facts, Measured(errors, leaks))


def record_paddle(
    layer: Any, inputs: Any, folder: str | os.PathLike[str], *, mode: str = "eval", backward: bool = True,
    seed: int = 0, max_memory: int = MEMORY, facts: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run a Paddle layer in float64 and write the record into ``folder``; arguments as in ``record_torch``."""
    import paddle

    from alignment.engine.sides.paddle import side

    start = partial(side.in_random_directions, seed=seed) if backward else None
    with side.borrow(layer, mode) as half, side.in_type(layer, "float64"):
        tape = side.capture(layer, inputs, Store(Budget(max_memory)), start)
        for name, ref in tape.param_grads.items():
            if isinstance(half.layers.get(name.rpartition(".")[0]), paddle.nn.Linear) and name.endswith("weight"):
                tape.param_grads[name] = tape.store.put(tape.get(ref).T)  # as torch lays it out
    save_tape(tape, folder, {**(facts or {}), "Paddle": paddle.__version__, "mode": mode, **half.notes})
