"""Mistakes that are made in porting a network to Paddle, to be made on purpose in a correct port.

Each ``Fault`` says where it goes, what it does to the layer and what a comparison must then report. The layers are
found by what they are (a strided convolution, a residual block), so that a fault applies to any network that has such
a layer. Paddle only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle.nn.functional as F
from paddle import nn

from alignment.engine.result import COMPUTATION, CONFIG, MODE, STATE, WEIGHTS, WIRING
from alignment.faults import changes as do
from alignment.faults import targets as among
from alignment.faults import wiring as wire
from alignment.faults.targets import ROOT, NotApplicable, Target

FIRST, MIDDLE, LAST = 0.0, 0.5, 1.0
"""Where among the layers that qualify, in the order of the model: shallow, in between or deep."""


@dataclass(frozen=True)
class Fault:
    """One mistake: ``change`` is made to the layer that ``among`` chooses ``at`` a depth.

    ``kind`` and ``cause`` (a word that the cause must contain) are what must be reported of it, ``mode`` the mode of
    the comparison that shows it.
    """

    name: str
    description: str
    among: among.Among
    at: float
    change: do.Change
    kind: str
    cause: str
    mode: str = "eval"


@contextmanager
def injected(fault: Fault, model: nn.Layer, path: str | None = None) -> Iterator[tuple[str, ...]]:
    """``model`` with the fault in it, at ``path`` or where the fault's rule puts it; yields the layers at fault.

    It is in the fault's mode meanwhile, but for what the fault changes of that, and comes back as it was. Raises
    ``NotApplicable``.
    """
    chosen = [
        Target(model, name or ROOT, layer)
        for name, layer in model.named_sublayers(include_self=True)
        if (path is None and fault.among(name or ROOT, layer)) or (name or ROOT) == path
    ]
    if not chosen:
        raise NotApplicable("no such layer")
    target = chosen[round(fault.at * (len(chosen) - 1))]
    with _restored(model):
        model.train() if fault.mode == "train" else model.eval()
        more = fault.change(target)
        yield tuple(more) if more else (target.path,)


@contextmanager
def _restored(model: nn.Layer) -> Iterator[None]:
    layers = model.sublayers(include_self=True)
    attributes = [{k: _copied(v) for k, v in layer.__dict__.items()} for layer in layers]
    values = [(value, value.numpy().copy(), value.stop_gradient) for value in model.state_dict().values()]
    try:
        yield
    finally:
        for layer, kept in zip(layers, attributes):
            layer.__dict__.clear()
            layer.__dict__.update(kept)
        for value, array, stop in values:
            value.set_value(array)
            value.stop_gradient = stop


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value


BN, RELU, MAX, DROPOUT = (among.is_a(kind) for kind in (nn.BatchNorm2D, nn.ReLU, nn.MaxPool2D, nn.Dropout))


# fmt: off
FAULTS: tuple[Fault, ...] = (
    # name, what it is, which layers, how deep, what is done, kind, a word of the cause, mode
    Fault("bn_epsilon_1e-3", "BN with TensorFlow's epsilon", BN, MIDDLE, do.set_to(_epsilon=1e-3), CONFIG, "epsilon"),
    Fault("bn_epsilon_1e-6", "BN with a smaller epsilon", BN, LAST, do.set_to(_epsilon=1e-6), CONFIG, "epsilon"),
    Fault("bn_momentum_swapped", "torch's momentum of 0.1 taken as it is", BN, FIRST, do.set_to(_momentum=0.1),
          CONFIG, "momentum", "train"),
    Fault("bn_biased_variance", "Paddle's BN, which keeps the biased variance", BN, MIDDLE,
          do.another(do.plain_batch_norm), STATE, "biased", "train"),
    Fault("bn_stuck_in_train", "one BN never put into eval mode", BN, LAST, do.to_train,
          MODE, "training"),
    Fault("bn_frozen", "one BN never put into training mode", BN, FIRST, do.to_eval,
          MODE, "use_batch", "train"),
    Fault("bn_batch_statistics", "BN that normalises by the batch also in eval mode", BN, FIRST,
          do.computes(do.normalised), COMPUTATION, "batch statistics"),
    Fault("bn_functional_epsilon", "BN called with another epsilon than it has", BN, LAST,
          do.computes(do.normalised_otherwise), COMPUTATION, "epsilon"),
    Fault("bn_mean_variance_swapped", "running mean and variance exchanged", BN, MIDDLE,
          do.exchange("_mean", "_variance"), WEIGHTS, "running_var"),
    Fault("bn_weight_bias_swapped", "BN's weight and bias exchanged", BN, FIRST, do.exchange("weight", "bias"),
          WEIGHTS, "bias"),
    Fault("bn_default_statistics", "running statistics not loaded", BN, LAST, do.default_statistics,
          WEIGHTS, "default"),
    Fault("bn_statistics_never_updated", "BN that keeps its statistics in training", BN, FIRST,
          do.computes(do.keeping(lambda momentum: 1.0)), STATE, "never updated", "train"),
    Fault("bn_update_swapped", "BN that updates by the complement of its momentum", BN, LAST,
          do.computes(do.keeping(lambda momentum: 1 - momentum)), STATE, "momentum", "train"),
    Fault("conv_padding_1010", "padding on one side, first", among.conv(among.strided), FIRST,
          do.rebuilt(padding=[1, 0, 1, 0]), CONFIG, "padding"),
    Fault("conv_padding_0101", "padding on one side, last", among.conv(among.strided), LAST,
          do.rebuilt(padding=[0, 1, 0, 1]), CONFIG, "padding"),
    Fault("conv_padding_functional", "padding on one side, in the code", among.conv(among.strided), MIDDLE,
          do.convolved(padding=[0, 1, 0, 1]), COMPUTATION, "padding"),
    Fault("conv_padding_0", "no padding: the map shrinks", among.conv(among.plain3x3), MIDDLE, do.rebuilt(padding=0),
          CONFIG, "padding"),
    Fault("conv_padding_replicate", "padding by repeating the border", among.conv(among.plain3x3), FIRST,
          do.padded_by_border, COMPUTATION, "padding"),
    Fault("conv_stride_moved", "the stride on the other convolution of the block",
          lambda p, m: among.conv(among.strided)(p, m) and p.endswith(("conv1", "conv2")), LAST, do.move_stride,
          CONFIG, "stride"),
    Fault("conv_dilation", "a dilated convolution of the same size", among.conv(among.plain3x3), LAST,
          do.rebuilt(dilation=2, padding=2), CONFIG, "dilation"),
    Fault("conv_dilation_functional", "a dilated convolution, in the code", among.conv(among.plain3x3), FIRST,
          do.convolved(dilation=2, padding=2), COMPUTATION, "dilation"),
    Fault("conv_groups", "another number of groups", among.conv(lambda m: among.kernel(m) == 3), LAST, do.more_groups,
          CONFIG, "groups"),
    Fault("conv_weight_transposed", "input and output channels exchanged", among.conv(among.square1x1), MIDDLE,
          do.weights(lambda w: w.swapaxes(0, 1)), WEIGHTS, "transposed"),
    Fault("conv_weight_flipped", "kernels flipped, convolution for correlation", among.conv(among.plain3x3), LAST,
          do.weights(lambda w: w[:, :, ::-1, ::-1]), WEIGHTS, "flipped"),
    Fault("conv_weight_permuted", "output channels in another order", among.conv(lambda m: among.kernel(m) == 1),
          FIRST, do.weights(lambda w: do.shuffled(w, 0)), WEIGHTS, "permuted"),
    Fault("conv_weights_swapped", "the weights of two layers exchanged", among.conv(among.square), MIDDLE,
          do.swap_layers, WEIGHTS, "swapped"),
    Fault("conv_weight_scaled", "weights larger by 1e-4", among.conv(), LAST,
          do.weights(lambda w: w * np.float32(1 + 1e-4)), WEIGHTS, "scaled"),
    Fault("conv_weight_float16", "weights that went through float16", among.conv(), FIRST,
          do.weights(lambda w: w.astype(np.float16)), WEIGHTS, "float16"),
    Fault("conv_weight_frozen", "a weight that gets no gradient", among.conv(), MIDDLE, do.frozen,
          COMPUTATION, "no gradient"),
    Fault("conv_input_reversed", "BGR for RGB in the stem", among.stem, FIRST, do.before(lambda x: x.flip(1)),
          COMPUTATION, "reversed"),
    Fault("conv_in_float32", "a layer that computes in float32", among.conv(), LAST, do.computes(do.in_float32),
          COMPUTATION, "float32"),
    Fault("conv_float32_constant", "a constant that is kept in float32", among.conv(), MIDDLE,
          do.after(lambda y: y * float(np.float32(1.1)) / 1.1), COMPUTATION, "float32"),
    Fault("bias_missing", "a classifier without bias", among.classifier, LAST, do.rebuilt(bias_attr=False), CONFIG,
          "bias"),
    Fault("bias_zeroed", "a bias that was not loaded", among.classifier, LAST, do.weights(np.zeros_like, "bias"),
          WEIGHTS, "bias"),
    Fault("bias_left_out", "a bias that the code leaves out", among.classifier, LAST,
          do.computes(lambda fc, right: lambda x: right(x) - fc.bias.reshape([1, -1] + [1] * (x.ndim - 2))),
          COMPUTATION, "bias"),
    Fault("classes_permuted", "classes in another order", among.classifier, LAST,
          do.weights(lambda w: do.shuffled(w, 0)), WEIGHTS, "permuted"),
    Fault("relu_missing", "an identity in place of ReLU", RELU, MIDDLE, do.another(lambda m: nn.Identity()),
          CONFIG, "identity"),
    Fault("relu6", "ReLU6 in place of ReLU", RELU, FIRST, do.another(lambda m: nn.ReLU6()), CONFIG, "relu6"),
    Fault("leaky_relu", "LeakyReLU in place of ReLU", RELU, MIDDLE, do.another(lambda m: nn.LeakyReLU(0.01)),
          CONFIG, "leaky"),
    Fault("gelu", "GELU in place of ReLU", RELU, LAST, do.another(lambda m: nn.GELU()), CONFIG, "gelu"),
    Fault("swish", "Swish in place of ReLU", RELU, FIRST, do.another(lambda m: nn.Swish()), CONFIG, "silu"),
    Fault("relu_computes_leaky", "ReLU that leaks, in the code", RELU, LAST,
          do.of_input(lambda x: F.leaky_relu(x, 0.01)), COMPUTATION, "leaky"),
    Fault("relu_computes_gelu", "GELU, in the code", RELU, FIRST, do.of_input(F.gelu), COMPUTATION, "gelu"),
    Fault("relu_gradient_doubled", "a backward pass of one's own that is wrong", RELU, MIDDLE,
          do.before(lambda x: do.Doubled.apply(x)), COMPUTATION, "scaled by 2"),
    Fault("relu_gradient_straight", "a backward pass that ignores the sign", RELU, LAST,
          do.of_input(lambda x: x + (F.relu(x) - x).detach()), COMPUTATION, "gradient"),
    Fault("pool_average", "an average pool in place of a maximum", MAX, LAST,
          do.another(lambda m: nn.AvgPool2D(2, 2)), CONFIG, "avg"),
    Fault("pool_ceil_mode", "a pool that rounds its size up", MAX, MIDDLE,
          do.another(lambda m: nn.MaxPool2D(2, 2, ceil_mode=True)), CONFIG, "ceil_mode"),
    Fault("pool_kernel", "ResNet's 3x3 pool", MAX, FIRST, do.another(lambda m: nn.MaxPool2D(3, 2, 1)),
          CONFIG, "kernel_size"),
    Fault("pool_stride", "a pool without stride: the map does not shrink", MAX, LAST,
          do.another(lambda m: nn.MaxPool2D(2, 1)), CONFIG, "stride"),
    Fault("pool_computes_average", "an average pool, in the code", MAX, FIRST,
          do.of_input(lambda x: F.avg_pool2d(x, 2, 2)), COMPUTATION, "average"),
    Fault("pool_exclusive", "an average over the image alone, without the padding", among.average, FIRST,
          do.another(lambda m: nn.AvgPool2D(3, m.stride, 1, exclusive=True)), CONFIG, "count_include_pad"),
    Fault("pool_computes_exclusive", "the same, in the code", among.average, LAST,
          do.computes(lambda m, right: lambda x: F.avg_pool2d(x, 3, m.stride, 1, exclusive=True)),
          COMPUTATION, "padding"),
    Fault("global_pool_axes", "a mean over channels and rows", among.global_pool, LAST,
          do.of_input(lambda x: x.mean([1, 2], keepdim=True)), COMPUTATION, "axes"),
    Fault("global_pool_sum", "a sum in place of a mean", among.global_pool, LAST,
          do.of_input(lambda x: x.sum([2, 3], keepdim=True)), COMPUTATION, "scaled"),
    Fault("global_pool_max", "a global maximum", among.global_pool, LAST,
          do.of_input(lambda x: x.max([2, 3], keepdim=True)), COMPUTATION, "max"),
    Fault("dropout_rate", "another dropout rate", DROPOUT, LAST, do.another(lambda m: nn.Dropout(0.5)),
          CONFIG, "rate"),
    Fault("dropout_mode", "dropout that scales in evaluation, by another rate", DROPOUT, LAST,
          do.another(lambda m: nn.Dropout(0.3, mode="downscale_in_infer")), CONFIG, "rate"),
    Fault("dropout_stuck_in_train", "dropout never put into eval mode", DROPOUT, LAST,
          do.to_train, MODE, "training"),
    Fault("dropout_active", "dropout that is always on", DROPOUT, LAST,
          do.of_input(lambda x: F.dropout(x, 0.5, training=True)), COMPUTATION, "dropout"),
    Fault("root_concat_permuted", "children concatenated in another order", among.root, MIDDLE,
          wire.rooted(lambda root, c: wire.aggregated(root, [c[1], c[0], *c[2:]])), WIRING, "concat"),
    Fault("root_residual_added", "a residual where there is none", among.root, LAST,
          wire.rooted(lambda root, c: wire.aggregated(root, c) + c[0]), WIRING, "residual"),
    Fault("root_detached", "children aggregated without gradient", among.root, FIRST,
          wire.rooted(lambda root,
          c: wire.aggregated(root, [c[0], *(x.detach() for x in c[1:])])), WIRING, "detached"),
    Fault("block_residual_missing", "no residual", among.residual, LAST, wire.joined(lambda out, s, x: out),
          WIRING, "residual missing"),
    Fault("block_residual_scaled", "half the residual", among.residual, FIRST,
          wire.joined(lambda out, s, x: out + s * 0.5), WIRING, "residual scaled"),
    Fault("block_residual_from_within", "the residual taken from another tensor", among.uniform, MIDDLE,
          wire.from_within, WIRING, "residual"),
    Fault("block_extra_relu", "an activation before the addition", among.residual, MIDDLE,
          wire.joined(lambda out, s, x: F.relu(out) + s), WIRING, "relu"),
    Fault("block_relu_missing", "an activation left out between two convolutions", among.residual, LAST,
          wire.joined(wire.add, between=wire.unactivated), WIRING, "missing"),
    Fault("block_relu_other", "another activation between two convolutions, in the code", among.residual, FIRST,
          wire.joined(wire.add, between=lambda x, number: F.gelu(x)), WIRING, "gelu"),
    Fault("block_residual_detached", "a residual without gradient", among.residual, MIDDLE,
          wire.joined(lambda out, s, x: out + s.detach()), WIRING, "detached"),
    Fault("block_branch_detached", "a branch without gradient", among.residual, LAST,
          wire.joined(lambda out, s, x: out.detach() + s), WIRING, "detached"),
    Fault("block_gradient_scaled", "a residual with twice the gradient", among.residual, FIRST,
          wire.joined(wire.half_detached), WIRING, "scaled by 2"),
    Fault("cascade_missing", "groups that are not added up", lambda p, m: among.res2net(p, m) and not m.is_first,
          MIDDLE, wire.joined(wire.add, cascade=lambda last, group: group), WIRING, "residual"),
    Fault("cascade_order", "groups concatenated in the reverse order", among.res2net, FIRST,
          wire.joined(wire.add, order=lambda outs: outs[::-1]), WIRING, "concat"),
    Fault("tree_children_exchanged", "the two blocks of a tree in another order", among.tree, LAST,
          wire.planted(wire.children_exchanged), WIRING, "instead of"),
    Fault("tree_shortcut_kept", "the second block gets the first one's shortcut, too", among.tree, FIRST,
          wire.planted(wire.shortcut_twice), WIRING, "2 tensors instead of 1"),
    Fault("tree_root_left_out", "the last block's output for the root's", among.tree, MIDDLE,
          wire.planted(wire.last_child), WIRING, "root is missing"),
    Fault("tree_same_child_twice", "the first block's output in both places", among.tree, LAST,
          wire.planted(wire.same_child), WIRING, "tree1"),
    Fault("tree_aggregates_otherwise", "what a subtree aggregates, in another order", among.nested, LAST,
          do.computes(wire.forgotten), WIRING, "instead of"),
    Fault("sequence_relu_left_out", "an activation that is never called", among.chain, FIRST,
          wire.sequence(lambda layers: layers[:-1]), WIRING, "missing"),
    Fault("sequence_layer_twice", "an activation that is called twice", among.chain, LAST,
          wire.sequence(lambda layers: [*layers, layers[-1]]), WIRING, "more often"),
    Fault("input_reversed", "BGR for RGB before the model", among.whole_model, FIRST, do.before(lambda x: x.flip(1)),
          WIRING, "reversed"),
    Fault("output_scaled", "logits divided by a temperature", among.whole_model, FIRST, do.after(lambda y: y / 2.0),
          WIRING, "scaled"),
)
# fmt: on


def by_name(name: str) -> Fault:
    """The fault of this name. Raises ``KeyError`` that lists the names."""
    found = {fault.name: fault for fault in FAULTS}
    if name not in found:
        raise KeyError(f"no fault is called {name!r}; there are {', '.join(found)}")
    return found[name]
