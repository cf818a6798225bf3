"""Accuracies and losses are timm's and torch's, and the same however the samples were split."""

import itertools

import numpy as np
import pytest

from paddle_dla import metrics
from paddle_dla.data.errors import DataError
from paddle_dla.data.labels import read_real_labels, read_subset
from paddle_dla.metrics import Predictions, merge, predictions_of

CLASSES, SAMPLES = 23, 211


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 3, (SAMPLES, CLASSES)).astype(np.float32)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, CLASSES, SAMPLES)


def record(logits, labels, **options):
    return predictions_of(logits, labels, np.arange(len(logits)), **options)


def same(left: Predictions, right: Predictions) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in Predictions.__dataclass_fields__)


@pytest.mark.torch
@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_timms(logits, labels, k):
    import torch

    from torch_ref.model import import_timm

    import_timm()
    from timm.utils import accuracy

    expected = float(accuracy(torch.tensor(logits), torch.tensor(labels), topk=(k,))[0])
    # timm sums in float32: 211 samples cost it at most 1e-5 of 100
    assert metrics.top_k(record(logits, labels), k) == pytest.approx(expected, abs=1e-5)


@pytest.mark.torch
def test_the_loss_is_torchs(logits, labels):
    import torch

    expected = float(torch.nn.functional.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels)))
    assert metrics.mean_loss(record(logits, labels)) == pytest.approx(expected, rel=1e-14)


def test_the_loss_of_a_sure_mistake_is_not_cut_off():
    record_of = record(np.array([[0.0, 300.0]]), np.array([0]))
    assert metrics.mean_loss(record_of) == 300


def test_probabilities_are_those_of_the_ranked_classes(logits, labels):
    found = record(logits, labels, ranked=CLASSES)
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    assert (np.diff(found.probabilities, axis=1) <= 0).all()
    assert np.array_equal(found.classes[:, 0], logits.argmax(axis=1))


def test_equal_logits_are_ranked_in_the_order_of_the_labels():
    assert record(np.zeros((1, 7)), np.array([4])).classes.tolist() == [[0, 1, 2, 3, 4]]


def test_fewer_classes_than_five_count_as_many_as_there_are():
    found = record(np.array([[1.0, 2.0, 3.0]]), np.array([0]))
    assert metrics.top_k(found, 1) == 0
    assert metrics.top_k(found, 5) == 100


@pytest.mark.parametrize("sizes", [(SAMPLES,), (1, SAMPLES - 1), (100, 100, 11), (0, SAMPLES)])
def test_any_split_merges_to_the_same(logits, labels, sizes):
    whole, ends = record(logits, labels), np.cumsum((0, *sizes))
    order = np.random.default_rng(2).permutation(SAMPLES)
    parts = [
        predictions_of(logits[rows], labels[rows], rows)
        for rows in (order[start:end] for start, end in itertools.pairwise(ends))
    ]
    assert same(merge(parts, SAMPLES), whole)


def test_a_sample_that_is_counted_twice_is_noticed(logits, labels):
    whole = record(logits, labels)
    with pytest.raises(ValueError, match="counted twice, the first with index 0"):
        merge([whole, record(logits[:1], labels[:1])])


def test_a_sample_that_is_left_out_is_noticed(logits, labels):
    with pytest.raises(ValueError, match="210 samples were evaluated where the source has 211"):
        merge([record(logits[:-1], labels[:-1])], SAMPLES)


def test_no_samples_are_a_record_too():
    assert len(merge([metrics.no_predictions(10), metrics.no_predictions(10)], 0)) == 0


@pytest.mark.parametrize("ranked", [1, 5, 10])
def test_a_rank_without_samples_merges_with_one_that_has_some(logits, labels, ranked):
    whole = record(logits, labels, ranked=ranked)
    assert same(merge([whole, metrics.no_predictions(CLASSES, ranked)], SAMPLES), whole)


def test_per_class_adds_up_to_the_whole(logits, labels):
    found = record(logits, labels)
    columns = metrics.per_class(found, CLASSES)
    assert columns["samples"].sum() == SAMPLES
    for k in (1, 5):
        weighted = np.nansum(columns[f"top{k}"] * columns["samples"]) / SAMPLES
        assert weighted == pytest.approx(metrics.top_k(found, k), rel=1e-13)


def test_a_class_without_samples_has_no_accuracy():
    columns = metrics.per_class(record(np.eye(3), np.array([0, 1, 1])), 4)
    assert np.isnan(columns["top1"][[2, 3]]).all()
    assert columns["top1"][:2].tolist() == [100, 50]


