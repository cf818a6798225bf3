"""Whether two sets of random numbers are told apart, what is said of them, and how seldom that is wrong."""

import math
import re

import numpy as np
import pytest

from alignment.engine.distributions.distribution import (
    KEPT,
    MOMENTS_FROM,
    Drawn,
    can_fail,
    ks_critical,
    ks_distance,
    ks_probability,
    measure,
    shared,
)
from alignment.engine.distributions.distribution_causes import cause, describe, family
from alignment.engine.distributions.initialisation import FALSE_ALARM, collect, compare_draws

CONV = (48, 16, 3, 3)
FAN_IN, FAN_OUT = 16 * 9, 48 * 9
HE = math.sqrt(2 / FAN_OUT)
SEEDS = range(5)


def he(rng, shape=CONV):
    return rng.normal(0, HE, shape)


def truncated(rng, std=HE, shape=CONV):
    values = rng.standard_normal((3, *shape))
    return std * np.take_along_axis(values, (np.abs(values) > 2).argmin(0)[None], 0)[0]


def uniform(rng, bound):
    return rng.uniform(-bound, bound, CONV)


def side(offset=0, **tensors):
    """A draw of named tensors; each is a function of a generator."""

    def draw(seed):
        rng = np.random.default_rng([seed, offset])
        return {name: np.asarray(make(rng), np.float32) for name, make in tensors.items()}

    return collect(draw, SEEDS)


def compared(reference, port):
    return compare_draws("test", reference, port, {})


def drawn(make, seeds=SEEDS):
    result = Drawn(len(seeds))
    for seed in seeds:
        result.add(np.asarray(make(np.random.default_rng(seed)), np.float32))
    return result


REFERENCE = side(0, weight=he, gamma=lambda rng: np.ones(48))

# mistake -> how the port draws the weight, and what must be said of it
MISTAKES = {
    "fan_in": (
        lambda rng: rng.normal(0, math.sqrt(2 / FAN_IN), CONV),
        r"He's by fan_in\) instead of .*He's by fan_out",
    ),
    "Xavier uniform": (
        lambda rng: uniform(rng, math.sqrt(6 / (FAN_IN + FAN_OUT))),
        r"uniform instead of normal; standard deviation .*Xavier's\) instead of",
    ),
    "uniform of the same deviation": (lambda rng: uniform(rng, HE * 3**0.5), "^uniform instead of normal$"),
    "truncated": (truncated, "^truncated normal instead of normal; standard deviation"),
    "a shifted mean": (lambda rng: he(rng) + 0.1 * HE, r"^mean 0\.00\d+ instead of"),
    "two percent too wide": (lambda rng: 1.03 * he(rng), r"^standard deviation .*: 1\.0\d+ times as large"),
    "constant": (lambda rng: np.full(CONV, 0.02), r"^constant 0.02 instead of random \(normal, mean 0"),
    "one seed for all": (lambda rng: he(np.random.default_rng(3)), "^the same numbers under every seed instead of"),
    "NaN": (lambda rng: he(rng) * np.nan, "NaN"),
    "another shape": (lambda rng: he(rng, CONV[::-1]), r"^shape \[3, 3, 16, 48\] instead of"),
}


def test_the_same_distribution_is_aligned():
    result = compared(REFERENCE, side(1, weight=he, gamma=lambda rng: np.ones(48)))
    assert result.passed
    assert len(result.rows) == 2
    assert "distance" in result.verdict()
    assert "chance" in result.verdict()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found_and_named(mistake):
    make, words = MISTAKES[mistake]
    result = compared(REFERENCE, side(1, weight=make, gamma=lambda rng: np.ones(48)))
    (found,) = result.culprits
    assert (found.layer, found.kind) == ("weight", "weights")
    assert re.search(words, found.cause), found.cause


def test_a_constant_must_be_equal_in_the_last_bit():
    nearly = side(1, weight=he, gamma=lambda rng: np.full(48, np.nextafter(np.float32(1), np.float32(2))))
    (found,) = compared(REFERENCE, nearly).culprits
    assert found.layer == "gamma"
    zero = side(1, weight=he, gamma=lambda rng: np.zeros(48))
    assert compared(REFERENCE, zero).culprits[0].cause == "constant 0 instead of constant 1"


def test_a_constant_of_the_reference_that_the_port_draws_is_found():
    (found,) = compared(REFERENCE, side(1, weight=he, gamma=lambda rng: rng.normal(1, 0.02, 48))).culprits
    assert found.cause.endswith("instead of constant 1")


@pytest.mark.parametrize("missing", ["weight", "gamma"])
def test_a_tensor_that_one_side_lacks_is_found(missing):
    both = {"weight": he, "gamma": lambda rng: np.ones(48)}
    port = side(1, **{name: make for name, make in both.items() if name != missing})
    assert [found.cause for found in compared(REFERENCE, port).culprits] == ["not in the port"]
    assert [found.cause for found in compared(port, REFERENCE).culprits] == ["not in the reference"]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_two_tensors_of_the_same_random_numbers_are_found(scale):
    reference = side(0, a=he, b=lambda rng: scale * he(rng))
    port = side(1, a=he, b=lambda rng: scale * rng.normal(0, HE, CONV))
    assert compared(reference, port).passed

    def twice(seed):
        first = he(np.random.default_rng([seed, 1])).astype(np.float32)
        return {"a": first, "b": np.float32(scale) * first}

    copied = collect(twice, SEEDS)
    (found,) = compared(reference, copied).culprits
    assert (found.layer, found.cause[:33]) == ("b", "the same random numbers as a (cor")
    assert compared(copied, copied).passed  # as the reference does it


