"""What timm's DLA offers works the same in Paddle: every part of the interface, on the same weights and images."""

import numpy as np
import paddle
import pytest
from each import each
from numpy_weights import images, timm_weights

from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import create_model
from paddle_dla.models.grouping import layer_groups
from paddle_dla.models.variants import VARIANTS

pytestmark = pytest.mark.torch

SMALL = "dla46x_c"
# float64 rounding after at most 700 layers is 1e-14 relative; a constant kept in float32 would show as 6e-8
LIMIT = 1e-11


def pair(name=SMALL, **options):
    """timm's model and its twin with the same weights, in float64 and eval mode."""
    import torch

    from alignment.engine.sides.torch.settings import round_epsilons
    from torch_ref.model import create_model as create_timm
    from torch_ref.model import load_tensors

    weights = timm_weights(name, options.get("num_classes", 1000) or 1000, options.get("in_chans", 3))
    arrays = convert_source(
        source_from_arrays(weights), name, options.get("num_classes") or None, options.get("in_chans")
    ).arrays
    reference = create_timm(name, **options)
    port = create_model(name, **options)
    names = set(reference.state_dict())
    load_tensors(reference, {k: torch.from_numpy(v) for k, v in weights.items() if k in names})
    kept = set(port.state_dict())
    port.set_state_dict({k: v for k, v in arrays.items() if k in kept})
    round_epsilons(reference.double())
    port.eval()
    return reference, port.to(dtype="float64")


def run(reference, port, x, method="__call__", **kwargs):
    import torch

    with torch.no_grad(), paddle.no_grad():
        expected = getattr(reference, method)(torch.from_numpy(x), **kwargs)
        actual = getattr(port, method)(paddle.to_tensor(x), **kwargs)
    return expected, actual


def assert_same(expected, actual):
    if isinstance(expected, (list, tuple)):
        assert len(expected) == len(actual)
        for one, other in zip(expected, actual):
            assert_same(one, other)
        return
    assert list(expected.shape) == list(actual.shape)
    error = np.abs(expected.numpy() - actual.numpy()).max()
    assert error <= LIMIT * np.abs(expected.numpy()).max()


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", ""])
@pytest.mark.parametrize("num_classes", [0, 10])
def test_head(pool, num_classes):
    reference, port = pair(num_classes=num_classes, global_pool=pool)
    assert_same(*run(reference, port, images()))
    assert reference.head_hidden_size == port.head_hidden_size
    features = np.random.RandomState(1).standard_normal((2, 256, 3, 3))
    for pre_logits in (False, True):
        assert_same(*run(reference, port, features, "forward_head", pre_logits=pre_logits))


@pytest.mark.timm("1.0.31")
def test_catavgmax_doubles_the_features_of_the_head():
    reference, port = pair(num_classes=0, global_pool="catavgmax")
    assert_same(*run(reference, port, images()))
    for model in (reference, port):
        model.reset_classifier(5)
        assert model.head_hidden_size == 512
    assert tuple(port.fc.weight.shape) == tuple(reference.fc.weight.shape)


@pytest.mark.parametrize("in_chans", [1, 5])
def test_other_input_channels(in_chans):
    reference, port = pair(num_classes=10, in_chans=in_chans)
    assert_same(*run(reference, port, images(in_chans=in_chans)))


def test_forward_features():
    assert_same(*run(*pair(), images(), "forward_features"))


@pytest.mark.timm("1.0.31")
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(indices=2),
        dict(indices=[0, -1]),
        dict(indices=[1, 3], stop_early=True),
        dict(indices=[3, 1], intermediates_only=True),
    ],
)
def test_forward_intermediates(options):
    assert_same(*run(*pair(), images(), "forward_intermediates", **options))


@pytest.mark.timm("1.0.31")
@pytest.mark.parametrize("indices", [1, [2], [0, 3]])
@pytest.mark.parametrize("prune_head", [True, False])
def test_prune_intermediate_layers(indices, prune_head):
    reference, port = pair(num_classes=10)
    kept = [model.prune_intermediate_layers(indices, prune_head=prune_head) for model in (reference, port)]
    assert kept[0] == kept[1]
    assert reference.num_features == port.num_features
    assert {n for n in reference.state_dict() if n.endswith("conv1.weight")} == {
        n for n in port.state_dict() if n.endswith("conv1.weight")
    }
    assert_same(*run(reference, port, images()))


