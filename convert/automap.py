"""The key map between any torch module and any Paddle layer, derived from both. No framework is imported.

    torch_layers, paddle_layers = read_layers(torch_model), read_layers(paddle_model)
    key_map = derive(torch_layers, paddle_layers)  # or in the order of calls: ordered(layers, call_order(model, run))
    path.write_text(to_text(key_map))              # to read, to edit, and back: from_text(path.read_text())
    arrays = apply(key_map, {name: value.numpy() for name, value in torch_model.state_dict().items()})

A line of the table is ``torch name -> Paddle name (reshape 10x512, transpose)``; ``-> dropped: reason`` for what Paddle
does not need; ``?`` on one side for what found no twin. ``pairing`` finds the twins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.key_map import DROPPED, RENAMED
from convert.matching.pairing import AmbiguousMatch, Layer, Shape, pair_layers

__all__ = ["AmbiguousMatch", "Entry", "KeyMapError", "Layer", "apply", "call_order", "derive", "from_text", "ordered",
           "read_layers", "to_text"]  # fmt: skip

UNKNOWN = "?"

# what Paddle calls a layer's tensor -> torch; InstanceNorm's scale and PReLU's weight beside BatchNorm's buffers
ROLES = {paddle: torch for torch, paddle in RENAMED.items()} | {"scale": "weight", "_weight": "weight"}

# layers of which one can stand for the other; the weight then has another shape and the same elements
AFFINE = {"conv", "linear"}


class KeyMapError(ValueError):
    """A key map that does not account for all tensors; ``faults`` holds one line for each."""

    def __init__(self, message: str, faults: Sequence[str]):
        super().__init__("\n  ".join([message, *faults]))
        self.faults = [*faults]


@dataclass(frozen=True)
class Entry:
    """One line of a key map: the tensor ``torch`` becomes ``paddle``, first reshaped, then transposed.

    A side without counterpart is ``None``. ``dropped`` says why a tensor of torch's is not needed; without it, a line
    with one side only is unresolved.
    """

    torch: str | None
    paddle: str | None
    reshape: Shape = ()
    transpose: bool = False
    dropped: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the line says what happens to its tensor."""
        return bool(self.torch and (self.paddle or self.dropped))


def read_layers(model: Any) -> list[Layer]:
    """The layers of a torch module or a Paddle layer that have tensors of their own, in the order of definition.

    Shapes are the framework's own, tensors that are not saved are left out. ``kind`` is the framework's class that the
    layer is or derives from, without its number of dimensions: ``conv``, ``linear``, ``batchnorm``.
    """
    named = model.named_modules() if hasattr(model, "named_modules") else model.named_sublayers(include_self=True)
    layers = [Layer(path, _kind(layer), _own_shapes(layer)) for path, layer in named]
    return [layer for layer in layers if layer.shapes]


def _kind(layer: Any) -> str:
    for base in type(layer).__mro__:
        if base.__module__.startswith(("torch.nn.modules.", "paddle.nn.layer.")):
            return re.sub(r"[123]d$", "", base.__name__.lower())
    return type(layer).__name__.lower()


def _own_shapes(layer: Any) -> dict[str, Shape]:
    unsaved = getattr(layer, "_non_persistent_buffers_set", None)
    if unsaved is None:
        unsaved = getattr(layer, "_non_persistable_buffer_names_set", ())
    own = {**layer._parameters, **{name: value for name, value in layer._buffers.items() if name not in unsaved}}
    return {name: tuple(value.shape) for name, value in own.items() if value is not None}


def call_order(model: Any, run: Callable[[], object]) -> list[str]:
    """Paths of the layers of a torch module or a Paddle layer that ``run()`` calls, in the order of first calls."""
    named = model.named_modules() if hasattr(model, "named_modules") else model.named_sublayers(include_self=True)
    called: dict[str, None] = {}

    def noting(path: str) -> Callable[..., None]:
        return lambda layer, args: called.setdefault(path)

    handles = [layer.register_forward_pre_hook(noting(path)) for path, layer in named]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [*called]


def ordered(layers: Sequence[Layer], order: Sequence[str]) -> list[Layer]:
    """``layers`` in the ``order`` of calls; those never called come last, as they were."""
    position = {path: number for number, path in enumerate(order)}
    return sorted(layers, key=lambda layer: position.get(layer.path, len(position)))


def derive(torch: Sequence[Layer], paddle: Sequence[Layer], given: Mapping[str, str] | None = None) -> list[Entry]:
    """The key map, in the order of ``torch``; Paddle's tensors without twin come last.

    Shapes as each framework has them. ``given`` are pairs of layer paths that are taken as they are.

    Raises ``AmbiguousMatch`` where a layer has several possible twins; its message lists them.
    """
    dropped = {layer.path: [role for role in layer.shapes if role in DROPPED] for layer in torch}
    ours = {layer.path: _without(layer, dropped[layer.path]) for layer in torch}
    theirs, roles = {}, {}
    for layer in paddle:
        theirs[layer.path], roles[layer.path] = _as_torch_has_it(layer), {ROLES.get(r, r): r for r in layer.shapes}
    twins = pair_layers([layer for layer in ours.values() if layer.shapes], [*theirs.values()], given)
    entries: list[Entry] = []
    for layer in torch:
        twin = twins.get(layer.path)
        for role in layer.shapes:
            name = _join(layer.path, role)
            if role in DROPPED:
                entries.append(Entry(name, None, dropped=DROPPED[role]))
            else:
                entries.append(_entry(name, ours[layer.path], role, theirs.get(twin), roles.get(twin, {})))
    used = {entry.paddle for entry in entries}
    names = [_join(layer.path, role) for layer in paddle for role in layer.shapes]
    return entries + [Entry(None, name) for name in names if name not in used]


