"""One update: what it changes, what it leaves, what it refuses; and what a config becomes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import paddle
import pytest
from small_runs import make_images, small_config

from paddle_dla.config import ConfigError
from paddle_dla.data.batch import Batch
from paddle_dla.data.errors import DataError
from paddle_dla.ema import ModelEma
from paddle_dla.losses import (
    SSLD,
    BinaryCrossEntropy,
    CrossEntropy,
    Distillation,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from paddle_dla.optim import SGD, AdamW, Lamb
from paddle_dla.ranks import Ranks
from paddle_dla.training.assembly import build_optimizer, create_criterion, create_loss, create_network, freeze_as_told
from paddle_dla.training.datasets import mixup, open_datasets, sample_transform, train_loader
from paddle_dla.training.errors import NonFiniteError, TrainingError
from paddle_dla.training.modes import Frozen, running_statistics
from paddle_dla.training.plan import Plan, Position
from paddle_dla.training.start import build_learner, use_device
from paddle_dla.training.state import capture, score_of
from paddle_dla.training.step import TrainStep

CLASSES = 4
START = Position()
PLAIN = ("mixing.mixup_alpha=0", "mixing.cutmix_alpha=0", "model.drop_rate=0", "train.grad_accum_steps=1")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def config(*overrides):
    return small_config("data", "run", *PLAIN, *overrides)


def batch(size=4, seed=0, dtype=np.float32):
    rng = np.random.RandomState(seed)
    return Batch(rng.standard_normal((size, 3, 32, 32)).astype(dtype), rng.randint(0, CLASSES, size), np.arange(size))


def part(whole, place):
    return Batch(whole.images[place], whole.labels[place], whole.indices[place])


def made(*overrides, dtype="float32"):
    """A step of a small network, and all that it is made of."""
    wanted = config(*overrides)
    plan = Plan(wanted.total_epochs, 10, wanted.train.grad_accum_steps, 4)
    learner = build_learner(wanted, plan, CLASSES)
    if dtype == "float64":
        learner.network.to(dtype=dtype)
        optimizer = build_optimizer(wanted, learner.network, 0.1)
        learner = replace(learner, optimizer=optimizer, ema=None)
    learner.frozen.train(learner.network)
    return learner, TrainStep(learner, wanted, Ranks()), wanted


def arrays(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def changed(before, after):
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def passed(loss):
    return loss


def update(step, batches, number=0, at=START):
    step.begin()
    for place, item in enumerate(batches):
        here = Position(at.epoch, at.batch + place)
        step.accumulate(item, here, 1 / len(batches), place + 1 == len(batches), passed)
    return step.finish(number)


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


# --- what a config becomes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.smoothing=0"], CrossEntropy()),
        (["loss.smoothing=0.1"], LabelSmoothingCrossEntropy(0.1)),
        (["mixing.mixup_alpha=0.2"], SoftTargetCrossEntropy()),
        (["loss.name=bce", "loss.smoothing=0"], BinaryCrossEntropy(0.0)),
        (["loss.name=bce", "loss.smoothing=0.1", "loss.bce_sum=true"], BinaryCrossEntropy(0.1, sum_classes=True)),
        # as in timm: mixup has smoothed already
        (
            ["loss.name=bce", "mixing.mixup_alpha=0.2", "loss.bce_target_thresh=0.2"],
            BinaryCrossEntropy(0.0, target_threshold=0.2),
        ),
    ],
)
def test_the_loss_is_as_told(overrides, expected):
    assert create_loss(config(*overrides)) == expected


@pytest.mark.parametrize(
    ("overrides", "kind", "expected"),
    [
        (["optimizer.name=nesterov"], SGD, {"momentum": 0.9, "nesterov": True}),
        (["optimizer.name=momentum", "optimizer.momentum=0.8"], SGD, {"momentum": 0.8, "nesterov": False}),
        (["optimizer.name=sgd"], SGD, {"momentum": 0.0, "nesterov": False}),
        (["optimizer.name=adamw"], AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
        (
            ["optimizer.name=adamw", "optimizer.betas=[0.8, 0.99]", "optimizer.eps=1e-3"],
            AdamW,
            {"betas": (0.8, 0.99), "eps": 1e-3},
        ),
        (["optimizer.name=lamb", "optimizer.clip_grad=null"], Lamb, {"max_grad_norm": 1.0, "eps": 1e-6}),
        (["optimizer.name=lamb", "optimizer.clip_grad=3"], Lamb, {"max_grad_norm": 3.0}),
    ],
)
def test_the_optimizer_is_as_told(overrides, kind, expected):
    wanted = config(*overrides)
    optimizer = build_optimizer(wanted, create_network(wanted, CLASSES), 0.1)
    assert type(optimizer) is kind
    assert {name: getattr(optimizer, name) for name in expected} == expected


def test_weight_decay_leaves_norms_and_biases_out():
    optimizer = build_optimizer(config(), create_network(config(), CLASSES), 0.1)
    decays = {name: group.weight_decay for group in optimizer.groups for name in group.parameters}
    assert decays["fc.bias"] == decays["base_layer.1.weight"] == 0
    assert decays["fc.weight"] == decays["base_layer.0.weight"] == 1e-4


def test_mixing_is_told_the_smoothing():
    wanted = small_config("data", "run", "mixing.prob=0.7", "mixing.mode=elem", "mixing.off_epoch=2")
    found = mixup(wanted, CLASSES)
    assert (found.label_smoothing, found.num_classes) == (0.1, CLASSES)
    assert (found.mixup_alpha, found.cutmix_alpha, found.prob, found.mode, found.off_epoch) == (
        0.4,
        1.0,
        0.7,
        "elem",
        2,
    )


def test_a_bad_policy_fails_before_anything_starts():
    with pytest.raises(ValueError, match="rand-x9"):
        sample_transform(config("transform.train.auto_augment=rand-x9"))


@pytest.mark.parametrize(
    ("override", "said"),
    [("train.amp=float16", "no mixed precision on CPU"), ("train.sync_bn=true", "no CPU kernel")],
)
def test_what_a_cpu_cannot_do_is_said(override, said):
    if paddle.device.is_compiled_with_cuda():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=said):
        use_device(config(override), Ranks())


@pytest.mark.parametrize(
    ("scores", "metric", "expected"),
    [
        ({"top1": 70.0, "loss": 2.0}, "top1", 70.0),
        ({"top1": 70.0, "loss": 2.0}, "loss", -2.0),
        ({"top1": 70.0, "ema_top1": 71.0}, "top1", 71.0),
        ({"loss": math.nan}, "loss", None),
    ],
)
def test_the_score_is_larger_where_it_is_better(scores, metric, expected):
    assert score_of(scores, metric) == expected


# --- data ------------------------------------------------------------------------------------------------------------


def opened(images, *overrides):
    wanted = small_config(images, "run", "data.workers=0", *overrides)
    return wanted, open_datasets(wanted)


def seen(images, ranks, *overrides, **options):
    wanted, datasets = opened(images, *overrides)
    return [
        [tuple(item.indices.tolist()) for item in train_loader(wanted, datasets, Ranks(rank, ranks), **options)]
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_take_as_many_steps_and_share_the_images(images, ranks):
    parts = seen(images, ranks)
    assert len({len(part) for part in parts}) == 1
    assert all(len(item) == 4 for part in parts for item in part)
    flat = [index for part in parts for item in part for index in item]
    assert len(set(flat)) >= 0.9 * len(flat)


def test_epochs_differ_and_repeat_themselves(images):
    assert seen(images, 1, epoch=1) == seen(images, 1, epoch=1) != seen(images, 1, epoch=2)


def test_a_start_within_an_epoch_leaves_out_what_was_done(images):
    assert seen(images, 2, start_batch=2) == [part[2:] for part in seen(images, 2)]


def test_repeated_augmentation_repeats(images):
    ((*parts,),) = seen(images, 1, "transform.train.aug_repeats=3")
    flat = [index for item in parts for index in item]
    assert len(flat) > 2 * len(set(flat))


def test_classes_are_counted_where_nothing_says_how_many(images):
    _wanted, datasets = opened(images, "model.num_classes=null", *PLAIN)
    assert datasets.num_classes == CLASSES


def test_fewer_images_than_a_batch_is_an_error(images):
    wanted, datasets = opened(images, "data.batch_size=64")
    with pytest.raises(TrainingError, match=r"40 images an epoch, fewer than data\.batch_size \(64\)"):
        train_loader(wanted, datasets, Ranks())


def test_no_training_data_is_an_error(images):
    with pytest.raises(TrainingError, match=r"set data\.train"):
        opened(images, "data.train=null")


def test_other_classes_in_validation_are_an_error(images, tmp_path):
    """Without class1 all later labels would be one too small."""
    for label in (0, 2, 3):
        place = tmp_path / "val" / f"class{label}"
        place.mkdir(parents=True)
        (place / "0.png").symlink_to(images / "val" / f"class{label}" / "0.png")
    with pytest.raises(DataError, match="class1"):
        opened(images, f"data.val={tmp_path / 'val'}")


# --- a teacher -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A converted checkpoint of another variant."""
    from paddle_dla import checkpoint
    from paddle_dla.storage.manifest import describe

    network = create_network(config("model.name=dla46_c", "train.seed=7"), CLASSES)
    weights = arrays(network)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pdparams"
    tensors = {name: describe(array) for name, array in weights.items()}
    checkpoint.save(path, weights, {"format": 1, "model": "dla46_c", "tensors": tensors})
    return path


