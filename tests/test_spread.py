"""Where a difference sits: the numbers, and the words for them."""

import json

import numpy as np
import pytest

from alignment.engine.locating.culprits import locate, spread_of
from alignment.engine.spread import BARS, CELLS, spread

LAST_ROW = np.arange(8)[:, None].repeat(8, 1) == 7
SHAPES = [(), (5,), (3, 7), (2, 3, 11), (2, 16, 8, 8), (2, 3, 4, 5, 6), (1, 1, 1, 1), (0,), (2, 0, 4, 4), (70, 100)]


def reference(shape):
    return np.random.RandomState(0).standard_normal(shape)


def moved(shape, where):
    """The words for a difference of 1e-3 at ``where``."""
    expected = reference(shape)
    actual = expected.copy()
    actual[where] += 1e-3
    return spread(expected, actual, limit=1e-9).where


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_element_is_counted_once_whatever_the_rank(shape):
    expected = np.asarray(reference(shape))
    rng = np.random.RandomState(1)
    actual = expected + rng.choice([0.0, 1e-300, 1e-12, 1.0, 1e30, np.nan, np.inf], shape)
    found = spread(expected, actual)
    assert found.exact + sum(found.counts) + found.not_finite == found.count == expected.size
    assert len(found.edges) == (len(found.counts) + 1 if found.counts else 0)


def test_a_difference_lies_between_the_edges_of_its_bin():
    expected = np.array([1.0, 0.5, 0.0])
    found = spread(expected, expected + np.array([0.0, 2e-6, 0.0]))
    assert found.counts == (1,)
    assert 10 ** found.edges[0] <= 2e-6 <= 10 ** found.edges[1]


def test_sizes_are_over_the_largest_magnitude_of_the_reference():
    found = spread(np.array([0.0, -8.0]), np.array([4.0, -8.0]))
    assert found.channels == (0.5, 0.0)


def test_against_nothing_but_zeros_the_difference_is_taken_as_it_is():
    assert spread(np.zeros(2), np.array([0.0, 3.0])).channels == (0.0, 3.0)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \[3\] instead of \[2\]"):
        spread(np.zeros(2), np.zeros(3))


def test_what_is_no_number_on_one_side_differs_and_on_both_is_equal():
    found = spread(np.array([1.0, np.nan, np.inf]), np.array([np.nan, np.nan, np.inf]), limit=1.0)
    assert (found.differing, found.not_finite, found.exact) == (1, 1, 2)
    assert found.channels == (np.inf, 0.0, 0.0)


def test_means_are_by_batch_element_channel_and_place():
    expected = np.ones((2, 3, 4, 5))
    actual = expected.copy()
    actual[1, 2, 3, 4] += 6.0
    found = spread(expected, actual)
    assert found.batch == (0.0, pytest.approx(6 / 60))
    assert found.channels == (0.0, 0.0, pytest.approx(6 / 40))
    assert found.space[3][4] == pytest.approx(6 / 6)
    assert np.sum(found.space) == pytest.approx(1.0)


def test_long_axes_are_means_of_neighbours_that_keep_the_mean_of_all():
    expected = np.zeros((128, 128, 2, 64))
    expected[0, 0, 0, 0] = 1.0
    actual = expected + np.arange(64) / 64
    found = spread(expected, actual)
    assert (len(found.batch), len(found.channels)) == (BARS, BARS)
    assert np.shape(found.space) == (2, CELLS)
    assert np.mean(found.space) == pytest.approx(np.mean(actual - expected))
    assert found.space[0][-1] == pytest.approx(62.5 / 64)


def test_the_border_is_the_outermost_ring():
    expected = np.ones((1, 1, 4, 4))
    inside, outside = expected.copy(), expected.copy()
    inside[..., 1:-1, 1:-1] += 1
    outside[..., 0, :] += 1
    assert spread(expected, inside).border == 0
    assert spread(expected, outside).border == 1
    assert spread(expected, outside).border_area == 12 / 16


def test_where_nothing_lies_inside_there_is_no_border():
    assert spread(np.ones((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))).border is None


