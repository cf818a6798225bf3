"""The pytest plugin: a user's port gets one test a layer, and a broken layer fails under its own name."""

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.torch

SUITE = """
import numpy as np, paddle, torch
from alignment.pytest_plugin import assert_aligned, layer_diff

def pair(epsilon=1e-5):
    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    port = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4, epsilon=epsilon), paddle.nn.ReLU())
    for name, value in reference.state_dict().items():
        if name in port.state_dict():
            port.state_dict()[name].set_value(value.numpy())
    return reference, port, np.random.RandomState(0).standard_normal((2, 3, 8, 8))
"""


def outcomes(pytester, suite):
    pytester.makepyfile(SUITE + suite)
    return pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider")


def test_a_correct_port_passes_with_one_test_for_each_tensor(pytester):
    result = outcomes(pytester, "test_layer = layer_diff(pair)")
    result.assert_outcomes(passed=14)
    result.stdout.fnmatch_lines(["*test_layer?0? PASSED*", "*test_layer?0.weight-parameter gradient? PASSED*"])


def test_a_broken_layer_fails_under_its_name_and_the_verdict_names_it(pytester):
    result = outcomes(pytester, "test_layer = layer_diff(lambda: pair(epsilon=1e-3), backward=False)")
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(["*test_layer?0? PASSED*", "*test_layer?1? FAILED*", "*test_layer?verdict? FAILED*"])
    result.stdout.fnmatch_lines(["*config fault in 1: epsilon 0.001 instead of *"])


def test_assert_aligned_shows_the_report(pytester):
    result = outcomes(pytester, "def test_port():\n    assert_aligned(*pair(epsilon=1e-3))")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NOT ALIGNED: config fault in 1: *"])
