"""torch with the constants that Paddle keeps in float32 computes what Paddle computes, forward and backward."""

import doctest

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
import paddle  # noqa: E402
import paddle.nn.functional as PF  # noqa: E402
import torch.nn.functional as TF  # noqa: E402

from alignment.engine.sides.torch import constants  # noqa: E402
from alignment.engine.sides.torch.constants import BACKWARD_ALONE, constants_of_paddle  # noqa: E402

ROUNDING = 1e-14
"""What two float64 kernels differ by, over the largest magnitude."""


def drawn(*shape, seed=0, scale=1.0):
    return scale * np.random.RandomState(seed).standard_normal(shape)


def in_torch(function, arrays):
    """The output and the gradients of the inputs."""
    tensors = [torch.tensor(array, requires_grad=array.dtype.kind == "f") for array in arrays]
    output = function(*tensors)
    output.backward(torch.from_numpy(np.array(drawn(*output.shape, seed=1))))
    return [output.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors if tensor.grad is not None)]


def in_paddle(function, arrays):
    """The same in Paddle."""
    tensors = [paddle.to_tensor(array, stop_gradient=array.dtype.kind != "f") for array in arrays]
    output = function(*tensors)
    paddle.autograd.backward([output], [paddle.to_tensor(np.array(drawn(*output.shape, seed=1)))])
    return [output.numpy(), *(tensor.grad.numpy() for tensor in tensors if not tensor.stop_gradient)]


def apart(ours, theirs):
    """The largest relative difference."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(abs(a - b).max() / abs(a).max() for a, b in zip(ours, theirs))


def resized(mode, corners, data_format, *shape, **how):
    """Both frameworks' interpolation of an input of this shape."""
    port = {key: [*value] if isinstance(value, tuple) else value for key, value in how.items()}
    return (
        lambda x: TF.interpolate(x, mode=mode, align_corners=corners, **how),
        lambda x: PF.interpolate(x, mode=mode, align_corners=bool(corners), data_format=data_format, **port),
        drawn(*shape),
    )


def resizings():
    """Every mode that mixes pixels, up and down, by size and by factor."""
    for corners in (False, True):
        for name, how in {
            "up": dict(size=(13, 20)), "down": dict(size=(3, 4)), "wide": dict(size=(64, 100)),
            "factor": dict(scale_factor=1.3), "factors": dict(scale_factor=(3.0, 1.7)), "less": dict(scale_factor=0.7),
        }.items():  # fmt: skip
            if not (name == "factors" and corners):
                yield f"bilinear_{name}_{corners}", resized("bilinear", corners, "NCHW", 2, 3, 7, 9, **how)
            yield f"bicubic_{name}_{corners}", resized("bicubic", corners, "NCHW", 2, 3, 7, 9, **how)
        for size in (13, 7, 100):
            yield f"linear_{size}_{corners}", resized("linear", corners, "NCW", 2, 3, 9, size=(size,))
        for size in ((5, 13, 4), (11, 12, 20)):
            yield f"trilinear_{size}_{corners}", resized("trilinear", corners, "NCDHW", 2, 2, 6, 7, 9, size=size)
    yield "area", resized("area", None, "NCHW", 2, 3, 7, 9, size=(3, 4))


