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
    assert {row.direction for row in result.rows} == {"forward", "gradient", "input gradient", "parameter gradient"}


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
    paddle_model.level1[0]._updated_padding = [1, 0, 1, 0]  # what the layer hands to the kernel
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


# --- inputs, losses, working precision ------------------------------------------------------------------------------


LABELS = np.array([3, 7])


def small_pair(seed=0):
    """A model of two inputs that returns two outputs, in either framework."""
    import paddle
    import torch

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.extra = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(5, 4)

        def forward(self, image, extra):
            x = self.image(image).mean((2, 3)) + self.extra(extra)
            return {"logits": x, "extra": x[:, :2] * 2}

    class Port(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.image, self.extra = paddle.nn.Conv2D(3, 4, 3), paddle.nn.Linear(5, 4)

        def forward(self, image, extra):
            x = self.image(image).mean([2, 3]) + self.extra(extra)
            return {"logits": x, "extra": x[:, :2] * 2}

    torch.manual_seed(seed)
    reference, port = Reference().eval(), Port()
    port.eval()
    for name, value in reference.state_dict().items():
        array = value.numpy()
        port.state_dict()[name].set_value(array.T if name == "extra.weight" else array)
    return reference, port


TWO = {"image": images(batch=2, size=8), "extra": np.random.RandomState(0).standard_normal((2, 5))}


@pytest.mark.parametrize("inputs", [TWO, tuple(TWO.values()), [*TWO.values()]], ids=["by name", "tuple", "list"])
def test_several_inputs_are_taken_in_order_or_by_name(inputs):
    from alignment import align

    result = align(*small_pair(), inputs)
    assert result.passed, str(result)
    assert sum(row.layer == "(model)" and row.direction == "forward" for row in result.rows) == 2


def test_a_fault_behind_the_second_input_is_found():
    from alignment import align

    reference, port = small_pair()
    port.extra.bias.set_value(port.extra.bias.numpy() + np.float32(1e-5))
    assert [(c.layer, c.kind) for c in align(reference, port, TWO).culprits] == [("extra", "weights")]


def test_a_container_that_makes_one_output_from_another_is_judged_by_what_is_outside():
    import paddle
    import torch

    from alignment import align

    inner, inner_port = small_pair()
    reference = torch.nn.Sequential()
    reference.inner = inner
    reference.forward = lambda image, extra: [2 * x for x in inner(image, extra).values()]
    port = paddle.nn.Layer()
    port.inner = inner_port
    port.forward = lambda image, extra: [2 * x for x in inner_port(image, extra).values()]
    assert align(reference, port, TWO).passed
    inner_port.extra.bias.set_value(inner_port.extra.bias.numpy() + np.float32(1e-5))
    assert [(c.layer, c.kind) for c in align(reference, port, TWO).culprits] == [("inner.extra", "weights")]
    inner_port.extra.bias.set_value(inner.extra.bias.detach().numpy())
    port.forward = lambda image, extra: [2 * x.detach() for x in inner_port(image, extra).values()]
    assert [(c.layer, c.kind) for c in align(reference, port, TWO).culprits] == [("(model)", "wiring")]


def tame():
    """A pair with logits near 0, as of a model that is about to be trained."""
    torch_model, paddle_model = pair()
    torch_model.fc.weight.data *= 1e-3
    paddle_model.fc.weight.set_value(torch_model.fc.weight.detach().numpy())
    return torch_model, paddle_model


def test_the_loss_is_a_layer_and_gradients_start_at_it():
    result = run(*tame(), labels=LABELS)
    assert result.passed, str(result)
    assert {row.direction for row in result.rows if row.layer == "(loss)"} == {"forward", "gradient"}


def test_paddles_label_smoothing_keeps_its_share_in_float32_which_is_a_remark():
    result = run(*tame(), labels=LABELS, loss=losses(label_smoothing=0.1))
    assert result.passed, str(result)
    assert any("cross_entropy" in name for name in result.facts)


def test_paddles_cross_entropy_of_far_logits_differs_and_is_explained():
    (fault,) = run(*pair(), labels=LABELS).culprits
    assert (fault.layer, fault.kind) == ("(loss)", "computation")
    assert "logits more than 64 below the largest count as 64 below it" in fault.cause


def losses(scale=1, **torch_options):
    """Cross entropy in either framework, Paddle's times ``scale``."""
    import paddle
    import torch

    def in_paddle(output, labels):
        smoothing = torch_options.get("label_smoothing", 0.0)
        return scale * paddle.nn.functional.cross_entropy(output, labels, label_smoothing=smoothing)

    return (lambda output, labels: torch.nn.functional.cross_entropy(output, labels, **torch_options)), in_paddle


def test_a_wrong_loss_is_found_as_such_and_no_layer_is_blamed():
    (fault,) = run(*tame(), labels=LABELS, loss=losses(scale=2)).culprits
    assert (fault.layer, fault.kind) == ("(loss)", "computation")
    assert "scaled by 2" in fault.cause
    (fault,) = run(*tame(), labels=LABELS, loss=(losses(label_smoothing=0.1)[0], losses()[1])).culprits
    assert (fault.layer, fault.kind) == ("(loss)", "computation")


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("cross_entropy", LABELS),
        ("mse_loss", np.random.RandomState(0).standard_normal((2, 10))),
        ("l1_loss", np.random.RandomState(0).standard_normal((2, 10))),
        ("binary_cross_entropy_with_logits", np.random.RandomState(0).rand(2, 10)),
    ],
)
def test_a_loss_is_known_by_its_name(loss, labels):
    result = run(*tame(), labels=labels, loss=loss)
    assert result.passed, str(result)