@pytest.mark.parametrize(
    ("shape", "where", "words"),
    [
        ((2, 16, 8, 8), np.s_[:], "everywhere: all 2,048 elements"),
        ((2, 16, 8, 8), np.s_[:, 8:16], "only in channels 8 to 15: 1,024 of 2,048 elements (50.0 %)"),
        ((2, 16, 8, 8), np.s_[1], "only in batch element 1: "),
        ((2, 16, 8, 8), np.s_[:, 3], "only in channel 3: "),
        ((2, 16, 8, 8), np.s_[:, [1, 2, 5]], "only in channels 1, 2, 5: "),
        ((2, 16, 8, 8), np.s_[:, ::2], "only in channels 0, 2, 4, ... 14: "),
        ((2, 16, 8, 8), np.s_[:, [3, 4, 6, 7, 10]], "in 5 of 16 channels, all within 3 to 10: "),
        ((2, 16, 8, 8), np.s_[:, [0, 1, 2, 5, 9, 15]], "in 6 of 16 channels: "),
        ((2, 16, 8, 8), np.s_[..., -1, :], "all of it at the lower border: "),
        ((2, 16, 8, 8), (np.s_[:], np.s_[:], *np.nonzero(LAST_ROW | LAST_ROW.T)),
         "all of it at the lower and right border: "),
        ((2, 16, 8, 8), np.s_[..., :2], "all of it at the left border, 2 wide: "),
        ((2, 16, 8, 8), np.s_[0, 8:, 0, :], "all of it at the upper border, only in channels 8 to 15, only in batch"),
        ((2, 16, 8, 8), np.s_[..., 3, 4], "only at row 3, column 4: "),
        ((2, 16, 8, 8), np.s_[..., 2:6, 2:6], "at 16 of 64 places: "),
        ((2, 3, 200), np.s_[..., -2:], "all of it at the right border, 2 wide: "),
        ((2, 3, 2, 2), np.s_[..., 0, :], "at 2 of 4 places: "),
        ((1,), np.s_[0], "its one element"),
        ((100, 100), np.s_[0, 0], "only in channel 0, only in batch element 0: 1 of 10,000 elements (0.1 %)"),
    ],
)  # fmt: skip
def test_the_words_say_where_it_is(shape, where, words):
    assert moved(shape, where).startswith(words)


def test_what_rounding_explains_is_nowhere():
    expected = reference((2, 3))
    assert spread(expected, expected + 1e-15, limit=1e-9).where == "no element exceeds the limit"


def test_as_json_it_is_short_and_valid():
    expected = reference((2, 64, 64, 64))
    actual = expected * 1.001
    actual[0, 0, 0, 0] = np.nan
    text = json.dumps(spread(expected, actual).to_dict(), allow_nan=False)
    assert '"inf"' in text
    assert len(text) < 15_000  # 32 x 32 numbers of three digits


def finding(where, expected, actual, **changes):
    from alignment.engine.judging.error import compare
    from alignment.engine.locating.findings import Finding

    found = compare(expected, actual)
    return Finding("layer", "twin", True, where, 0, found, expected=expected, actual=actual, **changes)


def test_the_output_is_looked_at_before_what_is_passed_back():
    ones, twos = np.ones((2, 4)), np.full((2, 4), 2.0)
    findings = [finding("parameter gradient", ones, twos, inner="weight"), finding("output", ones, twos)]
    assert spread_of(findings).what == "output 0"
    assert spread_of(findings[:1]).what == "gradient of weight"
    assert spread_of(findings[:1]).axes == ("output channel", "input channel")


def test_a_tensor_of_another_shape_is_passed_over():
    ones, twos = np.ones((2, 4)), np.full((2, 4), 2.0)
    findings = [finding("output", ones, np.ones((3, 4))), finding("input gradient", ones, twos)]
    assert spread_of(findings).what == "input gradient 0"
    assert spread_of(findings[:1]) is None


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("output", "output 0, call 3"),
        ("handed", "tensor 0 handed to inner, call 3"),
        ("returned gradient", "gradient 0 returned to inner, call 3"),
        ("parameter gradient", "gradient of inner"),
    ],
)
def test_the_tensor_is_named(where, name):
    assert spread_of([finding(where, np.ones(2), np.zeros(2), inner="inner", call=2)]).what == name


def test_a_culprit_tells_in_its_evidence_where_its_difference_is():
    expected = np.ones((1, 2, 8, 8))
    actual = expected.copy()
    actual[..., -1] = 2.0
    culprits = locate(["layer"], {"layer": "twin"}, {}, [], [finding("output", expected, actual)], [])
    assert culprits[0].spread.differing == 16
    assert culprits[0].evidence[-1] == "where in output 0: all of it at the right border: 16 of 128 elements (12.5 %)"


def test_a_culprit_without_a_measured_tensor_has_no_spread():
    culprits = locate(["layer"], {"layer": "twin"}, {"layer": {"epsilon": (1, 2)}}, [], [], [])
    assert culprits[0].spread is None


def test_a_flattened_output_is_the_same_tensor():
    found = spread_of([finding("output", np.ones((2, 4, 1, 1)), np.full((2, 4), 2.0))])
    assert (found.shape, found.differing) == ((2, 4, 1, 1), 8)
