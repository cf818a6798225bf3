"""Configs as text: what YAML means here, and that nothing is lost between a text and its value."""

import struct

import pytest

pytest.importorskip("yaml")

from config_parts import KNOWN, changed, examples, refusal

from paddle_dla.config import Config, difference, parse_config, to_yaml
from paddle_dla.config.schema import flat
from paddle_dla.config.yaml_text import read_options

pytestmark = pytest.mark.any_paddle

# --- reading ---------------------------------------------------------------------------------------------------------

NUMBERS = [
    ("1e-3", 0.001),
    ("1E3", 1000.0),
    ("-0", 0.0),
    ("3", 3.0),
    (".5", 0.5),
    ("5.", 5.0),
    ("010", 10.0),
    ("+1", 1.0),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_numbers_are_read_as_people_write_them(text, value):
    assert parse_config("", overrides=[f"optimizer.weight_decay={text}"]).optimizer.weight_decay == value


@pytest.mark.parametrize("text", ["no", "on", "1_0", "12:30", "2024-01-01", "0x10", "<<", "=", "'1'", "nan"])
def test_texts_stay_texts(text):
    assert parse_config("", overrides=[f"train.output={text}"]).train.output == text.strip("'")


NOT_YAML = [
    ("a: [1", "line 1: expected ',' or ']'"),
    ("a: &x 1\nb: *x", "line 2: anchors"),
    ("a: !!python/object/apply:os.system [ls]", "line 1: could not determine a constructor"),
    ("- 1", "expected sections such as `model:`, not a single value"),
    ("model", "expected sections such as `model:`, not a single value"),
    ("a: 1\n---\nb: 2", "but found another document"),
    ("train: {epochs: 1, epochs: 2}", "train.epochs: said before, in my.yaml:1"),
    ("train: {epochs: 1}\ntrain: {seed: 2}", "my.yaml:2: train: said before, in my.yaml:1"),
    ("train: {epochs: 1}\ntrain.epochs: 2", "my.yaml:2: train.epochs: said before, in my.yaml:1"),
    ("\x00", "not YAML that can be read"),
    (f"train: {{seed: {'9' * 5000}}}", "not YAML that can be read"),
    (f"optimizer: {{lr: {'9' * 400}}}", "optimizer.lr: expected a number"),
    ("[" * 5000, "not YAML that can be read"),
]


@pytest.mark.parametrize(("text", "reason"), NOT_YAML)
def test_what_is_not_plain_yaml_is_told(text, reason):
    assert reason in refusal(text)[0]


def test_nothing_in_a_file_is_executed(tmp_path):
    marker = tmp_path / "executed"
    refusal(f"model: {{name: !!python/object/apply:os.mkdir ['{marker}']}}")
    assert not marker.exists()


# --- writing and reading back ----------------------------------------------------------------------------------------

TEXTS = [
    "no",
    "1e-3",
    "1",
    "~",
    "null",
    "true",
    "010",
    "a: b",
    "- a",
    "#a",
    " a ",
    "a\nb",
    "äöü 数据",
    "'",
    '"',
    "*a",
    "@",
    "x" * 300,
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_being_written(text):
    config = changed(train__output=text, train__freeze=("level0", "level1.x"))
    assert parse_config(to_yaml(config)) == config


def test_floats_survive_being_written_to_the_last_bit():
    bits = [0x3FB999999999999A + step for step in range(50)] + [
        0x3810000000000000,  # the smallest that float32 does not take for 0
        0x7FEFFFFFFFFFFFFF,
        0x3EB0C6F7A0B5ED8D,
    ]
    for value in (struct.unpack("d", struct.pack("Q", pattern))[0] for pattern in bits):
        config = changed(optimizer__weight_decay=value)
        assert parse_config(to_yaml(config)).optimizer.weight_decay.hex() == value.hex()


@pytest.mark.parametrize("key", KNOWN)
def test_any_other_value_of_an_option_survives_being_written(key):
    """The text says each value such that it is read as the same one; whether options go together is not asked here."""
    values = examples(KNOWN[key].kind)
    assert values
    for value in values:
        given, faults = read_options(to_yaml(changed(**{key: value})), "written")
        assert not faults
        assert given[key].value == (list(value) if isinstance(value, tuple) else value)
        assert type(given[key].value) is (list if isinstance(value, tuple) else type(value))


def test_every_option_is_written():
    text = to_yaml(Config())
    assert flat(parse_config(text)).keys() == KNOWN.keys()
    assert text.count("\n") == len(KNOWN) + len({key.rpartition(".")[0] for key in KNOWN})  # a line each, and each head


def test_configs_that_differ_say_in_what():
    changes = difference(changed(train__epochs=3), changed(train__epochs=4, transform__train__scale=(0.5, 1.0)))
    assert [str(change) for change in changes] == [
        "transform.train.scale: [0.08, 1.0] -> [0.5, 1.0]",
        "train.epochs: 3 -> 4",
    ]
    assert difference(Config(), Config()) == ()
