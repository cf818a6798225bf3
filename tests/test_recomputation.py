"""Recomputed blocks train as blocks that keep their activations: the same gradients, statistics and random numbers."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from each import each
from paddle import nn

from paddle_dla import create_model
from paddle_dla.models.layers import BatchNorm2D
from paddle_dla.models.recomputation import blocks_of, recompute_blocks
from paddle_dla.models.registry import ModelError

WIDTH = 6


class DropPath(nn.Layer):
    def forward(self, x):
        return x * paddle.bernoulli(paddle.full([x.shape[0]] + [1] * (x.ndim - 1), 0.5, x.dtype)) / 0.5


class Convolutions(nn.Layer):
    """A residual of two convolutions with batch normalisation of the given kind."""

    def __init__(self, norm):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2D(WIDTH, 2 * WIDTH, 3, padding=1), norm(2 * WIDTH)
        self.conv2, self.norm2 = nn.Conv2D(2 * WIDTH, WIDTH, 3, padding=1), norm(WIDTH)
        self.drop_path = DropPath()

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return x + (self.drop_path(y) if self.training else y)


class Pyramid(nn.Layer):
    """A stem and stages of ``Convolutions``."""

    def __init__(self, norm=nn.BatchNorm2D, stages=(2, 1)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, WIDTH, 3, 2, 1), norm(WIDTH), nn.ReLU(), nn.Conv2D(WIDTH, WIDTH, 1))
        self.stages = nn.Sequential(*[nn.Sequential(*[Convolutions(norm) for _ in range(n)]) for n in stages])
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean([2, 3]))


class Mixing(nn.Layer):
    """Two linear layers with dropout, of several arguments and outputs, some of them no tensors or no real numbers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.drop, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("calls", paddle.zeros([1]))

    def forward(self, x, kept, scale, order, mask=None):
        with paddle.no_grad():
            paddle.assign(self.calls + 1, self.calls)
        y = self.drop(F.gelu(self.fc1(x * scale + kept["bias"]))).index_select(order, 1)
        y = y if mask is None else y * mask
        return (x + self.fc2(y * self.calls.clone()), x), {"order": order, "kept": kept}


class Sequence(nn.Layer):
    """``Mixing`` over tokens; the first block is called twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, WIDTH)
        self.bias = self.create_parameter([WIDTH])
        self.blocks = nn.LayerList([Mixing() for _ in range(2)])
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose([0, 2, 1]))
        order, mask = paddle.arange(x.shape[1] - 1, -1, -1), paddle.ones([1, x.shape[1], 1], x.dtype)
        kept = {"bias": self.bias}
        for block in (self.blocks[0], self.blocks[0], self.blocks[1]):
            (x, before), told = block(x, kept, 0.5, order, mask=mask)
            kept, order = told["kept"], told["order"]
        return self.head(paddle.concat([x, before], -1).mean(1))


def ported(name, side, **options):
    """A function that makes a port of timm's model ``name``, which draws at random in training."""

    def build():
        torch = pytest.importorskip("torch")
        from translating import Port

        from torch_ref.model import import_timm

        torch.manual_seed(0)
        module = import_timm().create_model(name, num_classes=5, **options).eval()
        return Port.of(module, (torch.randn(2, 3, side, side, dtype=torch.float64),)).model("float64")

    return build


SWIN = dict(img_size=56, embed_dim=12, depths=(2, 2), num_heads=(2, 4), drop_path_rate=0.5, attn_drop_rate=0.1)
NETWORKS = {
    "paddle's BatchNorm": (8, Pyramid),
    "torch's BatchNorm": (8, lambda: Pyramid(BatchNorm2D)),
    "arguments": (8, Sequence),
}
PORTS = {
    "resnet": (64, ported("test_resnet", 64, drop_path_rate=0.5)),
    "efficientnet": (64, ported("test_efficientnet", 64, drop_path_rate=0.5)),
    "vit": (32, ported("test_vit", 32, img_size=32, drop_path_rate=0.5, proj_drop_rate=0.1)),
    "swin": (56, ported("swin_tiny_patch4_window7_224", 56, **SWIN)),
}
ALL = [
    *NETWORKS,
    *(pytest.param(name, marks=pytest.mark.torch) for name in ("resnet", "vit")),
    *(pytest.param(name, marks=pytest.mark.heavy) for name in ("efficientnet", "swin")),
]


def made(name, recompute=True, frozen=""):
    """A network in training mode, and images for it."""
    side, build = (NETWORKS | PORTS)[name]
    paddle.seed(0)
    network = build()
    if name in NETWORKS:  # of a port it would cast the indices, too
        network.to(dtype="float64")
    network.train()
    for key, parameter in network.named_parameters():
        parameter.stop_gradient |= bool(frozen) and key.startswith(frozen)
    if recompute:
        assert recompute_blocks(network)
    return network, paddle.to_tensor(np.random.RandomState(0).standard_normal((4, 3, side, side)))


def stepped(network, images):
    """Gradients, the state, and losses and what is drawn next, after two backward passes."""
    paddle.seed(1)
    losses = []
    for _ in range(2):
        loss = network(images).square().mean()
        loss.backward()
        losses.append(loss.numpy())
    gradients = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    return gradients, state, dict(enumerate([*losses, paddle.rand([3]).numpy()]))


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def check(name, frozen=""):
    kept, recomputed = (stepped(*made(name, recompute, frozen)) for recompute in (False, True))
    assert kept[0] and kept[0].keys() == recomputed[0].keys()
    for key, gradient in kept[0].items():
        # the gradients of a block that is called twice are added to those of the step before in another order
        limit = 1e-15 * np.abs(gradient).max() if name == "arguments" else 0
        np.testing.assert_allclose(recomputed[0][key], gradient, rtol=0, atol=limit, err_msg=key)
    assert same(kept[1], recomputed[1]), "statistics"
    assert same(kept[2], recomputed[2]), "losses, and what is drawn next"


