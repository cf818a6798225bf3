"""Every model that the commands take, by one name: a variant of DLA, a port's folder, or ``package.module:function``.

What is known of a model is read without building it: DLA's tables, a port's card, the card of a network written by
hand. A port is found by its folder alone, never by what a checkpoint says, because opening one runs its source.
``PADDLE_DLA_PORTS`` names folders of ports beside ``./ports``, separated as in ``PATH``. No framework.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_dla.errors import WrongValue, told
from paddle_dla.models.cards import CARD, WEIGHTS, Described, describe, describe_port, missing
from paddle_dla.models.pretrained import IMAGENET_CLASSES, PRETRAINED, Pretrained
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.storage.shown import shown

FOLDERS = "PADDLE_DLA_PORTS"
HERE = "ports"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLASSIFIER, FIRST_CONV = "fc", "base_layer.0"
"""The layers of every variant that have other sizes for other classes and images."""


class ModelError(WrongValue):
    """A model that is not found, or does not offer what is asked of it."""


@dataclass(frozen=True)
class Entry:
    """``place`` opens the model; ``card`` is what is known of it, ``card.name`` what checkpoints of it record.

    A variant has ``published`` weights, a port a ``folder``, a network written by hand a ``factory`` that builds it.
    """

    place: str
    card: Described
    published: Pretrained | None = None
    folder: Path | None = None
    factory: Callable[[], Any] | None = None

    @property
    def name(self) -> str:
        """What checkpoints record."""
        return self.card.name

    def default_weights(self) -> str:
        """What ``pretrained=True`` loads: the port's own file, or timm's on the hub. Raises ``ModelError``."""
        if self.folder is not None:
            return str(self.folder / WEIGHTS)
        if self.published is None:
            raise ModelError(f"{self.place} has no weights of its own; name a file")
        return self.published.hub_id


def find_model(place: str | os.PathLike[str]) -> Entry:
    """What is known of the model ``place``: a name, a folder, or ``package.module:function``.

    Raises ``ModelError`` for an unknown one, with the nearest known ones, and ``CheckpointError`` for a folder that is
    no port.
    """
    text = os.fspath(place)
    if _is_variant(text):
        return _variant(resolve_name(text))
    if Path(text).is_dir():
        return Entry(text, describe_port(text), folder=Path(text))
    if ":" in text and "/" not in text:
        return _written_by_hand(text)
    raise ModelError(_unknown(text))


def model_name(place: str) -> str:
    """The name that checkpoints of ``place`` record; see ``find_model`` for what is raised."""
    return find_model(place).name


def list_places(pattern: str = "*") -> list[str]:
    """What ``find_model`` takes: the variants of DLA and the folders of the ports, that match a shell pattern."""
    return fnmatch.filter([*VARIANTS, *map(str, port_folders())], pattern)


def port_folders() -> Iterator[Path]:
    """The ports in ``./ports`` and in the folders that ``PADDLE_DLA_PORTS`` names."""
    parents = [HERE, *os.environ.get(FOLDERS, "").split(os.pathsep)]
    for parent in dict.fromkeys(filter(None, parents)):
        yield from sorted(card.parent for card in Path(parent).glob(f"*/{CARD}"))


def _is_variant(text: str) -> bool:
    try:
        return bool(resolve_name(text))
    except WrongValue:
        return False


def _variant(name: str) -> Entry:
    published = PRETRAINED[name]
    card = Described(name, IMAGENET_CLASSES, 3, CLASSIFIER, FIRST_CONV, published.preprocessing)
    return Entry(name, card, published)


def _written_by_hand(text: str) -> Entry:
    module, found = import_named(text)
    name = text.partition(":")[2]
    card = getattr(found, "card", None) or getattr(module, "CARD", None)
    if not isinstance(card, Mapping):
        raise ModelError(f"{text} has no card: give it a mapping `card`, or its module a mapping `CARD`")
    try:
        described = describe({"name": name.replace(".", "_"), **card})
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"the card of {text}: {error}") from error
    lacking = list(missing(described))
    if lacking:
        raise ModelError(f"the card of {text} does not say: {', '.join(lacking)}")
    return Entry(text, described, factory=found)


def import_named(text: str) -> tuple[Any, Any]:
    """The module and the object of ``package.module:name``; the current folder is looked in, too.

    Raises ``ModelError`` where either is not found, or importing the module raises anything.
    """
    package, _, name = text.partition(":")
    if not package or not name:
        raise ModelError(f"{text} is written package.module:function")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        with users_code(f"{text} is not found: importing {package}"):
            module = found = importlib.import_module(package)
    finally:
        with suppress(ValueError):  # what was imported may change the list, too
            sys.path.remove(here)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ModelError(f"{text} is not found: {error}; it is written package.module:function") from error
    return module, found


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Within the block a user's code runs, and ``what`` says which: whatever it raises is a ``ModelError``.

    ``SystemExit``, too: a script that ends when it is imported would end the command as if all had been done. What it
    changes of the process is put back: see ``process_as_before``.
    """
    try:
        with process_as_before():
            yield
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} raises {told(error)}") from error


@contextmanager
def process_as_before() -> Iterator[None]:
    """Put back what would change the command after the block.

    The current folder, or relative outputs would lie elsewhere; filters that make errors of warnings, which Paddle
    gives as it is imported; the handlers of the signals by which a run ends.
    """
    folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    filters, handlers = [*warnings.filters], {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        if any(found[0] == "error" and found not in filters for found in warnings.filters):
            warnings.filters[:] = filters  # pyright: ignore[reportIndexIssue] - a list, which typeshed hides
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _unknown(text: str) -> str:
    known = {Path(place).name: place for place in list_places()}
    near = difflib.get_close_matches(Path(text).name.split(".")[0], known, n=3, cutoff=0.4) or list(VARIANTS)
    return (
        f"unknown model '{shown(text)}'; nearest: {', '.join(known[name] for name in near)} (list_models() names all "
        f"{len(known)}; a port is named by its folder)"
    )
