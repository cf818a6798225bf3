"""What a config becomes: loss, optimizer, mixing, data, teacher; and what it cannot become."""

from __future__ import annotations

import math

import paddle
import pytest
from small_runs import make_images, small_config
from small_steps import CLASSES, PLAIN, arrays, batch, changed, config, made, update

from paddle_dla.config import ConfigError
from paddle_dla.data.errors import DataError
from paddle_dla.losses import (
    SSLD,
    BinaryCrossEntropy,
    CrossEntropy,
    Distillation,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from paddle_dla.models.registry import ModelError
from paddle_dla.optim import SGD, AdamW, Lamb
from paddle_dla.ranks import Ranks
from paddle_dla.training.assembly import build_optimizer, create_criterion, create_loss, create_network, freeze_as_told
from paddle_dla.training.datasets import mixup, open_datasets, sample_transform, train_loader
from paddle_dla.training.errors import TrainingError
from paddle_dla.training.modes import Frozen
from paddle_dla.training.plan import Plan
from paddle_dla.training.start import images_to_train_on, use_device
from paddle_dla.training.state import score_of


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


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
    wanted = small_config("data", "run", "mixing.prob=0.7", "mixing.mode=elem", "mixing.off_epoch=1")
    found = mixup(wanted, CLASSES)
    assert (found.label_smoothing, found.num_classes) == (0.1, CLASSES)
    assert (found.mixup_alpha, found.cutmix_alpha, found.prob) == (0.4, 1.0, 0.7)
    assert (found.mode, found.off_epoch) == ("elem", 1)


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
    from paddle_dla import weight_files
    from paddle_dla.storage.manifest import describe

    network = create_network(config("model.name=dla46_c", "train.seed=7"), CLASSES)
    weights = arrays(network)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pdparams"
    tensors = {name: describe(array) for name, array in weights.items()}
    weight_files.save(path, weights, {"format": 1, "model": "dla46_c", "tensors": tensors})
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


def test_a_network_without_blocks_cannot_be_recomputed():
    wanted = config("model.name=made_ports:ByHand", f"model.num_classes={CLASSES}", "train.recompute=true")
    with pytest.raises(ModelError, match=r"train\.recompute: false"):
        create_network(wanted, CLASSES)


@pytest.mark.parametrize(("count", "repeats", "expected"), [
    (40, 0, "40 images to train on"),
    (43, 0, "43 images to train on, 3 of them left out of each epoch (the last batch would be incomplete)"),
    (39, 0, "39 images to train on"),  # one is drawn twice, so that each of two processes has as many
    (43, 3, "43 images to train on"),  # each image is drawn several times
])  # fmt: skip
def test_images_of_an_incomplete_batch_are_counted(count, repeats, expected):
    plan = Plan(epochs=1, batches=5, batch_size=4, ranks=2)
    settings = config(f"transform.train.aug_repeats={repeats}")
    assert images_to_train_on(settings, plan, count) == expected
