"""Whole epochs in torch and in Paddle: alignment/check_epoch.py."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yaml")

from alignment import check_epoch
from alignment.check_epoch import Run, Seed, main, refuse_unknown, table, verdict
from paddle_dla.config import parse_config
from paddle_dla.config.schema import build, flat

pytestmark = pytest.mark.torch


def seeds(*pairs):
    return [Seed(number, Run([2.0, 1.0], pair[0]), Run([2.0, 1.1], pair[1])) for number, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "passed"),
    [
        ([(80.0, 80.5), (81.0, 80.6), (80.4, 80.4)], True),
        ([(80.0, 79.5), (81.0, 80.2), (80.4, 79.9)], False),  # worse than every seed of torch's, in the mean
        ([(80.0, 81.3), (81.0, 81.2), (80.4, 80.9)], False),  # better
        ([(80.0, 81.2), (81.0, 79.6), (80.4, 80.5)], False),  # one is further off than torch's seeds are
    ],
)
def test_the_end_is_judged_by_the_spread_of_torchs_seeds(pairs, passed):
    found, sentence = verdict(seeds(*pairs))
    assert found is passed
    assert sentence.startswith("PASS" if passed else "FAIL")


def test_one_seed_has_no_spread():
    with pytest.raises(ValueError, match="two seeds or more"):
        verdict(seeds((80.0, 80.0)))


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


def compare(recipe, output, *overrides):
    """The losses of torch and of Paddle on each seed, (updates,) each."""
    main(["--config", str(recipe), "--output", str(output), "--seeds", "0", "1", "-o", "train.seed=7", *overrides])
    found = json.loads((output / "result.json").read_text())["seeds"]
    return [(np.array(seed["torch"]["losses"]), np.array(seed["paddle"]["losses"])) for seed in found]


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
    monkeypatch.setattr(check_epoch, "train_torch", lambda config, *rest: own(build({**flat(config), **fault}), *rest))
    theirs, ours = compare(recipe, tmp_path / "out")[0]
    assert (abs(ours - theirs) > CLOSE * theirs).any()


def test_results_that_are_there_are_never_overwritten(recipe, tmp_path, capsys):
    (tmp_path / "seed0").mkdir()
    assert main(["--config", str(recipe), "--output", str(tmp_path)]) == 1
    assert "File exists" in capsys.readouterr().err


def test_one_seed_is_refused_before_anything_is_trained(recipe, tmp_path, capsys):
    assert main(["--config", str(recipe), "--output", str(tmp_path / "out"), "--seeds", "1"]) == 1
    assert "two seeds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