def pools():
    """Averages over windows."""
    x = drawn(2, 3, 14, 13)
    for kernel, stride, padding in ((3, 2, 1), (7, 7, 0), (3, 1, 1), (5, 3, 2)):
        for counted in (True, False):
            yield f"avg_{kernel}_{stride}_{padding}_{counted}", (
                lambda x, k=kernel, s=stride, p=padding, c=counted: TF.avg_pool2d(x, k, s, p, count_include_pad=c),
                lambda x, k=kernel, s=stride, p=padding, c=counted: PF.avg_pool2d(x, k, s, p, exclusive=not c),
                x,
            )  # fmt: skip
    yield "avg_ceil", (
        lambda x: torch.nn.AvgPool2d(3, 2, ceil_mode=True)(x), lambda x: PF.avg_pool2d(x, 3, 2, ceil_mode=True), x
    )  # fmt: skip
    yield "avg1", (lambda x: TF.avg_pool1d(x, 3, 2, 1), lambda x: PF.avg_pool1d(x, 3, 2, 1, exclusive=False),
                   drawn(2, 3, 14))  # fmt: skip
    yield "avg3", (lambda x: TF.avg_pool3d(x, 3, 2, 1), lambda x: PF.avg_pool3d(x, 3, 2, 1, exclusive=False),
                   drawn(2, 3, 7, 7, 7))  # fmt: skip
    for size in (1, 3, (3, 2), (None, 5)):
        yield f"adaptive_{size}", (
            lambda x, s=size: TF.adaptive_avg_pool2d(x, s),
            lambda x, s=size: PF.adaptive_avg_pool2d(x, [*s] if isinstance(s, tuple) else s), drawn(2, 3, 7, 11),
        )  # fmt: skip
    yield "adaptive_layer", (torch.nn.AdaptiveAvgPool2d(1), paddle.nn.AdaptiveAvgPool2D(1), drawn(2, 3, 7, 7))
    yield "adaptive1", (lambda x: TF.adaptive_avg_pool1d(x, 3), lambda x: PF.adaptive_avg_pool1d(x, 3), drawn(2, 3, 7))
    yield "adaptive3", (lambda x: TF.adaptive_avg_pool3d(x, 3), lambda x: PF.adaptive_avg_pool3d(x, 3),
                        drawn(2, 3, 7, 5, 5))  # fmt: skip
    yield "response_norm", (
        lambda x: TF.local_response_norm(x, 3, 0.3, 0.7, 1.3), lambda x: PF.local_response_norm(x, 3, 0.3, 0.7, 1.3),
        drawn(2, 8, 5, 5),
    )  # fmt: skip
    yield "response_norm_even", (
        lambda x: TF.local_response_norm(x, 6, 0.3), lambda x: PF.local_response_norm(x, 6, 0.3), drawn(2, 8, 5, 5)
    )  # fmt: skip


def statistics():
    """Running ones of four channels, and an affine part that changes nothing."""
    return [paddle.full([4], value, "float64") for value in (0.0, 1.0, 1.0, 0.0)]


