"""The console script ``paddle-dla``: one subcommand for each script, and the same function.

Subcommands are the entry points of the group ``paddle_dla.commands``; only the one that is called is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from paddle_dla.terminal import run_command

GROUP = "paddle_dla.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand named first; returns its exit code, 2 for an unknown one."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    if arguments and arguments[0] in commands:
        return run_command(lambda: commands[arguments[0]].load()(arguments[1:]))
    usage = "usage: paddle-dla COMMAND [--help] ...\n\ncommands:\n" + "\n".join(
        f"  {name}" for name in sorted(commands)
    )
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage)
        return 0
    print(usage if not arguments else f"unknown command {arguments[0]!r}\n{usage}", file=sys.stderr)
    return 2
