"""``translate`` a torch module to Paddle source, with the key map between both. It imports torch when called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convert.matching.key_map import KeyMap
from convert.translate.classes import Builder, Translation
from convert.translate.layers import LAYERS, Layer, drop_path, layer_of
from convert.translate.operators import OPERATORS
from convert.translate.plain import Module, Program
from convert.translate.rarer_operators import RARER
from convert.translate.source import without_gradient, written
from convert.translate.weights import key_map


@dataclass(frozen=True)
class Translated:
    """A port's ``source``, its ``key_map`` from torch's tensors, and the program and translation they were made from.

    ``rates`` maps the module's own classes of stochastic depth to the attribute that is their rate.
    """

    source: str
    key_map: KeyMap
    program: Program
    translation: Translation
    rates: Mapping[str, str] = field(default_factory=dict)


def translate(
    module: Any,
    inputs: Sequence[Any] | Mapping[str, Any],
    header: str = "",
    operators: Mapping[str, Any] | None = None,
    layers: Mapping[str, Layer] | None = None,
    training: bool = True,
) -> Translated:
    """Translate the torch module ``module``, which takes ``inputs`` (tensors, or a mapping of them by name).

    ``operators`` and ``layers`` add rules to those of ``OPERATORS``, ``RARER`` and ``LAYERS``. ``header`` is the
    source's docstring. ``training=False`` translates for evaluation only, without the dropout that forward methods call
    as a function.

    Raises ``TranslationError``, which lists everything that has no rule, with the line of the reference.

        translated = translate(torch.nn.Linear(4, 2), (torch.zeros(1, 4),))
        print(translated.source)
    """
    from convert.translate.modes import stochastic_depths
    from convert.translate.tracing import trace

    rates = stochastic_depths(module, LAYERS.__contains__)
    copies = {kind: drop_path(rate) for kind, rate in rates.items()}
    layers, operators = {**copies, **LAYERS, **(layers or {})}, {**OPERATORS, **RARER, **(operators or {})}
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    silent = {kind for kind, layer in layers.items() if layer.silent}

    def same(child: Module) -> bool:
        layer = layer_of(child, layers)
        return layer is not None and layer.same(child)

    program = trace(module, args, kwargs, silent.__contains__, layers.__contains__, training, same)
    translation = Builder(program, operators, layers).translation()
    requires_grad = {translation.names.get(path): needed for path, needed in program.requires_grad.items()}
    source = written(translation, header, without_gradient(requires_grad))
    return Translated(source, key_map(program, translation), program, translation, rates)
