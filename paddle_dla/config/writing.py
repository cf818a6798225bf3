"""Write a config as text that reads back to the same value, and compare two configs."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Any

from paddle_dla.config.schema import Config, flat


@dataclass(frozen=True)
class Change:
    """One option whose value differs between two configs."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {shown(self.before)} -> {shown(self.after)}"


def to_yaml(config: Config) -> str:
    """Return all options of ``config`` as YAML, with defaults; ``parse_config`` reads it back to an equal config."""
    return _written(config)


def difference(before: Config, after: Config) -> tuple[Change, ...]:
    """Return the options that differ between the two, in the order of the schema."""
    old, new = flat(before), flat(after)
    return tuple(Change(key, old[key], new[key]) for key in old if old[key] != new[key])


def _written(value: Any) -> str:
    # PyYAML comes with an extra; --help works without it
    from paddle_dla.config.yaml_text import write_yaml

    return write_yaml(_nested(value))


def _nested(value: Any) -> Any:
    if is_dataclass(value):
        return {name: _nested(getattr(value, name)) for name in value.__dataclass_fields__}
    return list(value) if isinstance(value, tuple) else value


def shown(value: Any) -> str:
    """Return ``value`` in YAML, in one line."""
    return _written(value).removesuffix("...\n").strip()