def test_confusion_counts_every_sample_in_its_cell(logits, labels):
    found = record(logits, labels)
    matrix = metrics.confusion(found, CLASSES)
    expected = np.zeros((CLASSES, CLASSES), int)
    for label, prediction in zip(labels, logits.argmax(axis=1)):
        expected[label, prediction] += 1
    assert np.array_equal(matrix, expected)
    assert 100 * np.trace(matrix) / SAMPLES == pytest.approx(metrics.top_k(found, 1), rel=1e-13)


def test_the_worst_confusions_are_mistakes_and_the_largest_first():
    matrix = np.array([[90, 3, 0], [7, 1, 0], [0, 2, 50]])
    assert metrics.worst_confusions(matrix, 10) == [(1, 0, 7), (0, 1, 3), (2, 1, 2)]
    assert metrics.worst_confusions(matrix, 1) == [(1, 0, 7)]


def test_a_subset_of_the_classes_is_ranked_within_itself(logits):
    subset = [20, 3, 11]
    found = record(logits, np.full(SAMPLES, 1), subset=subset)
    assert np.array_equal(found.classes[:, 0], logits[:, subset].argmax(axis=1))
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("k", [1, 5])
def test_reassessed_accuracy_is_timms(k):
    """Over the 50,000 names and the real labels that timm carries; predictions are made up."""
    import torch

    from torch_ref.model import import_timm

    import_timm()
    from timm.data import RealLabelsImagenet

    names = {index: f"val/ILSVRC2012_val_{index + 1:08d}.JPEG" for index in range(50_000)}
    theirs = RealLabelsImagenet(list(names.values()))
    logits = np.random.default_rng(3).normal(size=(50_000, 30)).astype(np.float32)
    theirs.add_result(torch.tensor(logits))
    found = record(logits, np.zeros(50_000, int))
    short = {index: name.split("/")[1] for index, name in names.items()}
    accuracy, counted = metrics.real_accuracy(found, short, theirs.real_labels, k)
    assert accuracy == pytest.approx(theirs.get_accuracy(k), rel=1e-13)
    assert counted == sum(bool(labels) for labels in theirs.real_labels.values())


def test_real_labels_are_read_in_both_forms(tmp_path):
    (tmp_path / "list.json").write_text("[[1, 2], []]")
    (tmp_path / "names.json").write_text('{"a.jpg": [3]}')
    expected = {"ILSVRC2012_val_00000001.JPEG": [1, 2], "ILSVRC2012_val_00000002.JPEG": []}
    assert read_real_labels(tmp_path / "list.json") == expected
    assert read_real_labels(tmp_path / "names.json") == {"a.jpg": [3]}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '[["a"]]', "[[-1]]", "[[true]]", '"text"'])
def test_other_files_are_no_real_labels(text, tmp_path):
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(DataError, match=r"real\.json"):
        read_real_labels(tmp_path / "real.json")


def test_a_subset_is_read_as_numbers_or_identifiers(tmp_path):
    (tmp_path / "numbers.txt").write_text("2\n\n0\n")
    (tmp_path / "names.txt").write_text("n3\nn1\n")
    ids = ["n1", "n2", "n3"]
    assert read_subset(tmp_path / "numbers.txt", (), 3) == [2, 0]
    assert read_subset(tmp_path / "names.txt", ids, 3) == [2, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n3\n", "line 2: '3' is no class of the model, which has 3"),
        ("0\nn9\n", "line 2: 'n9' is no class"),
        ("1\n1\n", "line 2: class 1 is there twice"),
        ("\n", "names no classes"),
    ],
)
def test_a_subset_that_makes_no_sense_is_refused(text, message, tmp_path):
    (tmp_path / "subset.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_subset(tmp_path / "subset.txt", ("n1", "n2", "n3"), 3)


@pytest.mark.torch
@pytest.mark.parametrize("variant", ["imagenet_a", "imagenet_r"])
def test_the_published_subsets_can_be_read_in_both_spellings(variant):
    """ImageNet-A's and -R's 200 classes: timm carries them as numbers and as identifiers."""
    from importlib.resources import files

    from paddle_dla.data.class_names import imagenet_class_names
    from torch_ref.model import import_timm

    import_timm()
    folder = files("timm.data._info")
    ids = imagenet_class_names().ids
    by_number = read_subset(folder / f"{variant}_indices.txt", ids, 1000)
    assert read_subset(folder / f"{variant}_synsets.txt", ids, 1000) == by_number
    assert len(by_number) == 200
