"""docs/scaling.md: its figures are those of its script, and the script's formulas are right."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("yaml")

import make_scaling

from paddle_dla.config import load_config

pytestmark = pytest.mark.any_paddle

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "docs" / "scaling.zh-CN.md").read_text(encoding="utf-8")


@pytest.fixture
def plan():
    """100 epochs at 1000 images/s on 4 GPUs of 100 images, a network of a million parameters."""
    config = load_config(ROOT / "configs" / "recipes" / "original.yaml", ["train.epochs=100"])
    return make_scaling.Plan(4, 100, 2, config, make_scaling.Network(1_000_000, 1000), rate=1000.0)


def test_the_page_is_what_the_script_makes():
    """If this fails: ``python docs/make_scaling.py``."""
    assert make_scaling.written(PAGE) == PAGE


def test_a_figure_that_was_typed_is_seen():
    stale = PAGE.replace("| 60.2 |", "| 40.0 |")
    assert make_scaling.written(stale) == PAGE != stale


def figures(page):
    """The numbers of each row of the tables."""
    return [re.findall(r"\d+(?:[.,]\d+)*", row) for row in re.findall(r"^\|.*", page, re.MULTILINE)]


def test_the_chinese_page_has_the_same_figures():
    assert figures(CHINESE) == figures(PAGE)
    assert figures(CHINESE.replace("| 60.2 |", "| 40.0 |", 1)) != figures(PAGE)


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="no part from <!-- plans -->"):
        make_scaling.written(PAGE.replace("<!-- plans -->", ""))


def test_a_network_is_counted_without_its_statistics():
    """timm reports 22.04 million parameters for dla60."""
    assert round(make_scaling.Network.of("dla60").parameters / 1e6, 2) == 22.04


def test_batch_and_learning_rate_follow_the_config(plan):
    assert plan.global_batch == 4 * 100 * 2
    assert plan.learning_rate == pytest.approx(0.1 * 800 / 256)


def test_updates_leave_out_what_fills_no_batch(plan):
    assert plan.updates == 100 * 1601  # 1,281,167 = 1601 x 800 + 367


def test_time_without_waiting_is_images_over_speed(plan):
    assert plan.images_a_second == 4000
    assert plan.hours == pytest.approx(100 * 1_281_167 / 4000 / 3600)


@pytest.mark.parametrize(("gpus", "times"), [(1, 0.0), (2, 1.0), (4, 1.5), (64, 2 * 63 / 64)])
def test_a_ring_moves_the_gradients_nearly_twice(plan, gpus, times):
    assert replace(plan, gpus=gpus).traffic == pytest.approx(4e6 * times)


def test_waiting_adds_the_exchange_to_every_update(plan):
    expected = plan.updates * (200 / 1000 + 6e6 / 1e9) / 3600
    assert plan.hours_waiting(1e9) == pytest.approx(expected)


@pytest.mark.parametrize(("average", "copies"), [(False, 1), (True, 2)])
def test_a_checkpoint_holds_weights_statistics_momentum_and_the_average(plan, average, copies):
    config = replace(plan.config, ema=replace(plan.config.ema, enabled=average))
    assert replace(plan, config=config).checkpoint == 4 * (copies * 1_001_000 + 1_000_000)


def test_checkpoints_at_the_interval_take_their_share_at_most(plan):
    writing = plan.checkpoint / make_scaling.DISK
    assert writing <= make_scaling.CHECKPOINT_SHARE * plan.checkpoint_interval * plan.computing
    assert writing > make_scaling.CHECKPOINT_SHARE * (plan.checkpoint_interval - 1) * plan.computing


def test_limits_come_lowest_first_and_are_reached_where_they_say(plan):
    reached = {name: gpus for name, _, gpus in make_scaling.limits(plan)}
    assert list(reached.values()) == sorted(reached.values())
    store = "a file server at 10 Gbit/s"
    assert replace(plan, gpus=reached[store]).reading == pytest.approx(make_scaling.STORES[store])
    assert replace(plan, gpus=reached["16 processor cores"]).cores == pytest.approx(16)
