"""Of random architectures with other names, nesting and order, the key map is right, or it is refused."""

import pytest
from random_models import random_pair
from wired import distance, numbers

from alignment import transfer
from convert.matching.key_map import KeyMapError

pytestmark = pytest.mark.torch


def layers(key_map):
    return {
        line.torch.removesuffix(".weight"): line.paddle.removesuffix(".weight")
        for line in key_map
        if line.torch and line.paddle and not line.torch.endswith(".bias")
    }


@pytest.mark.parametrize("neutral", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_correct_port_computes_the_same_afterwards(seed, neutral):
    pair = random_pair(seed, neutral=neutral)
    transfer(pair.reference, pair.port, numbers(2, 4, 6))
    assert distance(pair.reference, pair.port, numbers(2, 4, 6, seed=1)) < 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_a_port_with_another_activation_gets_every_weight_in_its_layer(seed):
    pair = random_pair(seed, fault=True)
    try:
        key_map = transfer(pair.reference, pair.port, numbers(2, 4, 6))
    except KeyMapError as refused:
        assert refused.faults
    else:
        assert layers(key_map) == pair.truth
