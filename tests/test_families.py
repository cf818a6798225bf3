"""Six families of timm against Paddle's own models, with nothing said about them but their names.

The same weights, carried over by the key map that is derived from the two models, make them the same; where they are
not, the difference is one that is known and named. A fault put into one layer is found in that layer and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from each import each
from numpy_weights import images

pytestmark = pytest.mark.torch

# timm's name -> Paddle's constructor, its arguments, the layers known to be set otherwise (vgg drops out in training,
# timm's does not unless asked), and the side of the image, which is the smallest that the model takes
FAMILIES = {
    "resnet18": ("resnet18", {}, {}, 64),
    "resnet50": ("resnet50", {}, {}, 64),
    "resnext50_32x4d": ("resnext50_32x4d", {}, {}, 64),
    "mobilenetv2_100": ("mobilenet_v2", {}, {}, 64),
    "densenet121": ("densenet121", {}, {}, 64),
    "vgg16_bn": ("vgg16", {"batch_norm": True}, {"pre_logits.drop": "rate 0.5", "head.drop": "rate 0.5"}, 32),
}
# the others are deeper; vgg16 has 138 million weights, most of them in two linear layers
LIGHT = {"resnet18", "mobilenetv2_100"}


@dataclass
class Family:
    """A pair with the same weights, the runs of the reference, and the faults that are there from the start."""

    torch_model: Any
    paddle_model: Any
    key_map: list
    inputs: np.ndarray
    reference: Any
    known: dict[str, str]

    def align(self):
        from alignment import align

        return align(self.torch_model, self.paddle_model, self.inputs, reference=self.reference)

    def culprits(self):
        return sorted((c.layer, c.kind) for c in self.align().culprits)

    def twin(self, path):
        """The Paddle layer of which the key map fills the weights with those of ``path``."""
        name = next(e.paddle for e in self.key_map if e.torch == f"{path}.weight")
        return dict(self.paddle_model.named_sublayers())[name.rpartition(".")[0]]

    def last(self, kind):
        """Path of the last layer of a kind that has weights."""
        modules = dict(self.torch_model.named_modules())
        return [path for path, module in modules.items() if isinstance(module, kind)][-1]


@pytest.fixture(scope="module", params=each(FAMILIES, LIGHT))
def family(request):
    import paddle.vision.models

    from alignment.engine.session import Reference
    from convert.automap import apply, derive, read_layers
    from torch_ref.model import create_model, randomise_batch_norm, state_arrays

    factory, arguments, known, size = FAMILIES[request.param]
    torch_model = randomise_batch_norm(create_model(request.param, seed=0, num_classes=10), seed=0)
    paddle_model = getattr(paddle.vision.models, factory)(num_classes=10, **arguments)
    paddle_model.eval()
    key_map = derive(read_layers(torch_model), read_layers(paddle_model))
    shapes = {name: tuple(value.shape) for name, value in paddle_model.state_dict().items()}
    arrays = apply(key_map, state_arrays(torch_model), shapes)
    paddle_model.set_state_dict({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return Family(torch_model, paddle_model, key_map, images(batch=1, size=size), Reference(), known)


def test_the_key_map_is_found_and_accounts_for_every_tensor(family):
    assert [entry for entry in family.key_map if not entry.resolved] == []
    dropped = {entry.torch.rpartition(".")[2] for entry in family.key_map if entry.dropped}
    assert dropped == {"num_batches_tracked"}


def test_the_models_are_the_same_but_for_the_differences_that_are_known(family):
    result = family.align()
    assert all(row.aligned for row in result.rows), result.verdict()
    assert {c.layer: c.kind for c in result.culprits} == dict.fromkeys(family.known, "config")
    assert all(family.known[c.layer] in c.cause for c in result.culprits)


def test_in_training_only_the_running_variance_of_paddles_normalisation_differs(family):
    from alignment import align

    torch_model, paddle_model = family.torch_model, family.paddle_model
    result = align(torch_model, paddle_model, np.concatenate([family.inputs, -family.inputs]), mode="train")
    others = {c.layer: c.cause for c in result.culprits if c.kind != "state"}
    assert others.keys() == family.known.keys()
    assert all(family.known[layer] in cause for layer, cause in others.items())
    state = [c for c in result.culprits if c.kind == "state"]
    modules = dict(torch_model.named_modules())
    assert {c.layer for c in state} == {path for path, m in modules.items() if hasattr(m, "running_var")}
    assert all("running_var" in c.cause and "biased batch variance" in c.cause for c in state)
    assert all(row.aligned for row in result.rows)


def test_every_layer_with_weights_is_compared_and_the_others_are_accounted_for(family):
    result = family.align()
    compared = {row.layer for row in result.rows if row.direction == "forward"}
    with_weights = {path for path, m in family.torch_model.named_modules() if [*m.parameters(recurse=False)]}
    assert with_weights <= compared
    skipped = {item.layer for item in result.skipped if item.side == "torch"}
    assert {path or "(model)" for path, _ in family.torch_model.named_modules()} == compared | skipped
    assert all(item.reason for item in result.skipped)


def test_another_epsilon_in_the_deepest_normalisation_is_found_there(family):
    import torch

    path = family.last(torch.nn.BatchNorm2d)
    layer = family.twin(path)
    kept = layer._epsilon
    try:
        layer._epsilon = 1e-3
        assert family.culprits() == sorted([*((known, "config") for known in family.known), (path, "config")])
    finally:
        layer._epsilon = kept


def test_a_changed_weight_of_the_deepest_convolution_is_found_there(family):
    import torch

    path = family.last(torch.nn.Conv2d)
    weight = family.twin(path).weight
    kept = weight.numpy().copy()
    try:
        weight.set_value(kept * np.float32(1 + 1e-6))
        assert family.culprits() == sorted([*((known, "config") for known in family.known), (path, "weights")])
    finally:
        weight.set_value(kept)


def test_a_computation_that_no_setting_shows_is_found_in_its_layer(family):
    import torch

    path = family.last(torch.nn.BatchNorm2d)
    layer = family.twin(path)
    whole = layer.forward
    try:
        layer.forward = lambda x: whole(x) * (1 + 1e-9)
        assert family.culprits() == sorted([*((known, "config") for known in family.known), (path, "computation")])
    finally:
        del layer.forward
