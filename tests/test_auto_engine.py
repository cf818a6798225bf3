"""``--engine auto``: the fastest installed engine that ranks the first batch as the network does, and never another."""

import functools

import numpy as np
import pytest
from small_models import SIZE, small_model

from paddle_dla.engines import auto, open_fastest
from paddle_dla.engines.base import EngineError

IMAGES = np.random.RandomState(0).standard_normal((3, *SIZE)).astype(np.float32)


@functools.cache
def network():
    return small_model("dla46x_c")


class Fake:
    """An engine that computes what the network does, with two classes swapped if ``wrong``."""

    num_classes = 10

    def __init__(self, name, network, wrong=False):
        self.name, self._network, self._wrong, self.calls = name, network, wrong, 0

    def run(self, images):
        self.calls += 1
        logits = self._network.run(images)
        if self._wrong:
            order = np.argsort(-logits[1])
            logits[1, order[:2]] = logits[1, order[1::-1]]
        return logits


def chosen(monkeypatch, behaviours, batches=3, expected=None):
    """The engine that is chosen where each of the candidates behaves so, and what it tells."""
    monkeypatch.setattr(auto, "CANDIDATES", dict.fromkeys(behaviours, ("numpy",)))
    told, engines = [], {}

    def open_named(name):
        if behaviours[name] == "broken":
            raise EngineError(f"{name} cannot be opened")
        engines[name] = Fake(name, eager, behaviours[name] == "wrong")
        return engines[name]

    eager = auto.EagerEngine(network(), 1)
    engine = auto.AutoEngine(network(), 1, open_named, told.append)
    engine.expected = expected
    for _ in range(batches):
        np.testing.assert_array_equal(engine.run(IMAGES), eager.run(IMAGES))
    return engine.name, told, engines


CASES = {
    "the first that agrees": ({"a": "right", "b": "right"}, "a"),
    "one that cannot be opened is passed over": ({"a": "broken", "b": "right"}, "b"),
    "one that ranks otherwise is passed over": ({"a": "wrong", "b": "right"}, "b"),
    "none agrees": ({"a": "wrong", "b": "broken"}, "paddle"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_engine_that_ranks_as_the_network_does_is_taken_and_told(case, monkeypatch):
    behaviours, expected = CASES[case]
    name, told, engines = chosen(monkeypatch, behaviours)
    assert name == expected and (expected == "paddle" or any(expected in line for line in told))
    assert all(engine.calls == 1 for other, engine in engines.items() if other != expected)


@pytest.mark.parametrize(("batches", "images"), [(1, None), (3, auto.FEW - 1)])
def test_for_few_images_no_other_engine_is_opened(batches, images, monkeypatch):
    name, told, engines = chosen(monkeypatch, {"a": "right"}, batches, images)
    assert (name, told, engines) == ("paddle", [], {})


def test_an_engine_whose_package_is_missing_is_not_opened(monkeypatch):
    monkeypatch.setattr(auto, "CANDIDATES", {"a": ("no_such_package",)})
    told = []
    engine = auto.AutoEngine(network(), 1, lambda name: pytest.fail("opened"), told.append)
    for _ in range(2):
        engine.run(IMAGES)
    assert engine.name == "paddle" and told


def test_a_real_network_gets_a_real_engine():
    fastest = next(name for name, packages in auto.CANDIDATES.items() if not auto.missing(*packages))
    told = []
    engine = open_fastest(network(), told.append, threads=1, input_size=SIZE)
    first, second = engine.run(IMAGES), engine.run(IMAGES)
    assert engine.name == fastest and f"engine: {fastest}, " in told[-1]
    np.testing.assert_array_equal(auto.ranking(first), auto.ranking(second))
