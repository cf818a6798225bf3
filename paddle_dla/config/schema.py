"""The config as one value: all sections, and values derived from several of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from paddle_dla.config.kinds import STRICT
from paddle_dla.config.option import Option, fields, options
from paddle_dla.config.sections import (
    Data,
    Ema,
    Evaluate,
    Loss,
    Mixing,
    Model,
    Optimizer,
    Schedule,
    Train,
    Transform,
)
from paddle_dla.models.registry import find_model
from paddle_dla.preprocessing import Preprocessing


@dataclass(frozen=True, config=STRICT)
class Config:
    """All settings of a training run or an evaluation; immutable, comparable, and written beside the results."""

    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    transform: Transform = Field(default_factory=Transform)
    mixing: Mixing = Field(default_factory=Mixing)
    loss: Loss = Field(default_factory=Loss)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    ema: Ema = Field(default_factory=Ema)
    train: Train = Field(default_factory=Train)
    evaluate: Evaluate = Field(default_factory=Evaluate)

    @property
    def total_epochs(self) -> int:
        """All epochs of the run: those of the schedule, a warm-up prefix (a whole number) and a cool-down."""
        before = int(self.schedule.warmup_epochs) if self.schedule.warmup_prefix else 0
        return self.train.epochs + before + self.schedule.cooldown_epochs

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing of evaluation.

        Raises ``ValueError`` for an unknown model or an impossible preprocessing, ``CheckpointError`` for a folder that
        is not a port.
        """
        return self.transform.preprocessing(find_model(self.model.name).card.preprocessing)

    def train_input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of a training image."""
        return self.transform.train.input_size or self.preprocessing().input_size


def known_options() -> dict[str, Option]:
    """Return every option by its dotted key, in the order of the sections."""
    return {item.key: item for item in options(Config)}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a config, or of one section, by dotted key."""
    values = {}
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        values |= flat(value, f"{prefix}{name}.") if is_dataclass(value) else {f"{prefix}{name}": value}
    return values


def build(values: Mapping[str, Any], section: type = Config, prefix: str = "") -> tuple[Any, list[str]]:
    """Build a config from ``values`` by dotted key, with defaults for the rest; also return the refused keys.

    A refused value is replaced by the default, so that all other values can be checked, too. Lists are tuples here.
    """
    own, refused = {}, []
    for name, item in fields(section).items():
        key = f"{prefix}{name}"
        if isinstance(item.annotation, type) and is_dataclass(item.annotation):
            own[name], inside = build(values, item.annotation, f"{key}.")
            refused += inside
        elif key in values:
            own[name] = values[key]
    try:
        return section(**own), refused
    except ValidationError as error:
        wrong = dict.fromkeys(str(fault["loc"][0]) for fault in error.errors())
        right = {name: value for name, value in own.items() if name not in wrong}
        return section(**right), [*refused, *(f"{prefix}{name}" for name in wrong)]
