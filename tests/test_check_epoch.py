"""Whole epochs in torch and in Paddle: alignment/check_epoch.py."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yaml")
pytest.importorskip("matplotlib")

from alignment import check_epoch
from alignment.check_epoch import chance, main, refuse_unknown, table, verdict
from alignment.epoch_runs import Run, Seed
from paddle_dla.config import parse_config
from paddle_dla.config.schema import build, flat

pytestmark = pytest.mark.torch


def seeds(*pairs):
    return [Seed(number, Run([2.0, 1.0], pair[0]), Run([2.0, 1.1], pair[1])) for number, pair in enumerate(pairs)]


def test_groups_of_the_same_values_are_as_far_apart_as_any():
    assert chance([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]) == 1.0


def test_groups_that_do_not_overlap_are_the_rarest_of_all_draws():
    # two of the 70 ways to draw four of eight: these, and these exchanged
    assert chance([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]) == 2 / 70


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_chance_is_as_often_below_a_level_as_it_says_for_one_kind_and_more_often_for_two(shift):
    draw = np.random.default_rng(0)
    found = [chance(draw.standard_normal(5), draw.standard_normal(5) + shift) for _ in range(400)]
    share = np.mean(np.array(found) <= 0.05)
    # of 400 draws 5 % are 20, with a standard deviation of 4.4; four of them up is 38
    assert share <= 38 / 400 if shift == 0 else share > 0.9


@pytest.mark.parametrize(
    ("pairs", "passed"),
    [
        ([(80.0, 80.5), (81.0, 80.6), (80.4, 80.4), (79.9, 80.1)], True),
        ([(80.0, 79.5), (81.0, 79.2), (80.4, 79.8), (79.9, 79.7)], False),  # worse than each of timm's
        ([(80.0, 81.3), (81.0, 81.2), (80.4, 81.5), (79.9, 81.1)], False),  # better
    ],
)
def test_the_end_is_judged_by_what_the_seeds_change(pairs, passed):
    found, sentence = verdict(seeds(*pairs))
    assert found is passed
    assert sentence.startswith("PASS" if passed else "FAIL")


def test_every_seed_has_a_line():
    lines = table(seeds((80.0, 80.5), (81.0, 80.75))).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "2", "1.0000", "1.1000", "80.00", "80.50"],
        ["1", "2", "1.0000", "1.1000", "81.00", "80.75"],
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("schedule: {name: step, decay_epochs: 30}", "schedule.name"),
        ("optimizer: {name: sgd}", "optimizer.name"),
        ("loss: {name: bce}", "loss.name"),
        ("train: {grad_accum_steps: 2}", "train.grad_accum_steps"),
        ("model: {drop_rate: 0.1}", "model.drop_rate"),
    ],
)
def test_a_recipe_that_torch_would_not_follow_is_refused(text, named):
    with pytest.raises(ValueError, match=named):
        refuse_unknown(parse_config(text))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Sixteen images of two classes, and a recipe for them with much that a recipe can have."""
    folder, draw = tmp_path_factory.mktemp("epoch"), np.random.default_rng(0)
    for part in ("train", "val"):
        for name, colour in (("dark", 60), ("light", 190)):
            (folder / part / name).mkdir(parents=True)
            for number in range(8):
                pixels = draw.integers(-50, 50, (64, 64, 3)) + colour
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{number}.png")
    path = folder / "recipe.yaml"
    path.write_text(f"""
model: {{name: dla46_c, num_classes: 2}}
data: {{train: {folder / "train"}, val: {folder / "val"}, batch_size: 8, workers: 0}}
transform: {{train: {{input_size: [3, 64, 64]}}, eval: {{input_size: [3, 64, 64], crop_pct: 1.0}}}}
loss: {{smoothing: 0.1}}
optimizer: {{name: nesterov, lr: 1e-6, weight_decay: 1e-4, clip_grad: 5.0}}
schedule: {{name: cosine, per_epoch: false, warmup_epochs: 1}}
train: {{epochs: 2}}
""")
    return path


@pytest.fixture(autouse=True)
def two_seeds_are_enough(monkeypatch):
    monkeypatch.setattr(check_epoch, "FEWEST", 2)


def arguments(recipe, output, *overrides):
    return ["--config", str(recipe), "--output", str(output), "--seeds", "0", "1", "-o", "train.seed=7", *overrides]


def compare(recipe, output, *overrides):
    """The losses of torch and of Paddle on each seed, (updates,) each."""
    main(arguments(recipe, output, *overrides))
    found = [json.loads((output / f"seed{seed}" / "losses.json").read_text())["runs"] for seed in (0, 1)]
    return [(np.array(runs["torch"]["losses"]), np.array(runs["paddle"]["losses"])) for runs in found]


# BatchNorm over eight images of noise magnifies rounding: in float32 four losses of a fresh network were up to 4e-3
# apart; the faults below move one by more than 0.1
CLOSE = 0.02


@pytest.mark.slow
@pytest.mark.parametrize("mixing", [(), ("mixing.mixup_alpha=0.2",)], ids=["smoothing", "mixup"])
def test_both_see_the_same_batches_and_take_the_same_steps(recipe, tmp_path, capsys, mixing):
    found = compare(recipe, tmp_path / "out", *mixing)
    for theirs, ours in found:
        assert len(ours) == len(theirs) == 4
        assert (abs(ours - theirs) <= CLOSE * theirs).all()
    assert (found[0][0] != found[1][0]).all()
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert "curves: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"optimizer.lr": 1e-3}, {"train.seed": 8}], ids=["rate", "order"])
def test_another_recipe_on_one_side_is_seen(recipe, tmp_path, monkeypatch, fault):
    own = check_epoch.train_torch
    monkeypatch.setattr(
        check_epoch, "train_torch", lambda config, *rest, **more: own(build({**flat(config), **fault}), *rest, **more)
    )
    theirs, ours = compare(recipe, tmp_path / "out")[0]
    assert (abs(ours - theirs) > CLOSE * theirs).any()


def test_what_is_done_is_not_trained_again_nor_mixed_with_another_recipe(recipe, tmp_path, monkeypatch, capsys):
    def train(config, command, output, control, say):
        trained.append((config.train.seed, control))
        again = Run([2.0], 70.0) if control else None
        return Seed(config.train.seed, Run([2.0], 70.0), Run([2.1], 70.0), again)

    trained = []
    monkeypatch.setattr(check_epoch, "train_both", train)
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed1").mkdir()
    assert main(arguments(recipe, tmp_path)) == 0
    assert trained == [(0, True), (1, False)]  # timm a second time on the first seed alone
    told = capsys.readouterr().out
    assert "timm again on seed 0, with each batch in reverse order: top-1 70.00" in told
    assert main(arguments(recipe, tmp_path)) == 0
    assert capsys.readouterr().out == told
    assert len(trained) == 2
    assert main(arguments(recipe, tmp_path, "optimizer.lr=0.5")) == 1
    assert "is of another recipe" in capsys.readouterr().err


def test_too_few_seeds_are_refused_before_anything_is_trained(recipe, tmp_path, capsys):
    assert main(["--config", str(recipe), "--output", str(tmp_path / "out"), "--seeds", "1"]) == 1
    assert "--seeds: with fewer than 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