def test_reset_classifier():
    reference, port = pair()
    for model in (reference, port):
        model.reset_classifier(0, "max")
        assert type(model.get_classifier()).__name__ == "Identity"
    assert_same(*run(reference, port, images()))
    for model in (reference, port):
        model.reset_classifier(12)
        assert model.num_classes == 12
        assert tuple(model.get_classifier().weight.shape) == (12, 256, 1, 1)


@pytest.mark.parametrize("out_indices", [(1, 2, 3, 4, 5), (0, 2), (-2,)])
def test_features_only(out_indices):
    reference, port = pair(features_only=True, out_indices=out_indices)
    assert_same(*run(reference, port, images()))
    assert [info["num_chs"] for info in port.out_info] == reference.feature_info.channels()
    assert [info["reduction"] for info in port.out_info] == reference.feature_info.reduction()
    assert [info["module"] for info in port.out_info] == reference.feature_info.module_name()


@pytest.mark.parametrize("name", VARIANTS)
def test_layer_groups(name):
    import torch

    from torch_ref.model import import_timm

    timm = import_timm()
    with torch.device("meta"):
        reference = timm.create_model(name)
    with paddle.LazyGuard():
        port = create_model(name, num_classes=10)
    names = [key for key, value in port.named_parameters() if not value.stop_gradient]
    for coarse in (False, True):
        expected = timm.models.group_parameters(reference, reference.group_matcher(coarse=coarse), reverse=True)
        assert layer_groups(names, port.group_matcher(coarse)) == expected


@pytest.mark.parametrize("name", each(["dla34", "dla46x_c", "dla60_res2net"], ["dla46x_c"]))
def test_training_leaves_the_statistics_that_torch_leaves(name):
    import torch

    reference, port = pair(name, num_classes=10)
    reference.train()
    port.train()
    # A power of two, as Paddle keeps the learning rate in float32; small, as the gradients of a fresh network in
    # training mode are huge, and a step that leaves its neighbourhood amplifies rounding instead of testing statistics.
    optimizers = (
        torch.optim.SGD(reference.parameters(), 2**-20),
        paddle.optimizer.SGD(2**-20, parameters=port.parameters()),
    )
    for step in range(3):
        x = images(batch=8, size=32, seed=step)
        reference(torch.from_numpy(x)).mean().backward()
        port(paddle.to_tensor(x)).mean().backward()
        optimizers[0].step()
        optimizers[1].step()
        optimizers[0].zero_grad()
        optimizers[1].clear_grad()
    statistics = {k: v.numpy() for k, v in port.state_dict().items() if k.endswith(("._mean", "._variance"))}
    for key, value in statistics.items():
        twin = key.replace("_mean", "running_mean").replace("_variance", "running_var")
        expected = reference.state_dict()[twin].numpy()
        # Normalising by the batch amplifies rounding: a first forward pass ends at 1e-12, three steps at 7e-11
        # (measured). The biased variance would be off by 1 / n of a tenth, 1e-5 at the least.
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9 * np.abs(expected).max(), err_msg=key)


def test_a_seeded_torch_and_a_paddle_initialisation_have_the_same_spread():
    from torch_ref.model import create_model as create_timm

    reference = {k: v.numpy() for k, v in create_timm("dla60", seed=0).state_dict().items()}
    paddle.seed(0)
    for key, value in create_model("dla60").state_dict().items():
        twin = reference[key.replace("._mean", ".running_mean").replace("._variance", ".running_var")]
        if twin.ndim == 4 and twin.size > 10_000:
            # two samples of n normal values: five standard errors of the ratio of their standard deviations
            assert value.numpy().std() / twin.std() == pytest.approx(1, abs=5 / np.sqrt(twin.size)), key
        elif twin.ndim == 1 and key != "fc.bias":
            np.testing.assert_array_equal(value.numpy(), twin, err_msg=key)
