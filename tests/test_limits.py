"""A number that no machine has memory, cores or time for is refused where it is given."""

import subprocess
import sys
from dataclasses import fields

import pytest

from paddle_dla import features, launch
from paddle_dla.config import ConfigError, parse_config
from paddle_dla.config.kinds import HIGHEST
from paddle_dla.config.option import options
from paddle_dla.config.schema import Config

pytestmark = pytest.mark.any_paddle

WHOLE = [option.key for option in options(Config) if "whole number" in option.expected]
FEW = ("data.workers", "train.threads", "model.num_classes", "transform.train.re_count", "transform.train.aug_repeats")


def refusal(override):
    with pytest.raises(ConfigError) as found:
        parse_config("", "x.yaml", [override])
    return str(found.value)


def test_there_are_options_to_test():
    assert fields(Config) and len(WHOLE) > 15 and set(FEW) < set(WHOLE)


@pytest.mark.parametrize("value", [HIGHEST + 1, 10**20, -(10**20), 10**4000])
@pytest.mark.parametrize("key", WHOLE)
def test_no_counter_goes_beyond_what_paddle_counts_to(key, value):
    given = f"[{value}, {value}, {value}]" if key.endswith("input_size") else value
    message = refusal(f"{key}={given}")
    assert key in message and len(message) < 1000


@pytest.mark.parametrize("key", FEW)
def test_what_costs_memory_or_time_each_has_a_limit_of_its_own(key):
    assert key in refusal(f"{key}=1000000000")


def test_an_image_has_a_largest_side():
    assert "input_size" in refusal("transform.train.input_size=[3,1000000,1000000]")


@pytest.mark.parametrize(
    "text",
    ["? {a: b}\n: 1\n", "model:\n  ? {a: b}\n  : 1\n", "? [a]\n: 1\n", "data: {? {a: b} : {c: d}}", "{{a: b}: c}"],
)
def test_a_section_is_no_name_of_an_option(text):
    with pytest.raises(ConfigError, match="expected the name of an option"):
        parse_config(text, "x.yaml")


def test_a_path_holds_no_zero_byte():
    with pytest.raises(ConfigError, match=r"data\.train"):
        parse_config('data: {train: "a\\0b"}', "x.yaml")


@pytest.mark.parametrize("value", ["1000000000", "100000000000000000000", "9" * 5000, "-1", "1e9", "nan"])
@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("evaluate", "--threads"),
        ("evaluate", "--workers"),
        ("features", "--threads"),
        ("launch", "--nproc"),
    ],
)
def test_a_command_refuses_a_number_of_processes_that_no_machine_has(module, option, value, capsys):
    from importlib import import_module

    with pytest.raises(SystemExit) as found:
        import_module(f"paddle_dla.{module}").main([option, value, "train"])
    assert found.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_a_time_to_wait_ends(value, capsys):
    with pytest.raises(SystemExit) as found:
        features.main(["--data", "x", "--output", "y.npy", "--timeout", value])
    assert found.value.code == 2
    assert "--timeout" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x"])
def test_the_silence_of_a_rank_is_measured_against_a_number(value, capsys):
    with pytest.raises(SystemExit) as found:
        launch.main(["--hang-timeout", value, "train"])
    assert found.value.code == 2
    assert "--hang-timeout" in capsys.readouterr().err


def test_logs_that_cannot_be_written_are_refused_before_the_start(tmp_path, capsys):
    """On a file system that is mounted to be read; root may write into any folder of others."""
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        code = launch.main(["--logs", str(tmp_path), sys.executable])
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert code == 1
    assert "Read-only file system" in capsys.readouterr().err
