"""The table of names and shapes against both models that it describes, and the tensors that no model reads."""

import numpy as np
import pytest

from convert.conversion import ConversionError, convert_source
from convert.key_map import to_paddle
from convert.layout import state_layout, unused_projections
from convert.readers import source_from_arrays
from paddle_dla.models.variants import VARIANTS

SIZES = [(1000, 3), (10, 1), (0, 3)]

# trees of more than one level whose channels change: there the original code builds a projection that it never calls
UNUSED = {
    "dla34": ["level3", "level4"],
    "dla46_c": ["level4"],
    "dla46x_c": ["level4"],
    "dla60x_c": ["level4", "level4.tree1"],
    "dla60": ["level3", "level4", "level4.tree1"],
    "dla60x": ["level3", "level4", "level4.tree1"],
    "dla102": ["level3", "level3.tree1", "level4", "level4.tree1", "level4.tree1.tree1"],
    "dla102x": ["level3", "level3.tree1", "level4", "level4.tree1", "level4.tree1.tree1"],
    "dla102x2": ["level3", "level3.tree1", "level4", "level4.tree1", "level4.tree1.tree1"],
    "dla169": [
        "level2",
        "level3",
        "level3.tree1",
        "level4",
        "level4.tree1",
        "level4.tree1.tree1",
        "level4.tree1.tree1.tree1",
    ],
    "dla60_res2net": ["level3", "level4", "level4.tree1"],
    "dla60_res2next": ["level3", "level4", "level4.tree1"],
}
PROJECTION = [
    "0.weight",
    "1.weight",
    "1.bias",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
]


def original_weights(model):
    """A state dict as the original authors publish it: projections that nothing reads, and no batch counters."""
    shapes = {**state_layout(model), **unused_projections(model)}
    return {
        name: np.zeros(shape, np.float32) for name, shape in shapes.items() if not name.endswith("num_batches_tracked")
    }


@pytest.mark.torch
@pytest.mark.parametrize(("num_classes", "in_chans"), SIZES)
@pytest.mark.parametrize("model", VARIANTS)
def test_names_shapes_and_order_are_those_of_timm(model, num_classes, in_chans):
    import torch

    from torch_ref.model import create_model, import_timm

    import_timm()
    with torch.device("meta"):
        reference = create_model(model, num_classes=num_classes, in_chans=in_chans)
    expected = [(name, tuple(value.shape)) for name, value in reference.state_dict().items()]
    assert list(state_layout(model, num_classes, in_chans).items()) == expected


@pytest.mark.parametrize(
    ("model", "num_classes", "in_chans"),
    [*((model, 1000, 3) for model in VARIANTS), *(("dla46x_c", *size) for size in SIZES[1:])],
)
def test_names_shapes_order_and_number_are_those_of_the_paddle_model(model, num_classes, in_chans):
    import paddle

    from paddle_dla import create_model
    from paddle_dla.models.complexity import parameters

    with paddle.LazyGuard():
        port = create_model(model, num_classes=num_classes, in_chans=in_chans)
    layout = state_layout(model, num_classes, in_chans)
    mapped = [(to_paddle(name), shape) for name, shape in layout.items() if to_paddle(name) is not None]
    assert mapped == [(name, tuple(value.shape)) for name, value in port.state_dict().items()]
    trained = [parameter for parameter in port.parameters() if not parameter.stop_gradient]
    assert parameters(model, in_chans, num_classes) == sum(int(parameter.size) for parameter in trained)


@pytest.mark.parametrize("model", VARIANTS)
def test_unused_projections_are_those_of_the_trees_that_never_call_them(model):
    expected = [f"{tree}.project.{name}" for tree in UNUSED[model] for name in PROJECTION]
    assert list(unused_projections(model)) == expected


@pytest.mark.parametrize("model", VARIANTS)
def test_an_unused_projection_has_the_shape_of_the_one_that_replaced_it(model):
    layout = state_layout(model)
    for tree in UNUSED[model]:
        last = tree
        while f"{last}.project.0.weight" not in layout:
            last += ".tree1"
        for name in PROJECTION:
            assert unused_projections(model)[f"{tree}.project.{name}"] == layout[f"{last}.project.{name}"]


@pytest.mark.parametrize("model", VARIANTS)
def test_no_unused_projection_is_a_tensor_of_the_model(model):
    assert not unused_projections(model).keys() & state_layout(model).keys()


@pytest.mark.parametrize("model", VARIANTS)
def test_a_checkpoint_of_the_original_authors_converts_and_every_dropped_tensor_is_named(model):
    conversion = convert_source(source_from_arrays(original_weights(model)), model)
    expected = {f"{tree}.project.{name}" for tree in UNUSED[model] for name in PROJECTION[:-1]}
    dropped = conversion.manifest["dropped"]
    assert dropped.keys() == expected
    assert all(entry["reason"].startswith("unused: a projection") for entry in dropped.values())


def test_an_unused_projection_of_another_shape_is_left_over():
    weights = original_weights("dla46x_c")
    weights["level4.project.0.weight"] = np.ones((128, 32, 1, 1), np.float32)
    with pytest.raises(ConversionError) as caught:
        convert_source(source_from_arrays(weights), "dla46x_c")
    assert caught.value.faults == [
        "level4.project.0.weight: left over in the file (shape [128, 32, 1, 1]), the model has no such tensor"
    ]