def scalars():
    """Arguments that are kept in float32."""
    x, small = drawn(3, 50, scale=4.0), drawn(3, 4, 6, scale=1e-2)
    labels = np.array([1, 4, 0])
    yield "elu", (lambda x: TF.elu(x, 0.3), lambda x: PF.elu(x, 0.3), x)
    yield "celu", (lambda x: torch.nn.CELU(0.3)(x), lambda x: PF.celu(x, 0.3), x)
    yield "selu", (TF.selu, PF.selu, x)
    yield "hardsigmoid", (TF.hardsigmoid, lambda x: PF.hardsigmoid(x, 1 / 6, 0.5), x)
    yield "hardtanh", (lambda x: TF.hardtanh(x, -0.3, 0.7), lambda x: PF.hardtanh(x, -0.3, 0.7), x)
    yield "softshrink", (lambda x: TF.softshrink(x, 0.3), lambda x: PF.softshrink(x, 0.3), x)
    yield "threshold", (lambda x: TF.threshold(x, 0.3, 0.7), lambda x: PF.thresholded_relu(x, 0.3, 0.7), x)
    yield "pow", (lambda x: abs(x) ** 0.3, lambda x: abs(x) ** 0.3, x)
    yield "pow_by_name", (lambda x: x.abs().pow(exponent=1.7), lambda x: paddle.pow(abs(x), 1.7), x)
    yield "addmm", (
        lambda a, x, y: torch.addmm(a, x, y, beta=0.3, alpha=0.7),
        lambda a, x, y: paddle.addmm(a, x, y, beta=0.3, alpha=0.7), drawn(3, 3), drawn(3, 4), drawn(4, 3),
    )  # fmt: skip
    yield "batch_norm", (
        lambda x: TF.batch_norm(x, None, None, training=True),
        lambda x: PF.batch_norm(x, *statistics(), training=True), small,
    )  # fmt: skip
    yield "instance_norm", (TF.instance_norm, PF.instance_norm, small)
    yield "layer_norm", (
        lambda x: TF.layer_norm(x, (6,), None, None, 1e-6), lambda x: PF.layer_norm(x, 6, epsilon=1e-6), small / 10
    )  # fmt: skip
    yield "norm", (lambda x: x.norm(dim=1), lambda x: x.norm(axis=1), drawn(4, 6, scale=1e-4))
    yield "normalize", (TF.normalize, PF.normalize, drawn(4, 6, scale=1e-4))
    yield "huber", (lambda x, y: TF.huber_loss(x, y, delta=0.3), lambda x, y: PF.smooth_l1_loss(x, y, delta=0.3),
                    drawn(4, 6), drawn(4, 6, seed=2))  # fmt: skip
    yield "smooth_l1", (
        lambda x, y: TF.smooth_l1_loss(x, y, beta=0.3), lambda x, y: PF.smooth_l1_loss(x, y, delta=0.3) / 0.3,
        drawn(4, 6), drawn(4, 6, seed=2),
    )  # fmt: skip
    yield "label_smoothing", (
        lambda x, y: TF.cross_entropy(x, y, label_smoothing=0.1),
        lambda x, y: PF.cross_entropy(x, y, label_smoothing=0.1), drawn(3, 6), labels,
    )  # fmt: skip


CASES = {name: case for group in (resizings, pools, scalars) for name, case in group()}


@pytest.mark.parametrize("name", CASES)
def test_with_its_constants_torch_is_paddle_and_without_them_it_is_not(name):
    ours, theirs, *arrays = CASES[name]
    expected, strict = in_paddle(theirs, arrays), in_torch(ours, arrays)
    with constants_of_paddle() as used:
        actual = in_torch(ours, arrays)
    assert apart(actual, expected) <= ROUNDING
    assert 1e-10 < apart(strict, expected) < 1e-5
    assert all(constant.size > 0 for constant in used.used.values()) and used.used


def test_an_exact_constant_is_not_noted_and_changes_nothing():
    x = torch.from_numpy(drawn(2, 3, 8, 8))
    with constants_of_paddle() as used:
        same = [TF.interpolate(x, scale_factor=2, mode="bilinear"), TF.avg_pool2d(x, 2), TF.elu(x), x**2, TF.relu(x)]
    assert used.used == {}
    again = [TF.interpolate(x, scale_factor=2, mode="bilinear"), TF.avg_pool2d(x, 2), TF.elu(x), x**2, TF.relu(x)]
    assert all(map(torch.equal, same, again))


def test_float32_is_left_alone():
    x = torch.from_numpy(drawn(2, 3, 7, 7)).float()
    with constants_of_paddle() as used:
        inside = TF.interpolate(x, (13, 5), mode="bilinear")
    assert used.used == {} and torch.equal(inside, TF.interpolate(x, (13, 5), mode="bilinear"))


def test_constants_are_noted_with_their_place_and_taken_in_the_given_places_alone():
    x = torch.from_numpy(drawn(2, 3, 7, 7))
    strict = TF.interpolate(x, (13, 5), mode="bilinear")
    places = iter(["neck.up", "neck.up", "head"])
    with constants_of_paddle(lambda: next(places), places={"head"}) as used:
        outputs = [TF.interpolate(x, (13, 5), mode="bilinear") for _ in range(3)]
    constant = used.used["interpolate"]
    assert (constant.places, constant.calls) == (["neck.up", "head"], 3) and 1e-8 < constant.size < 1e-6
    assert [torch.equal(output, strict) for output in outputs] == [True, True, False]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dims", [(2, 3), [-1, -2]])
