"""The command line of one command: ``argparse`` with shell completion and suggestions for misspelt options."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Iterable, Sequence
from typing import NoReturn

RENAMED = {
    "--dump": "--output",
    "--report": "--json",
    "--results": "--json",
    "--batch": "--batch-size",
    "--size": "--input-size",
}
"""Options of earlier versions, and their current names in every command."""
COMPLETING = "_ARGCOMPLETE"
"""Set by argcomplete in the process that completes a word."""


class CommandParser(argparse.ArgumentParser):
    """Parser of ``paddle-dla NAME``. ``doc`` is the module's docstring; its first line describes the command.

    Options cannot be abbreviated: the meaning of an abbreviation would change whenever an option is added.
    """

    def __init__(self, name: str, doc: str | None):
        super().__init__(prog=f"paddle-dla {name}", description=first_line(doc), allow_abbrev=False)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the arguments. For an unknown option, exits with code 2 and suggests the nearest option."""
        autocomplete(self)
        found, unknown = self.parse_known_args(args, namespace or argparse.Namespace())
        if unknown:
            self._refuse(unknown)
        return found

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        option = next((word.split("=")[0] for word in unknown if word.startswith("-")), "")
        known = [*self._option_string_actions]
        if (renamed := RENAMED.get(option)) in known:
            hint = f"; {option} is called {renamed} now"
        else:
            near = nearest(option, known)
            hint = f"; did you mean {near}?" if near else ""
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def first_line(doc: str | None) -> str:
    """Return the first line of a module's docstring, the description of a command, formatted for a terminal."""
    return (doc or "").split("\n")[0].replace("``", "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is nearest to ``word``, or ``None``."""
    return next(iter(difflib.get_close_matches(word, [*known], n=1)), None)


def autocomplete(parser: argparse.ArgumentParser) -> None:
    """If the shell requests completions, print them and end the process."""
    if COMPLETING not in os.environ:
        return
    import argcomplete

    for action in parser._actions:
        if action.dest == "model":
            action.completer = complete_model  # pyright: ignore[reportAttributeAccessIssue] - argcomplete reads it
    argcomplete.autocomplete(parser)


def complete_model(prefix: str, **_: object) -> list[str]:
    """Complete ``--model``: the names and folders it accepts that begin with ``prefix``, and other folders."""
    from argcomplete.completers import DirectoriesCompleter

    from paddle_dla.models.registry import list_places

    places = [place for place in list_places() if place.startswith(prefix)]
    return places or [*DirectoriesCompleter()(prefix)]
