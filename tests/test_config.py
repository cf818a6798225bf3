"""The config: what may be given, what is refused and how, and which file or override has the last word."""

import configparser
import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("yaml")

from config_parts import KNOWN, bounds, changed, choices, refusal

from paddle_dla.config import Config, ConfigError, load_config, parse_config, to_yaml
from paddle_dla.config import show as show_command
from paddle_dla.config.sections import Train

pytestmark = pytest.mark.any_paddle

# --- what may be given -----------------------------------------------------------------------------------------------


def test_an_empty_file_is_the_default_config():
    assert parse_config("") == Config()


def test_a_section_with_nothing_in_it_is_at_its_defaults():
    assert parse_config("mixing:\nloss:\n  smoothing: 0.1\n") == changed(loss__smoothing=0.1)


def test_defaults_are_accepted_where_they_are_written_out():
    assert parse_config(to_yaml(Config())) == Config()


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.epochs = 3


@pytest.mark.parametrize(
    "wrong", [{"epochs": "3"}, {"epochs": 3.0}, {"epochs": True}, {"epoch": 3}, {"freeze": ["level0"]}, {"seed": -1}]
)
def test_a_section_made_in_python_is_checked_as_one_from_a_file(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Train(**wrong)


@pytest.mark.parametrize("key", KNOWN)
def test_every_option_refuses_a_list_of_lists(key):
    [fault] = refusal("", f"{key}=[[1]]")
    assert fault == f"-o: {key}: expected {KNOWN[key].expected}, not [[1]]"


WRONG = [
    ("train.epochs", "ten", "expected a whole number, at least 1, not the text 'ten'"),
    ("train.epochs", "1.5", "expected a whole number, at least 1, not 1.5"),
    ("train.epochs", "true", "expected a whole number, at least 1, not true"),
    ("train.epochs", "null", "expected a whole number, at least 1, not null"),
    ("train.epochs", "", "expected a whole number, at least 1, not null"),
    ("train.epochs", "0", "expected a whole number, at least 1, not 0"),
    ("train.epochs", "1_000", "expected a whole number, at least 1, not the text '1_000'"),
    ("optimizer.weight_decay", "-1e-3", "expected a number, at least 0, not -0.001"),
    ("optimizer.weight_decay", "1e400", "expected a number, at least 0, not inf"),
    ("optimizer.weight_decay", ".nan", "expected a number, at least 0, not the text '.nan'"),
    ("optimizer.weight_decay", "yes", "expected a number, at least 0, not the text 'yes'"),
    ("optimizer.momentum", "1", "expected a number, at least 0 and below 1, or null, not 1"),
    ("optimizer.name", "adam", "expected text (one of sgd, momentum, nesterov, adamw, lamb), not the text 'adam'"),
    ("train.output", "", "expected text, not null"),
    ("train.output", "''", "expected text, not the text ''"),
    ("train.output", "3", "expected text, not 3"),
    ("ema.enabled", "no", "expected true or false, not the text 'no'; write false"),
    ("ema.enabled", "on", "expected true or false, not the text 'on'; write true"),
    ("ema.enabled", "1", "expected true or false, not 1"),
    ("transform.train.scale", "[0.1]", "expected a list of 2 numbers, above 0 and at most 1, not [0.1]"),
    ("transform.train.scale", "0.1", "expected a list of 2 numbers, above 0 and at most 1, not 0.1"),
    ("transform.train.scale", "[0, 1]", "expected a list of 2 numbers, above 0 and at most 1, not [0, 1]"),
    ("evaluate.topk", "[5, 1]", "expected a list of ascending whole numbers, at least 1, not [5, 1]"),
    ("evaluate.topk", "[1, 1]", "expected a list of ascending whole numbers, at least 1, not [1, 1]"),
]


@pytest.mark.parametrize(("key", "text", "reason"), WRONG, ids=[f"{key}={text}" for key, text, _ in WRONG])
def test_a_wrong_value_is_told_with_what_is_expected(key, text, reason):
    assert refusal("", f"{key}={text}") == [f"-o: {key}: {reason}"]


BOUNDED = [(key, bound, sign) for key, item in KNOWN.items() for bound, sign in sorted(bounds(item.kind))]


@pytest.mark.parametrize(("key", "bound", "sign"), BOUNDED)
def test_every_bound_holds(key, bound, sign):
    beyond = int(bound) + sign
    default = KNOWN[key].default
    count = len(default) if isinstance(default, tuple) else 3 if "input_size" in key else 2
    texts = [str(beyond), f"[{', '.join([str(beyond)] * count)}]"]
    assert any(KNOWN[key].expected in refusal("", f"{key}={text}")[0] for text in texts)


@pytest.mark.parametrize("key", [key for key, item in KNOWN.items() if choices(item.kind)])
def test_a_choice_that_is_none_is_told_the_choices(key):
    [fault] = refusal("", f"{key}=something")
    assert all(choice in fault for choice in choices(KNOWN[key].kind))


# --- names -----------------------------------------------------------------------------------------------------------


def misspellings(key):
    head, dot, last = key.rpartition(".")
    yield f"{head}{dot}{last}{last[-1]}"
    yield f"{head}{dot}{last[:-1]}" if len(last) > 3 else f"{head}{dot}{last}s"
    yield f"{head}{dot}{last[0]}{last[2]}{last[1]}{last[3:]}" if len(set(last[1:3])) > 1 else f"{head}{dot}{last}_"
    section, _, rest = key.partition(".")
    yield f"{section[:-1]}.{rest}"
    yield f"{section.capitalize()}s.{rest}"


@pytest.mark.parametrize("key", KNOWN)
def test_a_misspelt_option_is_told_the_right_one(key):
    wrong = [name for name in misspellings(key) if name not in KNOWN]
    assert wrong
    for name in wrong:
        assert refusal(f"{name}: 1\n") == [f"my.yaml:1: {name}: unknown option; did you mean {key}?"], name


STRANGE = [
    ("lr: 0.1", "my.yaml:1: lr: unknown option; did you mean optimizer.lr?"),
    ("modle:\n  name: dla60", "my.yaml:2: modle.name: unknown option; did you mean model.name?"),
    ("modle: dla60", "my.yaml:1: modle: unknown option; did you mean model?"),
    (
        "optimizer:\n  lr:\n    base: 1",
        "my.yaml:3: optimizer.lr.base: unknown option: optimizer.lr takes a value and has",
    ),
    ("ema: true", "my.yaml:1: ema: is a section; its options are ema.enabled, ema.decay, ema.warmup"),
    ("xyzzy: 1", "my.yaml:1: xyzzy: unknown option; docs/configs.md lists all"),
    ("base: other.yaml", "my.yaml:1: base: only a file may have a base"),
]


@pytest.mark.parametrize(("text", "fault"), STRANGE)
def test_what_is_no_option_is_told_what_was_meant(text, fault):
    assert refusal(text)[0].startswith(fault)


def test_all_faults_are_reported_together():
    """Of YAML's reading, of names, types and ranges, of the model's name and of combinations."""
    text = "optimizer:\n  momentun: 0.9\ntrain:\n  epochs: ten\n  sync_bn: true\n  device: cpu\nmodel: {name: dla61}\n"
    blamed = [fault.split(": ")[1] for fault in refusal(text, "data.batch_size=0", "nonsense")]
    expected = ["'nonsense' is not KEY=VALUE, such as optimizer.lr=0.1", "optimizer.momentun", "train.epochs"]
    assert blamed == [*expected, "data.batch_size", "model.name", "train.sync_bn"]


def test_the_error_counts_its_faults():
    with pytest.raises(ConfigError, match=r"^2 faults in the config\n  my.yaml:1: a: .*\n  my.yaml:2: b: "):
        parse_config("a: 1\nb: 2\n", "my.yaml")


def test_a_faulty_option_is_not_blamed_twice():
    """A milestone of the wrong type is no milestone after the last epoch, nor a missing one."""
    assert len(refusal("schedule: {name: multistep, decay_milestones: [late]}")) == 1


# --- overrides and bases ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def test_an_override_has_the_last_word(files):
    folder = files(a="train: {epochs: 3}")
    assert load_config(folder / "a.yaml", ["train.epochs=4", "train.epochs=5"]).train.epochs == 5


def test_an_override_may_be_a_section():
    assert parse_config("", overrides=["ema={enabled: true, decay: 0.9}"]) == changed(ema__enabled=True, ema__decay=0.9)


def test_an_override_may_hold_an_equals_sign():
    assert parse_config("", overrides=["train.output=a=b"]).train.output == "a=b"


def test_a_file_stands_over_its_base_and_the_base_over_its_own(files):
    folder = files(
        a="base: b.yaml\ntrain: {epochs: 1}",
        b="base: c.yaml\ntrain: {epochs: 2, seed: 2}",
        c="train: {epochs: 3, seed: 3, log_interval: 3}",
    )
    assert load_config(folder / "a.yaml") == changed(train__epochs=1, train__seed=2, train__log_interval=3)


def test_a_base_is_relative_to_the_file_that_names_it(files):
    folder = files(a="base: inner/b.yaml")
    (folder / "inner").mkdir()
    (folder / "inner" / "b.yaml").write_text("base: ../c.yaml\n")
    files(c="train: {epochs: 3}")
    assert load_config(folder / "a.yaml").train.epochs == 3


def test_another_base_can_be_given_by_an_override(files):
    folder = files(a="base: b.yaml\nmodel: {name: dla34}", b="train: {seed: 1}", c="train: {epochs: 3}")
    assert load_config(folder / "a.yaml", ["base=c.yaml"]) == changed(model__name="dla34", train__epochs=3)


def test_files_that_are_each_others_base_are_told_in_order(files):
    folder = files(a="base: b.yaml", b="train: {epochs: 3}\nbase: a.yaml")
    with pytest.raises(
        ConfigError, match=r"b.yaml:2: base: files are each other's base: \S*a.yaml -> \S*b.yaml -> \S*a"
    ):
        load_config(folder / "a.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("base: none.yaml", "a.yaml:1: base: cannot read .*none.yaml: No such file"), ("base: 3", "expected a file")],
)
def test_a_base_that_cannot_be_read_is_told(files, text, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config(files(a=text) / "a.yaml")


def test_a_file_that_is_missing_or_no_text_is_told(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    for name, reason in (("none.yaml", "No such file"), ("binary.yaml", "not text in UTF-8"), ("", "Is a directory")):
        with pytest.raises(ConfigError, match=f"cannot read .*{reason}"):
            load_config(tmp_path / name)


def test_faults_of_a_base_name_the_base(files):
    with pytest.raises(ConfigError, match=r"b.yaml:2: trian.epochs"):
        load_config(files(a="base: b.yaml", b="\ntrian: {epochs: 3}") / "a.yaml")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_config_that_reads_back(files, capsys):
    file = files(a="train: {epochs: 3}") / "a.yaml"
    assert show_command.main(["--config", str(file), "-o", "train.seed=1", "model.name=dla34"]) == 0
    printed = capsys.readouterr().out
    assert "# cost: 3 epochs x 1,281,167 images x 3 x 3.06 GMACs = " in printed
    assert parse_config(printed) == load_config(file, ["train.seed=1", "model.name=dla34"])


def test_the_command_lists_all_faults_and_fails(files, capsys):
    assert show_command.main(["-c", str(files(a="a: 1\nb: 2") / "a.yaml")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("paddle-dla config: 2 faults in the config\n")


def test_the_command_is_a_subcommand_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    commands = setup["options.entry_points"]["paddle_dla.commands"].split("\n")
    assert f"config = {show_command.__name__}:{show_command.main.__name__}" in commands


# --- timm's names ----------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_options_bear_timms_names():
    import inspect

    from torch_ref.model import import_timm

    import_timm()
    from timm.data import Mixup, create_transform
    from timm.scheduler import create_scheduler_v2

    ours = {"aug_repeats", "off_epoch", "name", "per_epoch"}
    for section, function in (
        ("transform.train", create_transform),
        ("mixing", Mixup),
        ("schedule", create_scheduler_v2),
    ):
        names = {key.rpartition(".")[2] for key in KNOWN if key.rpartition(".")[0] == section}
        assert names - ours <= inspect.signature(function).parameters.keys(), section
