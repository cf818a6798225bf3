"""Read a file and overrides to a ``Config``, or raise one error that lists all faults.

Layers, later ones override earlier ones: the file named by ``base:`` (after its own base), the file itself, each
override. All are read before anything is checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle_dla.config.aliases import refused, translate
from paddle_dla.config.errors import ConfigError, Fault
from paddle_dla.config.given import OVERRIDE, Given
from paddle_dla.config.option import Option
from paddle_dla.config.rules import faults_of
from paddle_dla.config.schema import Config, build, known_options
from paddle_dla.config.suggestion import nearest
from paddle_dla.storage.regular import read_text

BASE = "base"
Renaming = Callable[[Mapping[str, Given]], tuple[dict[str, Given], list[str], list[Fault]]]
"""What becomes of older names: the options under today's names, notes, and faults."""
PATHS = ("model.pretrained", "loss.distillation.checkpoint", "train.output", "train.resume")
"""Options in which ``~/`` is expanded, as in those of ``data``: no shell expands it in a file or after a ``=``."""
MOST_TEXT = 2**20
"""Largest config in bytes: hundreds of times the size of all options."""


def in_home(path: str) -> str:
    """Expand ``~/`` at the start of ``path`` to the user's folder. A path ``~`` alone is kept: it may be a name."""
    return os.path.expanduser(path) if path.startswith("~/") else path


@dataclass(frozen=True)
class Translated:
    """A config, and a note with the current name of each of its older options."""

    config: Config
    notes: tuple[str, ...]


def load_config(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Config:
    """Read the config in the YAML file ``path``, changed by ``overrides`` such as ``optimizer.lr=1e-3``.

    ``options`` are values from dedicated command-line options. They are not YAML: a ``#`` in them starts no comment.

    Raises ``ConfigError``, with all faults at once, for an unreadable file, unknown options, older names
    (``translate_config``), wrong types or values, and options that exclude each other.
    """
    layers, faults = _layers(path, overrides, options)
    return _assembled(layers, faults, refused).config


def translate_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Translated:
    """Read a config like ``load_config``, but with PaddleClas's older names, too, and return what they are today."""
    return _assembled(*_layers(path, overrides), translate)


def parse_config(text: str, source: str = "config", overrides: Sequence[str] = ()) -> Config:
    """Read the config in the YAML ``text``, which may name no base; ``source`` names it in messages."""
    changes, faults = _read_overrides(overrides)
    given, text_faults = _options(text, source)
    return _assembled([given, changes], [*text_faults, *faults], refused).config


def _layers(
    path: str | os.PathLike[str], overrides: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[list[dict[str, Given]], list[Fault]]:
    changes, faults = _read_overrides(overrides)
    changes |= {key: Given(value, OVERRIDE, key) for key, value in (options or {}).items()}
    layers, file_faults = _read_files(Path(path), changes.pop(BASE, None))
    return [*layers, changes], [*file_faults, *faults]


def _read_overrides(overrides: Iterable[str]) -> tuple[dict[str, Given], list[Fault]]:
    found: dict[str, Given] = {}
    faults = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            faults.append(Fault(OVERRIDE, (), f"{override!r} is not KEY=VALUE, such as optimizer.lr=0.1"))
            continue
        given, new_faults = _options(text, OVERRIDE, key.strip())
        found |= given
        faults += new_faults
    return found, faults


def _read_files(
    path: Path, base: Given | None, where: str = "", above: tuple[Path, ...] = ()
) -> tuple[list[dict[str, Given]], list[Fault]]:
    """Read the layers of ``path`` and of its bases, the deepest first; ``base`` replaces the one named by ``path``.

    ``where`` is where ``path`` was named; ``above`` are the files that lead to it.
    """
    chain = (*above, path.resolve())
    if path.resolve() in above:
        return [], [Fault(where, (BASE,), f"files are each other's base: {' -> '.join(map(str, chain))}")]
    try:
        text = read_text(path, MOST_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        return [], [Fault(where, (BASE,) if where else (), f"cannot read {path}: {reason}")]
    given, faults = _options(text, str(path))
    named = given.pop(BASE, None)
    base = base or named
    if base is None or base.value is None:
        return [given], faults
    if not isinstance(base.value, str):
        return [given], [*faults, Fault(base.where, (BASE,), f"expected a file's name, not {base.value!r}")]
    layers, base_faults = _read_files(path.parent / in_home(base.value), None, base.where, chain)
    return [*layers, given], [*base_faults, *faults]


def _options(text: str, source: str, prefix: str = "") -> tuple[dict[str, Given], list[Fault]]:
    # PyYAML comes with an extra; --help works without it
    from paddle_dla.config.yaml_text import read_options

    return read_options(text, source, prefix)


def _assembled(layers: Sequence[dict[str, Given]], faults: Sequence[Fault], renamed: Renaming) -> Translated:
    known = known_options()
    merged: dict[str, Given] = {}
    for number, layer in enumerate(layers):
        merged |= {key: replace(given, layer=number) for key, given in layer.items()}
    given, notes, alias_faults = renamed(merged)
    config, value_faults = _checked(given, known)
    all_faults = [*faults, *alias_faults, *value_faults]
    all_faults += _combined(config, given, {key for fault in all_faults for key in fault.keys})
    if all_faults:
        raise ConfigError(all_faults)
    return Translated(config, tuple(notes))


def _checked(given: dict[str, Given], known: dict[str, Option]) -> tuple[Config, list[Fault]]:
    """Return the config of all valid values in ``given``, and a fault for each other, in the order given."""
    config, refused = build({key: _plain(key, item.value) for key, item in given.items() if key in known})
    faults = []
    for key, item in given.items():
        if key not in known:
            faults.append(Fault(item.where, (key,), _unknown(key, known)))
        elif key in refused:
            today = "" if item.said == key else f" (from {item.said})"
            faults.append(Fault(item.where, (key,), f"{known[key].refusal(item.value)}{today}"))
    return config, faults


def _plain(key: str, value: Any) -> Any:
    """Convert a ``value`` from YAML for a config: lists become tuples, and ``~/`` the user's folder."""
    if isinstance(value, list):
        return tuple(_plain(key, item) for item in value)
    return in_home(value) if key in PATHS and isinstance(value, str) else value


def _unknown(key: str, known: dict[str, Option]) -> str:
    inside = [other for other in known if other.startswith(f"{key}.")]
    if inside:
        return f"is a section; its options are {', '.join(inside)}"
    parents = [other for other in known if key.startswith(f"{other}.")]
    if parents:
        return f"unknown option: {parents[0]} takes a value and has nothing below it"
    if key == BASE:
        return "only a file may have a base"
    sections = {other.rpartition(".")[0] for other in known}
    meant = nearest(key, [*known, *sections])
    return f"unknown option; did you mean {meant}?" if meant else "unknown option; docs/configs.md lists all"


def _combined(config: Config, given: dict[str, Given], faulty: set[str]) -> list[Fault]:
    """Return the options that exclude each other, without those that already have faults, and where they were given."""
    found = []
    for fault in faults_of(config):
        if not faulty & set(fault.keys):
            places = dict.fromkeys(given[key].where for key in fault.keys if key in given)
            found.append(replace(fault, where=", ".join(places)))
    return found
