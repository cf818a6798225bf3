"""One update: what it changes, what it leaves, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from small_steps import CLASSES, START, arrays, batch, changed, config, made, part, passed, update

from paddle_dla.ema import ModelEma
from paddle_dla.ranks import Ranks
from paddle_dla.training.assembly import create_network, freeze_as_told
from paddle_dla.training.errors import NonFiniteError, TrainingError
from paddle_dla.training.modes import running_statistics
from paddle_dla.training.plan import Plan, Position
from paddle_dla.training.start import build_learner
from paddle_dla.training.state import capture
from paddle_dla.training.step import TrainStep

# --- an update -------------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_batch():
    """With BatchNorm in evaluation mode, which otherwise sees each batch by itself. In float64: to its rounding."""
    whole, results = batch(6, dtype=np.float64), []
    for parts in ([whole], [part(whole, slice(0, 2)), part(whole, slice(2, 4)), part(whole, slice(4, 6))]):
        learner, step, _ = made("optimizer.clip_grad=null", dtype="float64")
        learner.network.eval()
        results.append((update(step, parts).grad_norm, arrays(learner.network)))
    (norm, one), (other_norm, other) = results
    # 1e6 roundings at most lie between the two sums
    assert norm == pytest.approx(other_norm, rel=1e6 * np.finfo(np.float64).eps)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-9)


def test_a_rewound_update_leaves_no_trace():
    learner, step, _ = made()
    before = arrays(learner.network)
    step.begin()
    step.accumulate(batch(), START, 1.0, True, passed)
    assert changed(before, arrays(learner.network))
    step.rewind()
    assert not changed(before, arrays(learner.network))
    assert all(parameter.grad is None for parameter in learner.network.parameters())


def test_after_an_update_there_is_nothing_to_undo():
    learner, step, _ = made()
    update(step, [batch()])
    before = arrays(learner.network)
    assert step.undoable
    step.rewind()
    assert not changed(before, arrays(learner.network))


def test_while_weights_change_nothing_can_be_undone():
    learner, step, _ = made()

    def fails():
        raise MemoryError

    learner.optimizer.step = fails
    with pytest.raises(MemoryError):
        update(step, [batch()])
    assert not step.undoable


def test_without_rewinding_the_statistics_have_moved():
    learner, step, _ = made()
    before = [tensor.numpy() for tensor in running_statistics(learner.network)]
    step.begin()
    step.accumulate(batch(), START, 1.0, True, passed)
    after = [tensor.numpy() for tensor in running_statistics(learner.network)]
    assert all((a != b).any() for a, b in zip(before, after))


def test_a_check_that_raises_comes_before_any_gradient():
    learner, step, _ = made()

    def refuses(loss):
        raise KeyError(loss)

    step.begin()
    with pytest.raises(KeyError):
        step.accumulate(batch(), START, 1.0, True, refuses)
    assert all(parameter.grad is None for parameter in learner.network.parameters())


def test_dropout_depends_on_the_position_alone():
    _learner, step, _ = made("model.drop_rate=0.5")

    def loss(at):
        step.begin()
        value = step.accumulate(batch(), at, 1.0, True, passed)
        step.rewind()
        return value

    assert loss(Position(1, 2)) == loss(Position(1, 2))
    assert len({loss(Position(epoch, number)) for epoch in (0, 1) for number in (0, 1)}) == 4


def test_the_rate_is_that_of_the_update():
    _learner, step, _wanted = made("schedule.warmup_epochs=1", "schedule.warmup_lr=0")
    made_at = [update(step, [batch()], number).lr for number in (0, 1, 2)]
    # an epoch of 10 updates to 0.01
    assert made_at == pytest.approx([0, 0.001, 0.002], rel=1e-12)


@pytest.mark.parametrize("overrides", [("optimizer.clip_mode=norm",), ("optimizer.clip_mode=value",)])
def test_gradients_are_clipped_before_the_update(overrides):
    limit = 1e-3
    moves = []
    for clip in ("null", limit):
        learner, step, _ = made(
            f"optimizer.clip_grad={clip}",
            "optimizer.name=sgd",
            "optimizer.weight_decay=0",
            "schedule.warmup_epochs=0",
            *overrides,
        )
        before = arrays(learner.network)
        done = update(step, [batch()])
        after = arrays(learner.network)
        names = [name for name, _ in learner.optimizer.named_parameters()]
        moves.append({name: (before[name].astype(np.float64) - after[name]) / done.lr for name in names})
    free, clipped = moves
    norm = math.sqrt(sum((move**2).sum() for move in clipped.values()))
    largest = max(abs(move).max() for move in clipped.values())
    # weights are of size 1 in float32, so that a move of lr * limit is known to 1e-7 / 1e-5
    if "norm" in overrides[0]:
        assert norm == pytest.approx(limit, rel=0.05)
        assert math.sqrt(sum((move**2).sum() for move in free.values())) > 10 * limit
    else:
        assert largest == pytest.approx(limit, rel=0.05)
        assert max(abs(move).max() for move in free.values()) > 10 * limit


def test_the_average_is_updated_once_with_its_step():
    learner, step, _ = made("ema.decay=0.5", "ema.warmup=false")
    twin = ModelEma(learner.network, 0.5)
    for number in range(3):
        update(step, [batch(seed=number), batch(seed=number + 9)], number)
        twin.update(learner.network, number + 1)
    found, expected = learner.ema.state_dict(), twin.state_dict()
    assert all(found[name].numpy().tobytes() == expected[name].numpy().tobytes() for name in expected)


def test_recomputation_makes_the_same_update():
    """Weights in float32, gradients summed in the same order: to rounding."""
    results = []
    for recompute in ("false", "true"):
        learner, step, _ = made(f"train.recompute={recompute}")
        update(step, [batch()])
        results.append(arrays(learner.network))
    for name in results[0]:
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-4, atol=1e-6)


# --- frozen ----------------------------------------------------------------------------------------------------------


def test_frozen_layers_stay_to_the_bit_with_their_statistics():
    learner, step, _ = made("train.freeze=[base_layer, level0, level2.tree1]")
    before = arrays(learner.network)
    update(step, [batch()])
    moved = changed(before, arrays(learner.network))
    assert not [name for name in moved if name.startswith(("base_layer", "level0", "level2.tree1"))]
    assert {"fc.weight", "level1.1._mean", "level2.root.conv.weight"} <= moved


def test_a_linear_probe_trains_the_classifier_alone():
    learner, step, _ = probe()
    before = arrays(learner.network)
    update(step, [batch()])
    assert changed(before, arrays(learner.network)) == {"fc.weight", "fc.bias"}


def probe():
    wanted = config()
    wanted = replace(wanted, train=replace(wanted.train, linear_probe=True))
    learner = build_learner(wanted, Plan(3, 10, 1, 4), CLASSES)
    learner.frozen.train(learner.network)
    return learner, TrainStep(learner, wanted, Ranks()), wanted


def test_dropout_stays_on_in_a_linear_probe():
    wanted = replace(config("model.drop_rate=0.5"), train=replace(config().train, linear_probe=True))
    network = create_network(wanted, CLASSES)
    freeze_as_told(wanted, network).train(network)
    assert network.head_drop.training
    assert not network.level3.training


def test_a_prefix_that_no_layer_has_is_an_error():
    wanted = config("train.freeze=[level2.nonsense]")
    with pytest.raises(TrainingError, match=r"train\.freeze.*level2\.nonsense"):
        freeze_as_told(wanted, create_network(wanted, CLASSES))


# --- not finite ------------------------------------------------------------------------------------------------------


def poison(network, name, value=math.nan):
    parameter = dict(network.named_parameters())[name]
    spoilt = parameter.numpy()
    spoilt.reshape(-1)[0] = value
    parameter.set_value(spoilt)


@pytest.mark.parametrize("layer", ["base_layer.0", "level3.tree1.tree1.conv2", "fc"])
def test_the_first_layer_that_is_not_finite_is_named(layer):
    learner, step, _ = made()
    poison(learner.network, f"{layer}.weight")
    step.begin()
    step.rewind()
    assert f"is {layer} (Conv2D), whose weight is not finite already" in step.diagnosis(batch(), START)


def test_an_overflow_names_the_layer_where_it_happens():
    learner, step, _ = made()
    layer = learner.network.level4.tree1.tree1.conv1
    layer.weight.set_value(layer.weight.numpy() * 1e38)
    step.begin()
    diagnosis = step.diagnosis(batch(), START)
    assert "is level4.tree1.tree1.conv1 (Conv2D), whose weights are finite" in diagnosis


def test_images_that_are_not_finite_are_named():
    _, step, _ = made()
    spoilt = batch()
    spoilt.images[1, 2, 3, 4] = math.inf
    step.begin()
    assert step.diagnosis(spoilt, START) == "the images themselves are not finite"


def test_a_diagnosis_leaves_no_trace():
    learner, step, _ = made()
    poison(learner.network, "fc.weight")
    before = arrays(learner.network)
    step.begin()
    step.diagnosis(batch(), START)
    assert not changed(before, arrays(learner.network))


def test_a_gradient_that_is_not_finite_changes_no_weight():
    learner, step, _ = made()
    learner.network.level1[0].weight.register_hook(lambda gradient: gradient * math.inf)
    step.begin()
    step.accumulate(batch(), START, 1.0, True, passed)
    before = arrays(learner.network)
    with pytest.raises(NonFiniteError, match=r"level1\.0\.weight"):
        step.finish(0)
    assert step.undoable
    assert not changed(before, arrays(learner.network))


@pytest.mark.parametrize("of", ["weight", "average"])
def test_no_checkpoint_is_made_of_what_is_not_finite(of):
    from paddle_dla.training.state import Circumstances

    learner, _, wanted = made()
    if of == "weight":
        poison(learner.network, "level0.0.weight")
    else:
        learner.ema.state_dict()["level0.0.weight"].fill_(math.inf)
    around = Circumstances(wanted, Plan(3, 10), CLASSES, None, "cpu", 1)
    with pytest.raises(NonFiniteError, match=rf"{of}.*level0\.0\.weight"):
        capture(learner, around, START, None)