@pytest.mark.parametrize("name", ALL)
def test_recomputation_changes_neither_gradients_nor_statistics_nor_draws(name):
    check(name)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [(name, frozen) for name in ("paddle's BatchNorm", "torch's BatchNorm") for frozen in ("stem", "st", "stages.0.0")]
    + [("arguments", frozen) for frozen in ("embed", "bias", "blocks.0")],
)
def test_any_part_may_be_frozen(name, frozen):
    check(name, frozen)


def held(network, images):
    """How many numbers a forward pass keeps for backward."""
    sizes = []
    with paddle.autograd.saved_tensors_hooks(lambda tensor: sizes.append(tensor.size) or tensor, lambda tensor: tensor):
        network(images)
    return sum(sizes)


@pytest.mark.parametrize("name", ["paddle's BatchNorm", *ALL[3:]])
def test_recomputation_keeps_fewer_activations(name):
    network, images = made(name)
    fewer = held(network, images)
    assert recompute_blocks(network, enable=False)
    assert fewer < 0.6 * held(network, images)


def counted(network):
    """A list that grows with each run of a block of convolutions."""
    calls = []
    for block in blocks_of(network).values():
        block.conv1.register_forward_post_hook(lambda *_: calls.append(1))
    return calls


def test_blocks_behind_a_frozen_stem_are_recomputed():
    network, images = made("torch's BatchNorm", frozen="stem")
    calls = counted(network)
    network(images).mean().backward()
    assert len(calls) == 2 * 3


def test_a_block_with_a_layer_that_is_asked_for_is_left_out():
    network, images = made("torch's BatchNorm", recompute=False)
    assert recompute_blocks(network, visible=["stages.0.1.conv2", "stages.1"]) == ["stages.0.0", "stages.1.0"]
    seen = []
    network.stages[0][1].conv2.register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    network(images)
    assert [output.stop_gradient for output in seen] == [False]


def test_evaluation_and_a_pass_without_gradients_run_the_blocks_once():
    network, images = made("torch's BatchNorm")
    calls = counted(network)
    with paddle.no_grad():
        network(images)
    network.eval()
    network(images).mean().backward()
    assert len(calls) == 2 * 3
    network.train()
    network(images).mean().backward()
    assert len(calls) == 4 * 3


class Stage(nn.Layer):
    """A layer with blocks in it, and what is no block."""

    def __init__(self, blocks):
        super().__init__()
        self.downsample = nn.Sequential(nn.Conv2D(WIDTH, WIDTH, 1), nn.Conv2D(WIDTH, WIDTH, 1))
        self.blocks = nn.LayerList([Convolutions(nn.BatchNorm2D) for _ in range(blocks)])


class Named(nn.Layer):
    """Blocks that are attributes."""

    def __init__(self, kind, count=2):
        super().__init__()
        for place in range(count):
            self.add_sublayer(f"b{place}", kind())


class Single(nn.Layer):
    """A convolution and its normalisation: one weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2D(WIDTH, WIDTH, 1), nn.BatchNorm2D(WIDTH)


Convolutions2 = type("Convolutions2", (Convolutions,), {})
LAYOUTS = {
    "blocks, not stages": (lambda: nn.Sequential(Stage(2), Stage(1)), ["0.blocks.0", "0.blocks.1", "1.blocks.0"]),
    "stages of one block": (lambda: Pyramid(stages=(1, 1)), ["stages.0.0", "stages.1.0"]),
    "an only block beside others": (
        lambda: nn.Sequential(nn.Sequential(Mixing()), nn.Sequential(*[Convolutions(nn.BatchNorm2D) for _ in "ab"])),
        ["0.0", "1.0", "1.1"],
    ),
    "classes with a number": (
        lambda: nn.Sequential(Convolutions(nn.BatchNorm2D), Convolutions2(nn.BatchNorm2D)), ["0", "1"],
    ),
    "attributes": (lambda: Named(Mixing), ["b0", "b1"]),
    "one weight": (lambda: nn.Sequential(Single(), Single(), nn.Linear(2, 2)), ["0", "1"]),
    "nothing": (lambda: nn.Sequential(nn.Conv2D(3, 3, 1), nn.Conv2D(3, 3, 1), Named(Mixing, 1)), []),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_are_what_repeats(name):
    build, names = LAYOUTS[name]
    assert [*blocks_of(build())] == names


def numbered(pattern, depths):
    return {pattern.format(stage, block) for stage, depth in enumerate(depths) for block in range(depth)}


TIMM = {
    "resnet50": (32, numbered("layer{}.{}", (0, 3, 4, 6, 3))),
    "convnext_atto": (32, numbered("stages.{}.blocks.{}", (2, 2, 6, 2))),
    "vit_tiny_patch16_224": (224, numbered("blocks.{1}", (12,))),
    "swin_tiny_patch4_window7_224": (224, numbered("layers.{}.blocks.{}", (2, 2, 6, 2))),
    "tf_efficientnet_lite0": (32, numbered("blocks.{}.{}", (1, 2, 2, 3, 3, 4, 1))),
}


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", each(TIMM, ("convnext_atto", "vit_tiny_patch16_224")))
def test_blocks_of_timms_models_are_those_of_its_source(name):
    side, names = TIMM[name]
    assert blocks_of(ported(name, side)()).keys() == names


def test_a_network_without_repeated_blocks_says_so():
    network = create_model("made_ports:ByHand")
    with pytest.raises(ModelError, match="by_hand"):
        network.set_grad_checkpointing()
    network.set_grad_checkpointing(False)
