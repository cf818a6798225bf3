"""Find any model by one name: a variant of DLA, the folder of a port, or ``package.module:function``.

The facts about a model are read without building it: from DLA's tables, a port's card, or the card of a hand-written
network. A port is found only by its folder, never through a checkpoint, because opening a port runs its source.
``PADDLE_DLA_PORTS`` lists folders of ports in addition to ``./ports``, separated as in ``PATH``. No framework.
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
"""The layers of every variant whose sizes depend on the classes and the input channels."""


class ModelError(WrongValue):
    """A model is not found, or does not support the request."""


@dataclass(frozen=True)
class Entry:
    """A model: ``place`` opens it, ``card`` describes it, and checkpoints of it record ``card.name``.

    A variant has ``published`` weights, a port a ``folder``, a hand-written network a ``factory`` that builds it.
    """

    place: str
    card: Described
    published: Pretrained | None = None
    folder: Path | None = None
    factory: Callable[[], Any] | None = None

    @property
    def name(self) -> str:
        """The name that checkpoints record."""
        return self.card.name

    def default_weights(self) -> str:
        """Return what ``pretrained=True`` loads: the port's own file, or timm's on the hub. Raises ``ModelError``."""
        if self.folder is not None:
            return str(self.folder / WEIGHTS)
        if self.published is None:
            raise ModelError(f"{self.place} has no weights of its own; name a file")
        return self.published.hub_id


def find_model(place: str | os.PathLike[str]) -> Entry:
    """Return the entry of the model ``place``: a name, a folder, or ``package.module:function``.

    Raises ``ModelError`` for an unknown model, with the nearest known ones, and ``CheckpointError`` for a folder that
    is not a port.
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
    """Return the name that checkpoints of ``place`` record. Raises the errors of ``find_model``."""
    return find_model(place).name


def recorded_variant(manifest: Mapping[str, Any] | None, checkpoint: str | os.PathLike[str] | None) -> str:
    """Return the variant of DLA recorded in the manifest of a checkpoint.

    Raises ``ModelError`` if none is recorded, or if it is a port: opening a port runs its source, so the user must name
    it.
    """
    if manifest is None:
        raise ModelError("--model is required: this checkpoint has no manifest that names its model")
    name = manifest["model"]
    if name in VARIANTS:
        return name
    found = [str(folder) for folder in port_folders() if folder.name == name]
    raise ModelError(f"{checkpoint} is of {name}, a port: pass --model {' or --model '.join(found) or 'FOLDER'}")


def list_places(pattern: str = "*") -> list[str]:
    """List the variants of DLA and the folders of ports that match a shell pattern."""
    return fnmatch.filter([*VARIANTS, *map(str, port_folders())], pattern)


def port_folders() -> Iterator[Path]:
    """Yield the ports in ``./ports`` and in the folders of ``PADDLE_DLA_PORTS``."""
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
    """Import ``package.module:name`` and return the module and the object; the current folder is searched too.

    Raises ``ModelError`` if either is not found, or if importing the module raises anything.
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
        with suppress(ValueError):  # the imported code may change the list, too
            sys.path.remove(here)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ModelError(f"{text} is not found: {error}; it is written package.module:function") from error
    return module, found


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Within the block a user's code runs. Any exception it raises becomes a ``ModelError`` that names ``what``.

    This includes ``SystemExit``: a script that exits on import would otherwise end the command with success. Process
    state that the code changes is restored: see ``process_as_before``.
    """
    try:
        with process_as_before():
            yield
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} raises {told(error)}") from error


@contextmanager
def process_as_before() -> Iterator[None]:
    """Restore process state that would affect the command after the block.

    That is the current folder, because relative outputs would go elsewhere; warning filters that raise errors, because
    Paddle warns when it is imported; and the handlers of the signals that end a run.
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
    if os.sep in text and Path(text).name not in known:
        return f"there is no folder '{shown(text)}'; a port is named by its folder (list_models() names those known)"
    near = difflib.get_close_matches(Path(text).name.split(".")[0], known, n=3, cutoff=0.4) or list(VARIANTS)
    return (
        f"unknown model '{shown(text)}'; nearest: {', '.join(known[name] for name in near)} (list_models() names all "
        f"{len(known)}; a port is named by its folder)"
    )
