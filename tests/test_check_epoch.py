"""Whole epochs in torch and in Paddle: alignment/check_epoch.py."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yaml")
pytest.importorskip("matplotlib")

from made_ports import make_port

from alignment import check_epoch
from alignment.check_epoch import main, refuse_unknown
from alignment.engine.result import ALIGNED, DIFFERS, UNDECIDED
from alignment.epoch_runs import WORDS, Run, Seed, Validation, judged, sentence, table
from alignment.equivalence import equivalence
from paddle_dla.config import parse_config
from paddle_dla.config.schema import build, flat

pytestmark = pytest.mark.torch


HARD = Validation(images=10_000, chance=10.0)


def seeds(*pairs, validation=HARD):
    return [
        Seed(number, Run([2.0, 1.0], pair[0]), Run([2.0, 1.1], pair[1]), validation)
        for number, pair in enumerate(pairs)
    ]


def test_the_interval_is_students():
    found = equivalence([1.0, 2.0, 3.0, 6.0], margin=1.0)
    # mean 3, deviation sqrt(14 / 3), t of 3 degrees of freedom at 95 % from a table: 2.3534
    width = 2.3534 * (14 / 3) ** 0.5 / 2
    assert (found.pairs, found.mean) == (4, pytest.approx(3))
    assert (found.low, found.high) == pytest.approx((3 - width, 3 + width), rel=1e-4)


@pytest.mark.parametrize(("shift", "share"), [(0.0, (0.85, 1)), (1.0, (0.01, 0.09))])
def test_what_is_as_far_apart_as_the_margin_passes_once_in_twenty(shift, share):
    draw = np.random.default_rng(0)
    passed = [equivalence(draw.normal(shift, 0.5, 6), 1.0).verdict == ALIGNED for _ in range(300)]
    # of 300 draws at the margin 5 % are 15, with a standard deviation of 3.8; three of them up is 27
    assert share[0] <= np.mean(passed) <= share[1]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(80.0, 80.5), (81.0, 80.6), (80.4, 80.4), (79.9, 80.1)], ALIGNED),
        ([(80.0, 76.5), (81.0, 77.2), (80.4, 77.8), (79.9, 76.7)], DIFFERS),  # worse
        ([(80.0, 83.3), (81.0, 84.2), (80.4, 83.5), (79.9, 83.1)], DIFFERS),  # better
        # means as far apart as in 40 % of all draws: a test for differences finds none, and shows nothing
        ([(76.0, 84.5), (85.0, 77.2), (80.4, 87.0), (79.9, 79.9)], UNDECIDED),
    ],
)
def test_what_the_seeds_change_decides_whether_anything_was_shown(pairs, expected):
    found = judged(seeds(*pairs), margin=1.0)
    assert found.verdict == expected
    assert sentence(seeds(*pairs), found).startswith(WORDS[expected])


@pytest.mark.parametrize(
    ("pair", "validation", "said"),
    [
        ((10.2, 10.1), HARD, "learned nothing"),
        ((11.4, 11.4), HARD, "learned nothing"),  # above chance, but by less than the margin
        ((71.0, 71.0), Validation(1_000, 70.0), "learned nothing"),  # the most frequent class
        ((80.0, 80.0), Validation(16, 10.0), "more images"),
    ],
)
def test_a_comparison_that_proves_nothing_is_refused(pair, validation, said):
    with pytest.raises(ValueError, match=said):
        judged(seeds(pair, pair, pair, pair, validation=validation), margin=1.0)


def test_every_seed_has_a_line():
    lines = table(seeds((80.0, 80.5), (81.0, 80.75))).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "2", "1.0000", "1.1000", "80.00", "80.50", "+0.50"],
        ["1", "2", "1.0000", "1.1000", "81.00", "80.75", "-0.25"],
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


def arguments(recipe, output, *overrides, seeds=(0, 1, 2)):
    names = ["--seeds", *map(str, seeds)]
    return ["--config", str(recipe), "--output", str(output), *names, "-o", "train.seed=7", *overrides]


def compare(recipe, output, monkeypatch, *overrides, seeds=(0,)):
    """The losses of torch and of Paddle on each seed, (updates,) each."""
    monkeypatch.setattr(check_epoch, "FEWEST", 1)
    # sixteen images and four updates tell nothing of the accuracy, and the end of the run says so
    monkeypatch.setattr(check_epoch, "refuse_meaningless", lambda *given: None)
    assert main(arguments(recipe, output, *overrides, seeds=seeds)) == 1
    found = [json.loads((output / f"seed{seed}" / "losses.json").read_text())["runs"] for seed in seeds]
    return [(np.array(runs["torch"]["losses"]), np.array(runs["paddle"]["losses"])) for runs in found]


# BatchNorm over eight images of noise magnifies rounding: in float32 four losses of a fresh network were up to 4e-3
# apart; the faults below move one by more than 0.1
CLOSE = 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "of_a_port", [pytest.param(False, id="dla", marks=pytest.mark.heavy), pytest.param(True, id="port")]
)
def test_both_see_the_same_batches_and_take_the_same_steps(recipe, tmp_path, capsys, monkeypatch, of_a_port):
    more, seeds = ["mixing.mixup_alpha=0.2"], (0, 1)
    if of_a_port:
        port = make_port("test_resnet", tmp_path, "--input-shape", "3x64x64")
        more = [f"model.name={port}", "train.freeze=[conv1]", "optimizer.name=adamw", "optimizer.layer_decay=0.5"]
        seeds = (0,)
    found = compare(recipe, tmp_path / "out", monkeypatch, *more, seeds=seeds)
    for theirs, ours in found:
        assert len(ours) == len(theirs) == 4
        assert (abs(ours - theirs) <= CLOSE * theirs).all()
    assert len(seeds) == 1 or (found[0][0] != found[1][0]).all()
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert "more images" in capsys.readouterr().err


def test_torch_freezes_and_decays_the_rate_as_the_recipe_says():
    from torch_ref.epochs import Options, train_epochs
    from torch_ref.model import create_model

    def update(**options):
        model, draw = create_model("test_resnet", seed=0, num_classes=2), np.random.default_rng(0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        batch = draw.standard_normal((4, 3, 32, 32), "float32"), np.array([0, 1, 0, 1])
        plain = Options("momentum", 1e-3, 0.0, 0.0, "cosine", 1, 0, 0, 0, False)
        assert len([*train_epochs(model, [[batch]], replace(plain, **options), 1)]) == 1
        return {name: (value - before[name]).double() for name, value in model.state_dict().items()}

    plain, frozen, decayed = update(), update(freeze=("conv1", "bn1")), update(layer_decay=0.5)
    kept = {name for name, change in plain.items() if change.any() and not frozen[name].any()}
    assert kept == {name for name in plain if name.startswith(("conv1.", "bn1."))}
    rates = {name: float(decayed[name].norm() / plain[name].norm()) for name in ("bn1.weight", "fc.weight")}
    # six groups: the stem, four stages, the classifier, whose rate is not lowered; weights of 1 keep 7 digits
    assert rates == pytest.approx({"bn1.weight": 0.5**5, "fc.weight": 1}, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"optimizer.lr": 1e-3}, id="rate", marks=pytest.mark.heavy),
        pytest.param({"train.seed": 8}, id="order"),
    ],
)
def test_another_recipe_on_one_side_is_seen(recipe, tmp_path, monkeypatch, fault):
    own = check_epoch.train_torch
    monkeypatch.setattr(
        check_epoch,
        "train_torch",
        lambda config, *rest, **more: own(build({**flat(config), **fault})[0], *rest, **more),
    )
    theirs, ours = compare(recipe, tmp_path / "out", monkeypatch)[0]
    assert (abs(ours - theirs) > CLOSE * theirs).any()


def test_what_is_done_is_not_trained_again_nor_mixed_with_another_recipe(recipe, tmp_path, monkeypatch, capsys):
    def train(config, command, output, control, say):
        trained.append((config.train.seed, control))
        again = Run([2.0], 70.0) if control else None
        return Seed(config.train.seed, Run([2.0], 70.0), Run([2.1], 70.0), HARD, again)

    trained = []
    monkeypatch.setattr(check_epoch, "train_both", train)
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed2").mkdir()
    assert main(arguments(recipe, tmp_path)) == 0
    assert trained == [(0, True), (1, False), (2, False)]  # torch a second time on the first seed alone
    told = capsys.readouterr().out
    assert "torch again on seed 0, with each batch in reverse order: top-1 70.00" in told
    assert main(arguments(recipe, tmp_path)) == 0
    assert capsys.readouterr().out == told
    assert len(trained) == 3
    assert main(arguments(recipe, tmp_path, "optimizer.lr=0.5")) == 1
    assert "is of another recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [(["--seeds", "1", "2"], "--seeds"), (["--margin", "0"], "--margin")], ids=["seeds", "margin"]
)
def test_what_could_show_nothing_is_refused_before_anything_is_trained(recipe, tmp_path, capsys, words, said):
    assert main(["--config", str(recipe), "--output", str(tmp_path / "out"), *words]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_reference_that_learns_nothing_ends_the_comparison_at_its_first_seed(recipe, tmp_path, monkeypatch, capsys):
    def train(config, *rest):
        trained.append(config.train.seed)
        return Seed(config.train.seed, Run([2.0], 10.0), Run([2.0], 10.0), HARD)

    trained = []
    monkeypatch.setattr(check_epoch, "train_both", train)
    (tmp_path / "seed0").mkdir()
    assert main(arguments(recipe, tmp_path)) == 1
    assert trained == [0] and "learned nothing" in capsys.readouterr().err
