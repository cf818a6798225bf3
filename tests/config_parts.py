"""Configs for the tests of configs: what is known, what is refused, and the defaults with a change."""

from __future__ import annotations

import pytest

from paddle_dla.config import Config, ConfigError, parse_config
from paddle_dla.config.schema import build, known_options

KNOWN = known_options()


def refusal(text: str = "", *overrides: str) -> list[str]:
    """The faults of a config, as text."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "my.yaml", overrides)
    return [str(fault) for fault in caught.value.faults]


def changed(**options: object) -> Config:
    """The default config with some options at other values; ``__`` stands for the dot."""
    return build({key.replace("__", "."): value for key, value in options.items()})
