"""Read the layers of a model as plain values, from either framework without importing it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]

# classes of either framework that compute the same as another class
ALIASES = {"nondynamicallyquantizablelinear": "linear", "syncbatchnorm": "batchnorm", "simplernn": "rnn",
           "simplernncell": "rnncell"}  # fmt: skip

# names of tensors in torch.nn.utils.parametrizations -> their roles in the older weight_norm and spectral_norm, and in
# Paddle
PARAMETRIZED = {
    "WeightNorm": {"original0": "{}_g", "original1": "{}_v"},
    "SpectralNorm": {"original": "{}_orig", "0._u": "{}_u", "0._v": "{}_v"},
}


@dataclass(frozen=True)
class Layer:
    """A layer and its own tensors.

    ``kind`` is the type of the layer (``conv``, ``linear``, ``batchnorm``, ...). ``shapes`` are the shapes of its own
    tensors by role (``weight``, ``running_mean``), in the layout of its framework. ``names`` holds the full names that
    are not the path and the role. ``buffers`` are the roles of tensors without gradient. ``shared`` are the roles of
    tensors that another layer has too, with the full name there.
    """

    path: str
    kind: str
    shapes: Mapping[str, Shape]
    names: Mapping[str, str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    shared: Mapping[str, str] = field(default_factory=dict)

    def name(self, role: str) -> str:
        """Return the full name of the tensor with this role."""
        return self.names.get(role) or (f"{self.path}.{role}" if self.path else role)


def read_layers(model: Any) -> list[Layer]:
    """Read the layers of a torch module or a Paddle layer that have tensors of their own, in the order of definition.

    Tensors that are not saved are left out. ``kind`` is the framework's class that the layer is or derives from,
    without its number of dimensions. The tensors of ``torch.nn.utils.parametrizations`` belong to the layer whose
    weight they compute.
    """
    return [layer for layer in read_all_layers(model) if layer.shapes]


def read_all_layers(model: Any) -> list[Layer]:
    """Like ``read_layers``, including layers without tensors."""
    first: dict[int, str] = {}
    return [_read(path, layer, first) for path, layer in _named(model) if ".parametrizations." not in f".{path}."]


def tensors_of(model: Any) -> dict[str, Any]:
    """Return ``{full name: tensor}`` of all saved tensors; a tensor with several names is listed under each."""
    return {
        f"{path}.{inner}" if path else inner: value
        for path, layer in _named(model)
        if ".parametrizations." not in f".{path}."
        for _, inner, value, _ in [*_own(layer), *_parametrized(layer)]
    }


def _named(model: Any, path: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every layer under each of its paths: a layer that is registered twice has its tensors saved twice."""
    yield path, model
    inside = model._modules if hasattr(model, "_modules") else model._sub_layers
    for name, layer in inside.items():
        if layer is not None and id(layer) not in above:
            yield from _named(layer, f"{path}.{name}" if path else name, (*above, id(model)))


def _read(path: str, layer: Any, first: dict[int, str]) -> Layer:
    shapes, names, buffers, shared = {}, {}, set(), {}
    for role, inner, value, is_buffer in [*_own(layer), *_parametrized(layer)]:
        shapes[role] = tuple(value.shape)
        full = f"{path}.{inner}" if path else inner
        if inner != role:
            names[role] = full
        if is_buffer:
            buffers.add(role)
        if first.setdefault(id(value), full) != full:
            shared[role] = first[id(value)]
    return Layer(path, _kind(layer), shapes, names, frozenset(buffers), shared)


def _own(layer: Any) -> Iterator[tuple[str, str, Any, bool]]:
    """Yield ``(role, name within the layer, tensor, whether it is a buffer)`` of the layer's saved tensors."""
    unsaved = getattr(layer, "_non_persistent_buffers_set", None)
    if unsaved is None:
        unsaved = getattr(layer, "_non_persistable_buffer_names_set", ())
    for name, value in layer._parameters.items():
        if value is not None:
            # Paddle registers BatchNorm's statistics as parameters, but they have no gradient
            yield name, name, value, name in ("_mean", "_variance")
    for name, value in layer._buffers.items():
        if value is not None and name not in unsaved:
            yield name, name, value, True


def _parametrized(layer: Any) -> Iterator[tuple[str, str, Any, bool]]:
    for target, parametrizations in getattr(layer, "parametrizations", {}).items():
        names = next((PARAMETRIZED[kind] for kind in map(_class_name, parametrizations) if kind in PARAMETRIZED), {})
        tensors = [(n, p, False) for n, p in parametrizations.named_parameters()]
        tensors += [(n, b, True) for n, b in parametrizations.named_buffers()]
        for inner, value, is_buffer in tensors:
            full = f"parametrizations.{target}.{inner}"
            yield names.get(inner, full).format(target), full, value, is_buffer


def _class_name(layer: Any) -> str:
    return type(layer).__name__.lstrip("_")


def _kind(layer: Any) -> str:
    for base in type(layer).__mro__:
        if base.__module__.startswith(("torch.nn.modules.", "paddle.nn.layer.")):
            kind = re.sub(r"[123]d", "", base.__name__.lower())
            return ALIASES.get(kind, kind)
    return type(layer).__name__.lower()


def call_order(model: Any, run: Callable[[], object]) -> list[str]:
    """Return the paths of the layers of ``model`` that ``run()`` calls, in the order of first calls.

    ``model`` is a torch module or a Paddle layer.
    """
    called: dict[str, None] = {}
    layers: dict[int, tuple[str, Any]] = {}
    for path, layer in _named(model):
        layers.setdefault(id(layer), (path, layer))

    def noting(path: str) -> Callable[..., None]:
        return lambda layer, args: called.setdefault(path)

    handles = [layer.register_forward_pre_hook(noting(path)) for path, layer in layers.values()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [*called]


def ordered(layers: Sequence[Layer], order: Sequence[str]) -> list[Layer]:
    """Sort ``layers`` by the ``order`` of calls.

    Layers that are never called come last, in their original order. Exception: if a called layer calls none of the
    layers inside it but uses their weights itself (as an attention its output projection), they follow that layer.
    """
    position = {path: number for number, path in enumerate(order)}
    used = {outer for path in order for outer in _around(path)}

    def place(layer: Layer) -> float:
        if layer.path in position:
            return position[layer.path]
        owner = next((outer for outer in reversed(_around(layer.path)) if outer in position), None)
        return len(position) if owner is None or owner in used else position[owner] + 0.5

    return sorted(layers, key=place)


def _around(path: str) -> list[str]:
    """Return the paths of all ancestors of a layer, outermost first; the model itself is ``""``."""
    parts = path.split(".")
    return ["", *(".".join(parts[:depth]) for depth in range(1, len(parts)))] if path else []
