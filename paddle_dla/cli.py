"""The console script ``paddle-dla``: one subcommand for each script, calling the same function.

Subcommands are the entry points of the group ``paddle_dla.commands``. Only the called one is imported. The description
of a command is the first line of its module's docstring, which is read without importing the module.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from paddle_dla import __version__
from paddle_dla.command_parser import COMPLETING, autocomplete, first_line, nearest
from paddle_dla.siblings import folder_of, refuse_shadowed
from paddle_dla.storage.regular import read_regular
from paddle_dla.terminal import run_command

GROUP = "paddle_dla.commands"
HEADINGS = {
    "convert": "from torch to Paddle",
    "alignment": "prove a port",
    "paddle_dla": "use a model: a DLA, a port's folder, or a network written by hand",
}
"""Packages that provide commands, in listing order; commands of other packages follow under the package's name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand named first. Returns its exit code, or 2 if the subcommand is unknown."""
    return run_command(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(arguments: list[str]) -> int:
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    if COMPLETING in os.environ:
        return _complete(commands)
    first = arguments[0] if arguments else ""
    if first in commands:
        return _load(commands[first])(arguments[1:])
    if first in ("-h", "--help", ""):
        print("\n".join(usage(commands)), file=sys.stdout if first else sys.stderr)
        return 0 if first else 2
    if first == "--version":
        print(f"paddle-dla {__version__}")
        return 0
    near = nearest(first, commands)
    hint = f"; did you mean {near}?" if near else "; paddle-dla --help lists them"
    print(f"error: unknown command {first!r}{hint}", file=sys.stderr)
    return 2


def _load(entry: EntryPoint) -> Callable[[Sequence[str]], int]:
    refuse_shadowed()
    return entry.load()


def usage(commands: Mapping[str, EntryPoint]) -> Iterator[str]:
    """Yield the lines of the usage text: the synopsis, and the commands in groups with one line of description each."""
    yield "usage: paddle-dla COMMAND [--help] ..."
    yield "       paddle-dla --version"
    packages = {name: entry.module.partition(".")[0] for name, entry in commands.items()}
    width = max(map(len, commands), default=0)
    for package in dict.fromkeys([*HEADINGS, *packages.values()]):
        yield from ("", f"{HEADINGS.get(package, package)}:")
        for name in (name for name in commands if packages[name] == package):
            yield f"  {name:<{width}}  {description(commands[name].module)}"


def description(module: str) -> str:
    """Return the first line of the docstring of ``module``, or an empty string if its source is not found."""
    package, _, rest = module.partition(".")
    folder = folder_of(package)
    source = folder and Path(folder, *rest.split(".")).with_suffix(".py")
    if not source or not source.is_file():
        return ""
    return first_line(ast.get_docstring(ast.parse(read_regular(source))))


def _complete(commands: Mapping[str, EntryPoint]) -> int:
    """Complete the name of a command; after a name, let that command complete the rest. Ends the process."""
    words = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    if len(words) > 2 and words[1] in commands:
        os.environ[COMPLETING] = "2"  # the first word is paddle-dla, the second the program
        return _load(commands[words[1]])([])
    parser = argparse.ArgumentParser(prog="paddle-dla")
    parser.add_argument("command", choices=commands)
    parser.add_argument("--version", action="store_true")
    autocomplete(parser)
    return 1
