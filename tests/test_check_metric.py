"""The check of metrics: ours are timm's and torch's, and each way of counting otherwise fails in its own rows."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import check_metric
from alignment.check_metric import CLASSES, FEW, SAMPLES, Logits
from alignment.command import CheckOptions
from paddle_dla import metrics

SMALL = "dla46x_c"
RANKED = {f"{ranks} ranks" for ranks in check_metric.RANKS}


@pytest.fixture
def fewer(monkeypatch):
    """Without the reassessed labels of 50,000 images."""
    monkeypatch.setattr(check_metric, "real_rows", lambda seed: [])


def check(seed=0):
    return check_metric.check_metric(CheckOptions(model=SMALL, seed=seed), lambda line: None)


def red(result):
    """(metric, case) of what is not aligned."""
    return {(row.layer, row.direction) for row in result.rows if not row.aligned}


@pytest.mark.torch
def test_every_metric_is_timms():
    result = check()
    assert result.passed, result.verdict()
    assert {"logits", "large logits", "few classes", "ties", "all equal", "reassessed"} | RANKED == {
        row.direction for row in result.rows
    }
    metrics_compared = {row.layer for row in result.rows}
    assert {"top-1", "top-5", "loss", "mean of classes' top-1", "ReaL top-5", "each sample once"} <= metrics_compared


@pytest.mark.torch
def test_another_seed_is_other_logits(fewer):
    assert check(1).passed
    assert not np.array_equal(check_metric.draw_cases(0)["logits"].logits, check_metric.draw_cases(1)["logits"].logits)


def test_accuracies_are_far_from_none_and_all():
    """Otherwise most mistakes would not show."""
    drawn = check_metric.draw_cases(0)
    for case in ("logits", "large logits", "ties"):
        for k in (1, 5):
            assert 5 < metrics.top_k(check_metric.recorded(drawn[case]), k) < 95


def test_some_ties_decide_and_some_do_not():
    tied = check_metric.draw_cases(0)["ties"]
    for k in (1, 5):
        assert 0 < len(check_metric.without_ties(tied, k).labels) < SAMPLES


@pytest.mark.parametrize(("label", "k", "hit"), [(1, 1, 100.0), (2, 1, 0.0), (2, 2, 100.0), (0, 2, 0.0), (0, 3, 100.0)])
def test_equal_logits_count_in_the_order_of_their_labels(label, k, hit):
    drawn = Logits(np.float32([[1, 2, 2]]), np.array([label]))
    assert check_metric.counted_accuracy(drawn, k) == hit


# --- faults ----------------------------------------------------------------------------------------------------------


def padded_share(num_samples, rank, ranks):
    """As samplers that give each rank as many: filled up from the beginning."""
    each = -(-num_samples // ranks)
    return [index % num_samples for index in range(rank * each, (rank + 1) * each)]


@pytest.mark.torch
def test_padded_samples_that_count_twice_are_found(fewer, monkeypatch):
    monkeypatch.setattr(check_metric, "share", padded_share)
    result = check()
    assert red(result) == {("each sample once", f"{ranks} ranks") for ranks in check_metric.RANKS if SAMPLES % ranks}
    assert "shape [1004] instead of [1003]" in result.verdict()


@pytest.mark.torch
def test_a_dropped_last_batch_is_found(fewer, monkeypatch):
    whole = check_metric.Plan
    monkeypatch.setattr(check_metric, "Plan", lambda *args: whole(*args, drop_last=True))
    assert red(check()) == {("each sample once", case) for case in RANKED}


def wrong_axis(predictions, k):
    """The k first samples instead of the k likeliest classes."""
    hits = predictions.classes == predictions.labels[:, np.newaxis]
    return 100 * float(hits[:k].any(axis=1).sum() / len(predictions))


@pytest.mark.torch
def test_top_k_by_the_wrong_axis_is_found(fewer, monkeypatch):
    monkeypatch.setattr(metrics, "top_k", wrong_axis)
    found = red(check())
    assert {(name, case) for name in ("top-1", "top-5") for case in {"logits", "few classes", *RANKED}} <= found
    assert not {name for name, _ in found} & {"loss", "each sample once", "top-1 of each class"}


def mean_of_batch_means(predictions):
    size = check_metric.BATCH
    starts = range(0, len(predictions), size)
    return float(np.mean([predictions.losses[start : start + size].mean() for start in starts]))


@pytest.mark.torch
def test_a_mean_of_batch_means_is_found(fewer, monkeypatch):
    assert SAMPLES % check_metric.BATCH
    monkeypatch.setattr(metrics, "mean_loss", mean_of_batch_means)
    found = red(check())
    # where all logits are equal every batch has the same mean
    assert found == {("loss", case) for case in {"logits", "large logits", "few classes", "ties", *RANKED}}


def predicted(change):
    """``predictions_of`` with other logits."""
    right = metrics.predictions_of

    def wrong(logits, *args, **options):
        return right(change(logits), *args, **options)

    return wrong


@pytest.mark.torch
def test_a_loss_that_is_cut_off_is_found(fewer, monkeypatch):
    monkeypatch.setattr(check_metric, "predictions_of", predicted(lambda logits: logits.clip(logits.max() - 64)))
    assert ("loss", "large logits") in red(check())


@pytest.mark.torch
def test_ties_that_the_last_class_wins_are_found(fewer, monkeypatch):
    """The likeliest sorted in rising order and turned round: right but where logits are equal."""
    right = metrics.predictions_of

    def turned(logits, labels, indices, ranked=5):
        record = right(logits, labels, indices, ranked)
        record.classes[...] = np.argsort(logits, axis=1, kind="stable")[:, ::-1][:, : record.classes.shape[1]]
        return record

    monkeypatch.setattr(check_metric, "predictions_of", turned)
    found = red(check())
    assert {case for _, case in found} == {"ties", "all equal"}
    assert {name for name, _ in found} == {"top-1, equal ones by label", "top-5, equal ones by label"}


@pytest.mark.torch
def test_a_mean_over_samples_instead_of_classes_is_found(fewer, monkeypatch):
    right = metrics.per_class

    def by_samples(predictions, num_classes):
        columns = right(predictions, num_classes)
        return columns | {f"top{k}": np.full(num_classes, metrics.top_k(predictions, k)) for k in (1, 5)}

    monkeypatch.setattr(metrics, "per_class", by_samples)
    assert ("mean of classes' top-1", "few classes") in red(check())


@pytest.mark.torch
def test_a_top_5_of_the_few_classes_that_is_no_hit_is_found(fewer, monkeypatch):
    """Of fewer than five classes each label is among the five likeliest."""
    right = metrics.top_k

    def strict(predictions, k):
        return right(predictions, k) if predictions.classes.shape[1] >= k else 0.0

    monkeypatch.setattr(metrics, "top_k", strict)
    assert red(check()) == {("top-5", "few classes")}
    assert FEW < 5 < CLASSES


@pytest.mark.torch
def test_reassessed_labels_read_for_the_wrong_images_are_found(monkeypatch):
    right = metrics.real_accuracy

    def moved(predictions, names, real, k):
        following = {index: names[(index + 1) % len(names)] for index in names}
        return right(predictions, following, real, k)

    monkeypatch.setattr(metrics, "real_accuracy", moved)
    assert {name for name, _ in red(check())} == {"ReaL top-1", "ReaL top-5"}


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_the_exit_code_says_whether_metrics_are_aligned(fewer, monkeypatch, capsys):
    assert check_metric.main(["--model", SMALL]) == 0
    monkeypatch.setattr(metrics, "mean_loss", mean_of_batch_means)
    assert check_metric.main(["--model", SMALL]) == 1
    assert "NOT ALIGNED" in capsys.readouterr().out


def test_bad_usage_ends_with_2():
    with pytest.raises(SystemExit) as ended:
        check_metric.main(["--model", "dla61"])
    assert ended.value.code == 2