def test_a_loss_that_is_no_number_or_unknown_is_refused():
    import paddle.nn.functional

    with pytest.raises(ValueError, match=r"must be one number, got shape \[2\] in torch"):
        none = {"reduction": "none"}
        run(*tame(), labels=LABELS, loss=(losses(**none)[0], paddle.nn.functional.cross_entropy))
    with pytest.raises(ValueError, match="no loss called 'huber'; give one of cross_entropy"):
        run(*tame(), labels=LABELS, loss="huber")


def test_working_precision_informs_and_judges_nothing(tmp_path):
    result = run(*pair(), dtype="float32")
    assert result.passed
    assert result.working.dtype == "float32"
    assert len(result.working.rows) == len(result.rows)
    forward = [row for row in result.working.rows if row.direction == "forward"]
    assert all(row.aligned for row in forward)
    assert max(row.relative for row in forward) > 1e-8
    assert "float32 informs: " in str(result)
    result.to_html(tmp_path / "page.html")
    assert "float32 informs: " in (tmp_path / "page.html").read_text()
    result.to_json(tmp_path / "report.json")
    assert '"working"' in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize("options", [{"mode": "test"}, {"dtype": "float16"}])
def test_unknown_words_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        run(*pair(), **options)


def test_a_model_in_float64_comes_back_unrounded():
    torch_model, paddle_model = pair()
    paddle_model.to(dtype="float64")
    weight = paddle_model.level2.tree1.conv1.weight
    weight.set_value(weight.numpy() * (1 + 1e-12))
    before = weight.numpy().copy()
    run(torch_model, paddle_model, dtype="float32")
    assert np.array_equal(paddle_model.level2.tree1.conv1.weight.numpy(), before)


def test_a_reference_that_computes_otherwise_in_float32_still_has_a_floor():
    import paddle
    import torch

    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.more = torch.nn.Linear(5, 5), torch.nn.Identity()

        def forward(self, x):
            x = self.fc(x)
            return self.more(x) if x.dtype == torch.float32 else x

    from alignment import align

    reference, port = Branching().eval(), paddle.nn.Sequential(("fc", paddle.nn.Linear(5, 5)))
    port.fc.weight.set_value(reference.fc.weight.detach().numpy().T)
    port.fc.bias.set_value(reference.fc.bias.detach().numpy())
    result = align(reference, port, np.random.RandomState(0).standard_normal((4, 5)))
    assert result.passed, str(result)
    (row,) = [row for row in result.rows if row.layer == "fc" and row.direction == "forward"]
    assert row.floor > 2.0**-53


def test_layers_are_run_alone_only_where_the_chain_leaves_something_unseen():
    torch_model, paddle_model = pair()
    assert "not run again" in run(torch_model, paddle_model).facts["every layer alone"]
    paddle_model.level3.tree2.tree1.bn2._epsilon = 1e-3
    assert "every layer alone" not in run(torch_model, paddle_model).facts
