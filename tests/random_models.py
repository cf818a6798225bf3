"""Random small architectures, built in torch and in Paddle with other names, another nesting and another order.

A port computes the same as its reference, unless it is given a fault. ``Pair.truth`` says which layer is which.
"""

from dataclasses import dataclass

import numpy as np
import paddle
import pytest
from paddle import nn as pnn

torch = pytest.importorskip("torch")
from torch import nn as tnn  # noqa: E402

WIDTH = 6


@dataclass
class Pair:
    """``truth``: path of a layer, or of a parameter, in torch -> in Paddle."""

    reference: torch.nn.Module
    port: paddle.nn.Layer
    truth: dict


class Torch(tnn.Module):
    linear, norm, container = tnn.Linear, tnn.LayerNorm, tnn.Module
    softmax = staticmethod(lambda x: torch.softmax(x, -1))
    act = staticmethod(torch.tanh)
    other_act = staticmethod(torch.relu)

    def __init__(self, blocks, paths, defined):
        super().__init__()
        _build(self, blocks, paths, defined, lambda owner, name, value: setattr(owner, name, value))

    def forward(self, x):
        return _run(self, x)

    @staticmethod
    def parameter():
        return tnn.Parameter(torch.rand(WIDTH) + 0.5)


class Paddle(pnn.Layer):
    linear, norm, container = pnn.Linear, pnn.LayerNorm, pnn.Layer
    softmax = staticmethod(lambda x: pnn.functional.softmax(x, -1))
    act = staticmethod(paddle.tanh)
    other_act = staticmethod(pnn.functional.relu)

    def __init__(self, blocks, paths, defined):
        super().__init__()
        _build(self, blocks, paths, defined, lambda owner, name, value: setattr(owner, name, value))

    def forward(self, x):
        return _run(self, x)

    @staticmethod
    def parameter():
        return paddle.create_parameter([WIDTH], "float32")


@dataclass
class Block:
    """``kind``, the layers by role, the roles in the order of calls, the numbers with which branches are summed."""

    kind: str
    layers: dict  # role -> "linear", "norm" or "parameter"
    order: list
    shares: list
    fault: str = ""


def _build(model, blocks, paths, defined, put):
    model.blocks_, model.paths_ = blocks, paths
    for key in defined:
        *around, name = paths[key].split(".")
        owner = model
        for part in around:
            if getattr(owner, part, None) is None:
                put(owner, part, model.container())
            owner = getattr(owner, part)
        kind = blocks[key[0]].layers[key[1]]
        made = (
            model.parameter()
            if kind == "parameter"
            else model.norm(WIDTH)
            if kind == "norm"
            else model.linear(WIDTH, WIDTH)
        )
        put(owner, name, made)


def _get(model, key):
    found = model
    for part in model.paths_[key].split("."):
        found = getattr(found, part)
    return found


def _run(model, x):
    for number, block in enumerate(model.blocks_):
        x = x + _RUNS[block.kind](model, block, lambda role: _get(model, (number, role)), x)  # noqa: B023
    return x


def _mlp(model, block, get, x):
    act = model.other_act if block.fault == "act" else model.act
    return get("fc2")(act(get("fc1")(get("norm")(x))))


def _attention(model, block, get, x):
    x = get("norm")(x)
    made = {role: get(role)(x) for role in block.order}
    turned = made["k"].transpose(-1, -2) if isinstance(x, torch.Tensor) else made["k"].transpose([0, 2, 1])
    return get("proj")(model.softmax(made["q"] @ turned) @ made["v"])


def _branches(model, block, get, x):
    made = {}
    for role in block.order:
        act = model.other_act if block.fault == "act" else model.act
        made[role] = get(f"{role}_second")(act(get(f"{role}_first")(x)))
    return get("out")(sum(share * made[role] for share, role in zip(block.shares, sorted(made))))


def _scaled(model, block, get, x):
    return get("gamma_1") * get("fc1")(x) + get("gamma_2") * get("fc2")(model.act(x))


_RUNS = {"mlp": _mlp, "attention": _attention, "branches": _branches, "scaled": _scaled}


def _block(rng):
    kind = rng.choice([*_RUNS])
    if kind == "mlp":
        return Block(kind, {"norm": "norm", "fc1": "linear", "fc2": "linear"}, [], [])
    if kind == "attention":
        return Block(kind, {"norm": "norm", **dict.fromkeys(("q", "k", "v", "proj"), "linear")}, [*"qkv"], [])
    if kind == "branches":
        roles = ["left", "middle", "right"][: rng.randint(2, 4)]
        layers = {f"{role}_{part}": "linear" for role in roles for part in ("first", "second")}
        return Block(kind, {**layers, "out": "linear"}, roles, [1.0, -2.0, 0.5])
    layers = {"fc1": "linear", "fc2": "linear", "gamma_1": "parameter", "gamma_2": "parameter"}
    return Block(kind, layers, [], [])


def random_pair(seed, fault=False, neutral=True):
    """A reference and its port; ``neutral`` names of the port's say nothing of what a layer is."""
    rng = np.random.RandomState(seed)
    blocks = [_block(rng) for _ in range(rng.randint(2, 5))]
    keys = [(number, role) for number, block in enumerate(blocks) for role in block.layers]
    paths = {(number, role): f"stages.{number // 2}.{number % 2}.{role}" for number, role in keys}
    twins = [
        Block(b.kind, b.layers, [*rng.permutation(b.order)] if b.order else [], b.shares, "act" if fault else "")
        for b in blocks
    ]
    theirs = {key: _other_name(rng, key, number, neutral) for number, key in enumerate(keys)}
    defined = [keys[i] for i in rng.permutation(len(keys))]
    torch.manual_seed(seed)
    return Pair(Torch(blocks, paths, keys), Paddle(twins, theirs, defined), {paths[key]: theirs[key] for key in keys})


def _other_name(rng, key, number, neutral):
    name = f"part{rng.permutation(1000)[0]}x{number}" if neutral else key[1]
    return f"blocks.{key[0]}.{name}" if rng.randint(2) and not neutral else f"b{key[0]}_{name}"