def test_a_mean_over_space_may_be_a_pool_in_the_port(keep, dims):
    def pool(x):
        return PF.adaptive_avg_pool2d(x, 1) if keep else PF.adaptive_avg_pool2d(x, 1).flatten(1)

    arrays = [drawn(2, 3, 7, 7)]
    expected = in_paddle(pool, arrays)
    with constants_of_paddle(alternatives=True) as used:
        actual = in_torch(lambda x: x.mean(dims, keepdim=keep), arrays)
    with constants_of_paddle() as unused:
        strict = in_torch(lambda x: x.mean(dims, keepdim=keep), arrays)
    assert apart(actual, expected) <= ROUNDING < 1e-9 < apart(strict, expected)
    assert len(used.used) == 1 and unused.used == {}


def test_a_hard_sigmoid_may_be_a_division_in_the_port():
    arrays = [drawn(2, 3, 7, 7)]
    expected = in_paddle(lambda x: PF.relu6(x + 3) / 6, arrays)
    with constants_of_paddle(alternatives=True):
        actual = in_torch(TF.hardsigmoid, arrays)
    strict = in_torch(TF.hardsigmoid, arrays)
    assert apart(actual, expected) <= ROUNDING < 1e-9 < apart(strict, expected)


@pytest.mark.parametrize("name", sorted(BACKWARD_ALONE))
def test_the_constant_of_a_pool_is_in_its_gradient_alone(name):
    x = torch.from_numpy(drawn(2, 3, *[7] * int(name[-2])))
    plain = getattr(TF, name)(x, 3)
    with constants_of_paddle() as used:
        assert torch.equal(getattr(TF, name)(x, 3), plain)
    assert [*used.used] == [name]


def test_another_mean_is_no_pool():
    x = torch.from_numpy(drawn(2, 3, 7, 7))
    with constants_of_paddle(alternatives=True) as used:
        outputs = [x.mean(), torch.mean(x, 0), x.mean((0, 2, 3)), x[:, :, 0, 0].mean(1)]
    assert used.used == {} and len(outputs) == 4


def test_a_mean_over_tokens_may_be_a_pool_in_the_port():
    arrays = [drawn(2, 49, 3)]
    expected = in_paddle(lambda x: PF.adaptive_avg_pool1d(x.transpose([0, 2, 1]), 1).flatten(1), arrays)
    with constants_of_paddle(alternatives=True):
        actual = in_torch(lambda x: x.mean(1), arrays)
    assert apart(actual, expected) <= ROUNDING < 1e-9 < apart(in_torch(lambda x: x.mean(1), arrays), expected)


def test_constants_may_be_noted_alone():
    x = torch.from_numpy(drawn(2, 3, 7, 7))
    with constants_of_paddle(apply=False) as used:
        output = TF.interpolate(x, (13, 5), mode="bilinear")
    assert torch.equal(output, TF.interpolate(x, (13, 5), mode="bilinear")) and "interpolate" in used.used


def test_a_layer_is_seen_as_well_as_a_function():
    x = torch.from_numpy(drawn(2, 3, 7, 7))
    with constants_of_paddle() as used:
        torch.nn.Upsample((13, 5), mode="bilinear")(x)
        torch.nn.AdaptiveAvgPool2d(1)(x)
        torch.nn.ELU(0.3)(x)
        torch.nn.LayerNorm(7).double()(x)
    assert [*used.used] == ["interpolate", "adaptive_avg_pool2d", "elu", "layer_norm"]


def test_a_pooled_tensor_may_be_changed_in_place():
    x = torch.from_numpy(drawn(2, 3, 7, 7)).requires_grad_()
    with constants_of_paddle():
        TF.adaptive_avg_pool2d(x, 1).relu_().sum().backward()
    assert x.grad is not None


def test_the_example_runs():
    assert doctest.testmod(constants).failed == 0
