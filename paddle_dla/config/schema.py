"""The config as one value: all sections, and what follows from more than one of them."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from typing import Any

from paddle_dla.config.option import Option, options
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


@dataclass(frozen=True)
class Config:
    """Everything that a training run or an evaluation is told; immutable, comparable, written beside the results."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    transform: Transform = field(default_factory=Transform)
    mixing: Mixing = field(default_factory=Mixing)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    ema: Ema = field(default_factory=Ema)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def total_epochs(self) -> int:
        """All epochs of the run: the schedule's, a warm-up prefix (a whole number) and a cool-down."""
        before = int(self.schedule.warmup_epochs) if self.schedule.warmup_prefix else 0
        return self.train.epochs + before + self.schedule.cooldown_epochs

    def preprocessing(self) -> Preprocessing:
        """How images are prepared for evaluation. Raises ``ValueError`` for an unknown model or an impossible
        one, ``CheckpointError`` for a folder that is no port.
        """
        return self.transform.preprocessing(find_model(self.model.name).card.preprocessing)

    def train_input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of a training image."""
        return self.transform.train.input_size or self.preprocessing().input_size


def known_options() -> dict[str, Option]:
    """Every option by its dotted key, in the order of the sections."""
    return {item.key: item for item in options(Config)}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config, or of one section, by dotted key."""
    values = {}
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        values |= flat(value, f"{prefix}{name}.") if is_dataclass(value) else {f"{prefix}{name}": value}
    return values


def build(values: dict[str, Any], kind: type = Config, prefix: str = "") -> Any:
    """The config with ``values`` by dotted key, defaults for the rest; the reverse of ``flat``."""
    made = {}
    for name, item in kind.__dataclass_fields__.items():
        key = f"{prefix}{name}"
        if key in values:
            made[name] = values[key]
        elif isinstance(item.default_factory, type):
            made[name] = build(values, item.default_factory, f"{key}.")
    return kind(**made)