def taught(teacher, *overrides):
    return (
        "loss.distillation.teacher=dla46_c",
        f"loss.distillation.checkpoint={teacher}",
        "loss.smoothing=0",
        *overrides,
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.distillation.alpha=0.3", "loss.distillation.temperature=2"], Distillation(0.7, temperature=2.0)),
        (["loss.distillation.kind=ssld"], SSLD()),
    ],
)
def test_a_teacher_is_weighted_as_told(teacher, overrides, expected):
    criterion = create_criterion(config(*taught(teacher, *overrides)), CLASSES)
    images, target = paddle.to_tensor(batch().images), paddle.to_tensor(batch().labels)
    logits = paddle.randn([4, CLASSES])
    answers = criterion.teacher(images)
    assert float(criterion(logits, target, images)) == float(expected(logits, target, answers))


def test_a_teacher_does_not_learn(teacher):
    learner, step, _ = made(*taught(teacher))
    before = arrays(learner.criterion.teacher)
    update(step, [batch()])
    assert not changed(before, arrays(learner.criterion.teacher))
    assert not learner.criterion.teacher.training


def test_a_teacher_of_other_classes_is_an_error(teacher):
    from paddle_dla.storage.errors import CheckpointError

    with pytest.raises(CheckpointError, match="has 4 classes, not 5"):
        create_criterion(config(*taught(teacher)), 5)


def test_a_teacher_that_sees_images_otherwise_is_an_error(teacher):
    other = config(*taught(teacher, "transform.mean=[0.5, 0.5, 0.5]"))
    with pytest.raises(TrainingError, match=r"set transform\.mean"):
        create_criterion(other, CLASSES)


def test_nothing_is_frozen_by_default():
    network = create_network(config(), CLASSES)
    assert freeze_as_told(config(), network) == Frozen()
