"""Configs of training and evaluation: one typed schema, YAML files, overrides, and older option names.

``load_config(path, overrides)`` is the entry point. Its result is immutable, and ``to_yaml`` writes it so that it reads
back to the same value. No framework; PyYAML comes with the extra ``train``.
"""

from paddle_dla.config.errors import ConfigError, Fault
from paddle_dla.config.reading import Translated, load_config, parse_config, translate_config
from paddle_dla.config.rules import device_faults
from paddle_dla.config.schema import Config
from paddle_dla.config.writing import Change, difference, to_yaml

__all__ = [
    "Change",
    "Config",
    "ConfigError",
    "Fault",
    "Translated",
    "device_faults",
    "difference",
    "load_config",
    "parse_config",
    "to_yaml",
    "translate_config",
]