def test_numbers_that_the_seed_does_not_reach_are_found():
    numbers = iter(range(100))
    port = collect(lambda seed: {"weight": he(np.random.default_rng(next(numbers))).astype(np.float32)}, SEEDS)
    (found,) = compared(side(0, weight=he), port).culprits
    assert "the seed does not reach it" in found.cause


def test_what_is_too_small_to_be_judged_is_not_called_aligned():
    result = compared(side(0, scale=lambda rng: rng.normal(size=1)), side(1, scale=lambda rng: rng.normal(size=1)))
    assert not result.rows
    assert not result.passed
    assert "5 values over all seeds are too few" in result.skipped[0].reason


def test_false_alarms_are_rarer_than_promised():
    # at 200 times the promised rate, 2 of 100 models may be called wrong; 9 or more of them are one in 10,000
    rng = np.random.default_rng(0)
    alarm, rounds, wrong = 200 * FALSE_ALARM, 100, 0
    for _ in range(rounds):
        pairs = [(drawn_from(rng), drawn_from(rng)) for _ in range(10)]
        found = [test for a, b in pairs for test in measure(a, b)]
        assert len(found) == 30
        wrong += any(test.probability < alarm / 30 for test in found)
    assert wrong < 9


def drawn_from(rng):
    result = Drawn(2)
    for _ in range(2):
        result.add(rng.standard_normal(MOMENTS_FROM // 2))
    return result


# --- the statistics themselves --------------------------------------------------------------------------------------


def test_the_distance_is_that_of_the_definition():
    a, b = np.array([1.0, 2, 3, 4]), np.array([2.5, 3.5, 4.5])
    at = np.linspace(0, 5, 1001)
    by_definition = max(abs((a <= x).mean() - (b <= x).mean()) for x in at)
    assert ks_distance(a, b) == pytest.approx(by_definition)


def test_the_probability_is_that_of_the_tables():
    # Smirnov's table: the limit distribution exceeds 1.36 with 0.049 and 1.63 with 0.0098
    for x, probability in ((1.36, 0.0495), (1.63, 0.0098), (0.8276, 0.5)):
        assert ks_probability(x * math.sqrt(2 / 1000), 1000, 1000) == pytest.approx(probability, rel=0.01)


def test_the_critical_distance_has_the_probability_it_is_for():
    assert ks_probability(ks_critical(1e-7, 5000, 3000), 5000, 3000) == pytest.approx(1e-7, rel=1e-6)


def test_moments_are_those_of_all_elements_of_all_seeds():
    arrays = [np.random.default_rng(seed).normal(3, 0.1, KEPT).astype(np.float32) for seed in range(3)]
    result = Drawn(3)
    for array in arrays:
        result.add(array)
    everything = np.concatenate(arrays).astype(np.float64)
    assert result.count == 3 * KEPT
    assert result.values.size <= KEPT
    assert result.mean == pytest.approx(everything.mean(), rel=1e-12)
    assert result.std == pytest.approx(everything.std(), rel=1e-9)
    # of a normal distribution the standard deviation's relative error is sqrt(1 / 2n)
    assert result.log_std_error == pytest.approx(math.sqrt(1 / (2 * result.count)), rel=0.02)


def test_a_test_that_cannot_fail_is_known():
    few, many = drawn(lambda rng: rng.normal(size=2)), drawn(he)
    assert not can_fail(few, few, 1e-7)
    assert can_fail(many, many, 1e-7)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("normal", lambda rng: rng.normal(1, 3, 10_000)),
        ("uniform", lambda rng: rng.uniform(-1, 5, 10_000)),
        ("truncated normal", lambda rng: truncated(rng, 7.0, (10_000,))),
        ("", lambda rng: rng.exponential(1, 10_000)),
    ],
)
def test_families_are_told_by_their_values(name, make):
    assert family(drawn(make)) == name


def test_a_name_is_withheld_where_values_do_not_tell():
    assert family(drawn(lambda rng: rng.normal(size=10))) == ""


def test_a_cause_names_no_scale_that_is_the_same():
    assert "standard deviation" not in cause(drawn(he), drawn(lambda rng: uniform(rng, HE * 3**0.5)))


def test_a_distribution_is_described_by_the_initialiser_that_makes_it():
    assert describe(drawn(he)).startswith("random (normal, mean 0, standard deviation 0.06")
    assert "He's by fan_out" in describe(drawn(he))
    assert "the number 0.02" in describe(drawn(lambda rng: rng.normal(0, 0.02, CONV)))


def test_independent_tensors_share_nothing():
    rng = np.random.default_rng(0)
    many = {str(n): drawn(lambda _: rng.normal(size=64), range(2)) for n in range(200)}
    assert shared(many) == {}
