"""Account for every tensor of two models: weights, parameter gradients, and buffers after a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from alignment.engine.borrowed import PORT, REFERENCE, Borrowed
from alignment.engine.explaining.explain_layer import WeightIndex, weight_cause
from alignment.engine.explaining.statistics import state_cause, with_rounded_momentum
from alignment.engine.judging.echo import in_layout
from alignment.engine.judging.error import compare
from alignment.engine.judging.gradients import ParameterGradient
from alignment.engine.judging.limits import NoiseFloor
from alignment.engine.locating.culprits import StateFault, WeightFault
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import ROOT, Tape
from alignment.engine.result import Skipped
from convert.matching.key_map import KeyMap, Line, layer_of

AFFINE = {"weight": "scale", "scale": "scale", "bias": "shift"}
NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}


class Accounts:
    """The tensors of both models, compared line by line of the key map."""

    def __init__(self, models: Borrowed, key_map: KeyMap):
        self.models, self.key_map = models, key_map
        self.ours = REFERENCE.own_arrays(models.torch_module)
        self.theirs = PORT.own_arrays(models.paddle_layer)
        self._carrying = KeyMap(tuple(map(self._by_first_name, key_map)))
        self._to: dict[str, list[Line]] = {}
        for line in self._carrying:
            if line.paddle and line.torch and not line.dropped and line.paddle not in self.theirs.alias:
                self._to.setdefault(line.paddle, []).append(line)

    def _by_first_name(self, line: Line) -> Line:
        """Return ``line`` with the first name of a tensor that both models share, under which its gradient is recorded.

        The two models may reach a shared layer by different paths first.
        """
        if line.torch and line.torch in self.ours.alias and line.paddle in self.theirs.alias.values():
            return replace(line, torch=self.ours.alias[line.torch])
        return line

    def whole(self) -> frozenset[str]:
        """Return the reference's layers whose tensors are all paired with one port layer that has no others."""
        pairs = self.key_map.layers()
        settings = self.models.reference_settings
        lacking = {layer_of(line.torch or "") for line in self.key_map if line.torch and not line.paddle}
        return frozenset(path for path in pairs if path not in lacking or settings[path].has_weights)

    def carried(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Convert ``arrays``, keyed by the reference's names, to the port's layout and names."""
        return {name: array for name, array in self._carrying.apply(arrays, partial=True).items() if name in self._to}

    def source(self, name: str) -> str:
        """Return the reference's tensor, or the first of several, that a port's tensor comes from."""
        return self._to[name][0].torch or ""

    # --- weights ----------------------------------------------------------------------------------------------------

    def weight_faults(self, twins: Mapping[str, str]) -> Iterator[WeightFault]:
        """Yield weights that differ, and parameters that exist or are trained on one side only.

        ``twins`` maps the reference's layers to the port's.
        """
        made = self.carried(self.ours.arrays)
        index = WeightIndex(self._pieces())
        for twin, expected in made.items():
            if twin not in self.theirs.arrays:
                continue
            name, actual = self.source(twin), self.theirs.arrays[twin]
            if expected.shape != actual.shape and expected.size == actual.size:
                actual = actual.reshape(expected.shape)
            found = compare(expected, actual)
            if found.max_abs:
                layer, own = split(name)
                cause = weight_cause(expected, actual, index, name)
                yield WeightFault(layer, own, found.relative, found.mismatch, cause)
        yield from self._missing()
        yield from self._extra({twin: path for path, twin in twins.items()})
        yield from self._trained()

    def _pieces(self) -> dict[str, np.ndarray]:
        """Return the reference's tensors by name, plus the slices of those that the port stores in parts."""
        pieces = dict(self.ours.arrays)
        for line in self.key_map:
            if line.steps and line.torch in self.ours.arrays and line.paddle:
                array = self.ours.arrays[line.torch]
                for step in line.steps:
                    array = step(array)
                pieces[f"{line.torch} ({', '.join(map(str, line.steps))})"] = array
        return pieces

    def _missing(self) -> Iterator[WeightFault]:
        paired = {line.torch for lines in self._to.values() for line in lines}
        for name in self.ours.arrays:
            if name in self.ours.parameters and name not in paired and self.ours.alias.get(name) not in paired:
                layer, own = split(name)
                trained = "" if name in self.ours.trained else ", which is not trained"
                cause = f"the port has no such parameter{trained}: {own} is not applied"
                yield WeightFault(layer, own, np.inf, "missing in Paddle", cause, one_sided=True)

    def _extra(self, back: Mapping[str, str]) -> Iterator[WeightFault]:
        for twin in self.theirs.arrays:
            if twin not in self.theirs.parameters or twin in self._to or self.theirs.alias.get(twin) in self._to:
                continue
            layer, own = split(twin)
            path = back.get(layer, self._around(layer, back))
            shape = list(self.theirs.arrays[twin].shape)
            kind = AFFINE.get(own) if self.models.port_settings[layer].category in NORMS else None
            affine = f"affine: a {kind} of its own, " if kind else ""
            inside = "" if path == back.get(layer) else f"{twin}: "
            how = "trained" if twin in self.theirs.trained else "not trained"
            cause = f"{inside}{affine}a parameter {shape} ({how}) that torch does not have"
            yield WeightFault(path, own, np.inf, "only in Paddle", cause, one_sided=True)

    def extra(self, twins: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
        """Return the parameters that only the port has, by the reference's layer and their name in the port's."""
        back, found = {twin: path for path, twin in twins.items()}, {}
        for twin in self.theirs.parameters:
            if twin not in self._to and self.theirs.alias.get(twin) not in self._to:
                layer, own = split(twin)
                found.setdefault(back.get(layer, self._around(layer, back)), {})[own] = self.theirs.arrays[twin]
        return found

    def _around(self, layer: str, back: Mapping[str, str]) -> str:
        """Return the reference's name of the innermost paired container around a layer of the port."""
        while layer != ROOT and layer not in back:
            layer = layer.rpartition(".")[0] or ROOT
        return back.get(layer, ROOT)

    def _trained(self) -> Iterator[WeightFault]:
        for twin, lines in self._to.items():
            if twin not in self.theirs.parameters or not any(line.torch in self.ours.parameters for line in lines):
                continue
            ours = any(line.torch in self.ours.trained for line in lines)
            if ours != (twin in self.theirs.trained):
                layer, own = split(lines[0].torch or "")
                sides = ("Paddle", "torch") if ours else ("torch", "Paddle")
                words = f"frozen in {sides[0]} and trained in {sides[1]}"
                yield WeightFault(layer, own, np.inf, words, words, one_sided=True)

    def constants(self) -> Iterator[Skipped]:
        """Yield buffers that exist on one side only: the other side computes them on the fly or does not need them."""
        paired = {line.torch for lines in self._to.values() for line in lines}
        for name in self.ours.arrays:
            if name not in self.ours.parameters and name not in paired:
                yield Skipped(name, "buffer", "torch", "no tensor of this place in Paddle")
        for twin in self.theirs.arrays:
            if twin not in self.theirs.parameters and twin not in self._to and twin not in self.theirs.alias:
                yield Skipped(twin, "buffer", "Paddle", "no tensor of this place in torch")

    # --- gradients --------------------------------------------------------------------------------------------------

    def gradients(self, tape: Tape, floor: NoiseFloor, theirs: Mapping[str, np.ndarray]) -> Iterator[ParameterGradient]:
        """Yield each port parameter's gradient with the reference's, in the port's layout."""
        theirs = {self.theirs.alias.get(name, name): array for name, array in theirs.items()}
        ours = {name: tape.get(ref) for name, ref in tape.param_grads.items()}
        zeros = {name: np.zeros_like(self.ours.arrays[name]) for name in self.ours.parameters if name not in ours}
        made = self.carried({**zeros, **ours})
        for twin in self._to:
            sources = [line.torch for line in self._to[twin]]
            refs = [tape.param_grads[name] for name in sources if name in tape.param_grads]
            if twin not in made or not refs:
                continue
            ref: Ref = max(refs, key=floor.of)
            scale = max(float(np.abs(ours[name]).max(initial=0)) for name in sources if name in ours)
            rows = next((f" ({step})" for step in self._to[twin][0].steps if step.word == "rows"), "")
            yield ParameterGradient(f"{sources[0]}{rows}", twin, made[twin], ref, theirs.get(twin), scale)

    def unasked(self, tape: Tape, theirs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yield ``(name, twin, gradient)`` of parameters trained on both sides with a gradient in the port only."""
        for twin, gradient in theirs.items():
            lines = self._to.get(self.theirs.alias.get(twin, twin), ())
            sources = [line.torch for line in lines if line.torch]
            trained = any(name in self.ours.trained for name in sources)
            if trained and not tape.param_grads.keys() & {*sources} and np.any(gradient):
                yield sources[0], twin, gradient

    # --- buffers after a run ----------------------------------------------------------------------------------------

    def state_faults(
        self, tape: Tape, after: Mapping[str, np.ndarray], judged: Mapping[str, float], wrong: set[str]
    ) -> Iterator[StateFault]:
        """Yield buffers that matched before the run (not in ``wrong``) and differ from the reference's after it.

        ``after`` holds the port's buffers after its run, by its names. ``judged`` gives the allowed error of each of
        the reference's layers whose buffers can be judged.
        """
        left = self.carried({name: tape.get(ref) for name, ref in tape.buffers.items() if name in self.ours.arrays})
        for twin, expected in left.items():
            name = self.source(twin)
            layer, own = split(name)
            if layer not in judged or twin not in after or name in wrong or expected.dtype.kind != "f":
                continue
            actual, before = after[twin], self.ours.arrays[name].astype(np.float64)
            momentum = self.models.reference_settings[layer].fields.get("momentum")
            # a port may keep the momentum in float64, or in float32 as Paddle's own kernel does
            rounded = with_rounded_momentum(before, expected, momentum)
            found = in_layout(expected, actual, judged[layer])[1]
            if min(found.relative, compare(rounded, actual).relative) <= judged[layer]:
                continue
            # a running mean near 0 is the rounding of terms that cancel: its error is relative to the largest input
            if own == "running_mean" and found.max_abs <= judged[layer] * _largest_input(tape, layer):
                continue
            yield StateFault(layer, own, found.relative, state_cause(before, expected, actual, momentum))


def _largest_input(tape: Tape, layer: str) -> float:
    """Return the largest magnitude in a layer's inputs, 0 if it has none."""
    refs = [ref for record in tape if record.path == layer for ref in record.input_refs() if 0 not in ref.shape]
    return max((float(np.abs(tape.get(ref)).max()) for ref in refs), default=0.0)


def split(name: str) -> tuple[str, str]:
    """Split a tensor's name into its layer and its name in the layer."""
    layer = layer_of(name)
    return layer, name if layer == ROOT else name[len(layer) + 1 :]


def initial_by_layer(accounts: Accounts) -> dict[str, dict[str, np.ndarray]]:
    """Return the reference's initial tensors by layer and name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in accounts.ours.arrays.items():
        layer, own = split(name)
        found.setdefault(layer, {})[own] = array
    return found
