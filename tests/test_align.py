"""``align`` on correct ports: no false alarm, nothing left changed; on broken ones: the right layer and kind."""

import numpy as np
import pytest
from numpy_weights import images

pytestmark = pytest.mark.torch


def pair(name="dla46x_c", seed=0, randomise_batch_norm=True):
    from alignment.pairs import build_pair, seeded_source
    from convert.conversion import convert_source

    source = seeded_source(name, seed, num_classes=10, randomise_batch_norm=randomise_batch_norm)
    found = build_pair(source, convert_source(source, name, num_classes=10))
    return found.torch_model, found.paddle_model


def run(torch_model, paddle_model, **options):
    from alignment import align

    return align(torch_model, paddle_model, images(batch=2, size=64), **options)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", ["dla34", "dla46_c", "dla46x_c", "dla60_res2net"])
def test_a_correct_port_raises_no_alarm(name, mode):
    result = run(*pair(name), mode=mode)
    assert result.passed, result.verdict()
    assert {row.direction for row in result.rows} == {"forward", "gradient", "parameter gradient"}


def test_neither_model_is_changed():
    import paddle

    torch_model, paddle_model = pair()
    torch_model.train()
    before = {k: v.clone() for k, v in torch_model.state_dict().items()}
    paddle_before = {k: v.numpy().copy() for k, v in paddle_model.state_dict().items()}
    paddle.seed(5)
    expected, numpy_state = paddle.rand([4]).numpy(), np.random.get_state()[1].copy()
    paddle.seed(5)
    run(torch_model, paddle_model, mode="train")
    assert all((before[k] == v).all() and before[k].dtype == v.dtype for k, v in torch_model.state_dict().items())
    assert all(np.array_equal(paddle_before[k], v.numpy()) for k, v in paddle_model.state_dict().items())
    assert torch_model.training
    assert not any(layer.training for layer in paddle_model.sublayers(include_self=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in torch_model.modules())
    assert np.array_equal(paddle.rand([4]).numpy(), expected)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def culprits(torch_model, paddle_model, **options):
    return [(c.layer, c.kind) for c in run(torch_model, paddle_model, **options).culprits]


def test_another_epsilon_is_a_config_fault_of_its_layer():
    torch_model, paddle_model = pair()
    paddle_model.level3.tree2.tree1.bn2._epsilon = 1e-3
    assert culprits(torch_model, paddle_model) == [("level3.tree2.tree1.bn2", "config")]


def test_a_changed_weight_is_a_weight_fault_of_its_layer():
    torch_model, paddle_model = pair()
    weight = paddle_model.level4.tree1.root.conv.weight
    weight.set_value(weight.numpy() * (1 + 1e-6))
    assert culprits(torch_model, paddle_model) == [("level4.tree1.root.conv", "weights")]


def test_a_padding_that_no_even_image_shows_is_found():
    torch_model, paddle_model = pair()
    paddle_model.level1[0]._padding = [1, 0, 1, 0]
    assert culprits(torch_model, paddle_model)[0] == ("level1.0", "config")


def test_a_permuted_concat_is_a_wiring_fault_of_its_container():
    import paddle

    torch_model, paddle_model = pair()
    root = paddle_model.level3.tree2.root

    def permuted(children):
        x = root.bn(root.conv(paddle.concat([children[1], children[0], *children[2:]], 1)))
        return root.relu(x)

    root.forward = permuted
    assert culprits(torch_model, paddle_model) == [("level3.tree2.root", "wiring")]


def test_a_detached_branch_is_found_in_the_backward_pass_alone():
    torch_model, paddle_model = pair()
    block = paddle_model.level4.tree1.tree2

    def detached(x, shortcut=None):
        shortcut = x if shortcut is None else shortcut
        out = block.relu(block.bn1(block.conv1(x)))
        out = block.relu(block.bn2(block.conv2(out)))
        return block.relu(block.bn3(block.conv3(out)) + shortcut.detach())

    block.forward = detached
    assert culprits(torch_model, paddle_model) == [("level4.tree1.tree2", "wiring")]
