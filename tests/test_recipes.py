"""The files of ``configs``: each loads, says where it comes from, and costs what it says; each model has one."""

import re
from pathlib import Path

import pytest

pytest.importorskip("yaml")

import make_configs

from paddle_dla.config import load_config, parse_config, to_yaml
from paddle_dla.config.cost import cost
from paddle_dla.config.schema import known_options
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import VARIANTS

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
RECIPES = sorted((CONFIGS / "recipes").glob("*.yaml"))
PAGE = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")


def name(file):
    return str(file.relative_to(CONFIGS))


def header(file):
    """The comment that a file begins with, each part in one line, by its first word."""
    text = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))[0]
    parts = re.split(r"\n# (?=Source:|Cost:|Accuracy:)", text.rstrip())
    joined = [re.sub(r"\n#\s*", " ", part).removeprefix("# ") for part in parts]
    return {part.partition(": ")[0]: part.partition(": ")[2] for part in joined[1:]} | {"Summary": joined[0]}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_file_loads_and_reads_back(file):
    config = load_config(file)
    assert parse_config(to_yaml(config)) == config


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_file_says_source_cost_and_accuracy(file):
    said = header(file)
    assert said.keys() == {"Summary", "Source", "Cost", "Accuracy"}
    assert all(said.values())


@pytest.mark.parametrize("file", FILES, ids=name)
def test_the_cost_is_the_computed_one(file):
    config, said = load_config(file), header(file)["Cost"]
    images = int(re.search(r"x ([\d,]+) images", said)[1].replace(",", ""))
    expected = str(cost(config, images))
    assert said == (f"{expected} ({config.model.name})" if file in RECIPES else expected)


def test_a_cost_of_other_epochs_would_be_seen():
    file = CONFIGS / "dla60.yaml"
    assert header(file)["Cost"] != str(cost(load_config(file, ["train.epochs=114"])))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_source_is_a_page_a_recipe_or_the_project_itself(file):
    source = header(file)["Source"]
    named = re.findall(r"recipes/\w+\.yaml", source)
    assert all((CONFIGS / recipe).is_file() for recipe in named)
    assert named or "https://" in source


@pytest.mark.parametrize("file", FILES, ids=name)
def test_an_accuracy_is_a_published_number_or_none(file):
    said = header(file)["Accuracy"]
    assert re.search(r"\d\d\.\d+/\d\d\.\d+", said) or said.startswith("not published")


@pytest.mark.parametrize("model", VARIANTS)
def test_every_model_has_a_file_that_adds_only_its_name(model):
    file = CONFIGS / f"{model}.yaml"
    settings = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert re.fullmatch(rf"base: recipes/\w+\.yaml\nmodel:\n  name: {model}", "\n".join(settings))
    assert load_config(file).model.name == model


@pytest.mark.parametrize("model", VARIANTS)
def test_a_models_file_tells_the_score_of_its_published_weights(model):
    published = PRETRAINED[model]
    assert f"{published.top1:.3f}/{published.top5:.3f}" in header(CONFIGS / f"{model}.yaml")["Accuracy"]


@pytest.mark.parametrize("model", VARIANTS)
@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_every_recipe_can_be_taken_for_every_model(recipe, model):
    config = load_config(CONFIGS / f"{model}.yaml", [f"base=recipes/{recipe.name}"])
    assert config == load_config(recipe, [f"model.name={model}"])


def test_the_authors_recipe_is_the_authors():
    """https://arxiv.org/abs/1707.06484: 0.1 at batch 256, 120 epochs, divided by 10 every 30."""
    config = load_config(CONFIGS / "recipes" / "original.yaml")
    assert (config.optimizer.name, config.optimizer.learning_rate(256), config.total_epochs) == ("momentum", 0.1, 120)
    assert (config.schedule.name, config.schedule.decay_epochs, config.schedule.decay_rate) == ("step", 30, 0.1)


def test_the_best_known_recipe_is_as_reported():
    """Cosine, 5 of 120 epochs warm-up, 0.04 at batch 512, mixup 0.2, smoothing 0.1: 77.67/94.00 for dla60."""
    file = CONFIGS / "recipes" / "best.yaml"
    config = load_config(file)
    assert (config.schedule.name, config.schedule.warmup_epochs, config.total_epochs) == ("cosine", 5, 120)
    assert (config.optimizer.learning_rate(512), config.mixing.mixup_alpha, config.loss.smoothing) == (0.04, 0.2, 0.1)
    assert "77.67/94.00" in header(file)["Accuracy"]


def test_the_modern_recipe_is_procedure_a2():
    """https://arxiv.org/abs/2110.00476: LAMB 5e-3 at 2048, BCE, mixup 0.1, CutMix 1, repeated augmentation 3."""
    config = load_config(CONFIGS / "recipes" / "modern.yaml")
    assert (config.optimizer.name, config.optimizer.learning_rate(2048), config.optimizer.weight_decay) == (
        "lamb",
        5e-3,
        0.02,
    )
    assert (config.loss.name, config.mixing.mixup_alpha, config.mixing.cutmix_alpha) == ("bce", 0.1, 1.0)
    train = config.transform.train
    assert (train.auto_augment, train.aug_repeats, config.total_epochs) == ("rand-m7-mstd0.5-inc1", 3, 300)
    assert config.preprocessing().crop_pct == 0.95


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "words"), [(make_configs.PAGE, {}), (make_configs.CHINESE_PAGE, make_configs.CHINESE)]
)
def test_a_page_is_what_the_schema_makes(page, words):
    """If this fails: ``python docs/make_configs.py``."""
    text = page.read_text(encoding="utf-8")
    assert make_configs.written(text, words) == text


def test_every_word_of_the_chinese_page_is_used():
    chinese = make_configs.CHINESE_PAGE.read_text(encoding="utf-8")
    assert [words for words in make_configs.CHINESE.values() if words not in chinese] == []


def test_a_page_that_went_stale_is_seen():
    stale = PAGE.replace("| `train.epochs` | `120` |", "| `train.epochs` | `90` |")
    assert make_configs.written(stale) == PAGE != stale


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="no part from <!-- options -->"):
        make_configs.written(PAGE.replace("<!-- options -->", ""))


@pytest.mark.parametrize("key", known_options())
def test_every_option_has_its_line(key):
    item = known_options()[key]
    assert re.search(
        rf"^\| `{re.escape(key)}` \| `.*` \| {re.escape(item.expected)} \| {re.escape(item.doc)} \|$", PAGE, re.M
    )


def test_a_large_bound_is_told_exactly():
    assert known_options()["model.num_classes"].expected == "a whole number, at least 1 and at most 1048576, or null"


def test_the_faults_that_the_page_shows_are_real(tmp_path, monkeypatch):
    from paddle_dla.config import ConfigError

    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("model:\n  name: dla60\noptimizer:\n  momentun: 0.9\n\ntrain:\n  epochs: ten\n")
    with pytest.raises(ConfigError) as caught:
        load_config("my.yaml")
    assert f"```\n{caught.value}\n```" in PAGE