def _entry(name: str, layer: Layer, role: str, twin: Layer | None, roles: Mapping[str, str]) -> Entry:
    if twin is None or role not in twin.shapes:
        return Entry(name, None)
    mine, yours = layer.shapes[role], twin.shapes[role]
    if mine != yours and not ({layer.kind, twin.kind} == AFFINE and np.prod(mine) == np.prod(yours)):
        return Entry(name, None)
    transpose = twin.kind == "linear" and role == "weight"
    return Entry(name, _join(twin.path, roles[role]), yours if mine != yours else (), transpose)


def _without(layer: Layer, roles: Sequence[str]) -> Layer:
    return Layer(layer.path, layer.kind, {role: shape for role, shape in layer.shapes.items() if role not in roles})


def _as_torch_has_it(layer: Layer) -> Layer:
    shapes = {ROLES.get(role, role): shape for role, shape in layer.shapes.items()}
    if layer.kind == "linear":
        shapes["weight"] = shapes["weight"][::-1]
    return Layer(layer.path, layer.kind, shapes)


def _join(path: str, role: str) -> str:
    return f"{path}.{role}" if path else role


def apply(
    key_map: Sequence[Entry], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape] | None = None
) -> dict[str, np.ndarray]:
    """``{Paddle name: array}`` out of ``{torch name: array}``, in the order of the key map; arrays may be views.

    ``shapes``: what the Paddle model has, ``{name: shape}``, to hold the outcome against.

    Raises ``KeyMapError``, which lists every tensor that is unresolved, missing, unaccounted for, or does not fit.
    """
    faults = [*_unaccounted(key_map, arrays)]
    made: dict[str, np.ndarray] = {}
    for entry in key_map:
        if entry.resolved and entry.paddle and entry.torch in arrays:
            array = arrays[entry.torch]
            if entry.reshape and array.size != np.prod(entry.reshape):
                faults.append(f"{entry.torch}: {list(array.shape)} cannot be reshaped to {list(entry.reshape)}")
                continue
            array = array.reshape(entry.reshape) if entry.reshape else array
            made[entry.paddle] = array.T if entry.transpose else array
    faults += _misfits(made, shapes) if shapes is not None else []
    if faults:
        raise KeyMapError("the key map does not account for every tensor (nothing was made):", faults)
    return made


def _unaccounted(key_map: Sequence[Entry], arrays: Mapping[str, np.ndarray]) -> list[str]:
    listed = [entry.torch for entry in key_map if entry.torch]
    targets = [entry.paddle for entry in key_map if entry.paddle]
    faults = [f"{_line(entry)}: without a twin" for entry in key_map if not entry.resolved]
    faults += [f"{name}: in the key map, not among the tensors" for name in listed if name not in arrays]
    faults += [f"{name}: not in the key map" for name in arrays if name not in set(listed)]
    twice = {name for names in (listed, targets) for name in names if names.count(name) > 1}
    return faults + [f"{name}: more than once in the key map" for name in sorted(twice)]


def _misfits(made: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> list[str]:
    faults = [f"{name}: the model needs it, the key map does not make it" for name in shapes if name not in made]
    for name, array in made.items():
        if name not in shapes:
            faults.append(f"{name}: the model has no such tensor")
        elif array.shape != tuple(shapes[name]):
            faults.append(f"{name}: shape {list(array.shape)} instead of {list(shapes[name])}")
    return faults


def to_text(key_map: Sequence[Entry]) -> str:
    """The key map as a table to read and to edit, one line for each tensor."""
    return "".join(f"{_line(entry)}\n" for entry in key_map)


def _line(entry: Entry) -> str:
    if entry.dropped:
        return f"{entry.torch} -> dropped: {entry.dropped}"
    steps = [f"reshape {'x'.join(map(str, entry.reshape))}"] if entry.reshape else []
    steps += ["transpose"] if entry.transpose else []
    return f"{entry.torch or UNKNOWN} -> {entry.paddle or UNKNOWN}" + (f" ({', '.join(steps)})" if steps else "")


_LINE = re.compile(r"(?P<torch>\S+) -> (?:dropped: (?P<dropped>.+)|(?P<paddle>\S+)(?: \((?P<steps>[^)]*)\))?)")
_STEP = re.compile(r"reshape (?P<shape>\d+(?:x\d+)*)|transpose")


def from_text(text: str) -> list[Entry]:
    """The key map of a table. Empty lines and lines that begin with ``#`` are comments.

    Raises ``KeyMapError``, which lists every line that cannot be read, with its number.
    """
    entries, faults = [], []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        try:
            entries.append(_parsed(line))
        except ValueError as error:
            faults.append(f"line {number}: {error}: {line}")
    if faults:
        raise KeyMapError("the key map cannot be read:", faults)
    return entries


def _parsed(line: str) -> Entry:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("not 'torch name -> Paddle name (reshape AxB, transpose)'")
    steps = [_STEP.fullmatch(step.strip()) for step in found["steps"].split(",")] if found["steps"] else []
    if None in steps:
        raise ValueError("a step that is neither 'reshape AxB' nor 'transpose'")
    reshape = next((tuple(map(int, step["shape"].split("x"))) for step in steps if step["shape"]), ())
    torch, paddle = (None if name in (UNKNOWN, None) else name for name in (found["torch"], found["paddle"]))
    return Entry(torch, paddle, reshape, any(step[0] == "transpose" for step in steps), found["dropped"] or "")
