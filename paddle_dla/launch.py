"""Run train or evaluate in several processes as one job, on one machine or many, CPU or GPU.

Usage::

    paddle-dla launch --nproc 2 train --config configs/dla60.yaml
    paddle-dla launch --nproc 2 evaluate --checkpoint dla60.pdparams --data imagenet/val
    python -m paddle_dla.launch --nnodes 2 --master 10.0.0.1:29500 --node-ip 10.0.0.2 train --config ...

This adds to Paddle's launcher: each rank's output goes to ``rank<N>.log`` in a new folder for each launch, in ``logs``
of the output folder (for an evaluation in ``logs/evaluate``), where ``latest`` is a link to the newest. The output of
the first rank also goes to the terminal. If a rank dies, raises or hangs, the job ends and the rank is named. No copy
of the environment is left behind, and no process keeps running, whichever one is killed.

Exit codes: 0 done, 2 usage, 124 a rank hung, else the code of the rank at fault, 128 plus the number of a signal.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from paddle_dla.command_parser import CommandParser
from paddle_dla.config import load_config
from paddle_dla.config.reading import in_home
from paddle_dla.data.walk import refuse_folder_in
from paddle_dla.errors import UserError
from paddle_dla.launching.ends import die_with_parent, ending_signals, exit_code
from paddle_dla.launching.fault import LINES, explain
from paddle_dla.launching.master import address, is_taken
from paddle_dla.launching.ranks import RankState, read_states
from paddle_dla.options import finite, options_of, positive, threads
from paddle_dla.terminal import run_command

POLL = 0.2  # seconds
OUTPUT, LATEST = "launcher.txt", "latest"
LOGS = {"train": "logs", "evaluate": "logs/evaluate"}  # commands that share work among ranks, and their logs


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of ``launch``: processes, machines and program. ``hang_timeout`` is in seconds; 0 waits forever."""

    program: str
    arguments: tuple[str, ...] = ()
    nproc: int | None = None
    nnodes: int = 1
    master: str | None = None
    node_ip: str | None = None
    hang_timeout: float = 600.0
    logs: str | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("launch", __doc__)
    result.add_argument(
        "--nproc", type=threads, metavar="N", help="processes on this machine (default: one per GPU, or 1)"
    )
    result.add_argument(
        "--nnodes", type=positive, default=1, metavar="N", help="number of machines, the same on each (default: 1)"
    )
    result.add_argument(
        "--master", type=address, metavar="IP:PORT", help="address and port of one machine, the same on each"
    )
    result.add_argument("--node-ip", metavar="IP", help="address of this machine, as the others see it")
    result.add_argument(
        "--hang-timeout",
        type=finite,
        default=600.0,
        metavar="S",
        help="seconds after which a silent rank counts as hung; 0: never (default: 600)",
    )
    result.add_argument(
        "--logs", metavar="DIR", help="folder for logs (default: logs in train.output or in the current folder)"
    )
    result.add_argument("program", metavar="train|evaluate|SCRIPT", help="command of paddle-dla, or a Python file")
    result.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    usage = parser()
    options = options_of(LaunchOptions, usage.parse_args(argv))
    if options.nnodes > 1 and not (options.master and options.node_ip):
        usage.error("several nodes need --master IP:PORT (of one of them) and --node-ip IP (of this one)")
    if options.program not in LOGS and not Path(options.program).is_file():
        usage.error(f"{options.program} is neither {' nor '.join(LOGS)} nor a file")
    if options.nnodes > 1 and options.master and is_taken(options.master):
        print(f"error: --master {options.master} is in use by another program; name a free port", file=sys.stderr)
        return 1
    try:
        logs = Path(in_home(options.logs)) if options.logs else log_folder(options.program, options.arguments)
        for tree in image_trees(options.arguments) if options.program in LOGS else ():
            refuse_folder_in(tree, logs, "the folder of the launch's logs")
        logs = own_folder(logs)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="paddle-dla-") as folder:
        return Job(options, Path(folder), logs.absolute()).run()


def own_folder(logs: Path) -> Path:
    """Create a new folder in ``logs`` for the output of one launch, and link ``latest`` to it. Raises ``OSError``."""
    folder = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{platform.node()}-{os.getpid()}"
    folder.mkdir(parents=True)
    link, part = logs / LATEST, logs / f".{LATEST}.{os.getpid()}"
    with suppress(OSError):  # for people only; not needed on a file system without links
        part.symlink_to(folder.name)
        os.replace(part, link)
    return folder


def log_folder(program: str, arguments: Sequence[str]) -> Path:
    """Return the default log folder of a program. Raises ``ConfigError`` for an unusable config."""
    return output_folder(arguments) / LOGS.get(program, LOGS["train"])


def output_folder(arguments: Sequence[str]) -> Path:
    """Return the ``train.output`` of a program with these ``arguments``; the current folder if they name no config."""
    found = _known(arguments)
    if found.output:
        return Path(in_home(found.output))
    return Path(load_config(found.config, found.override).train.output) if found.config else Path()


def image_trees(arguments: Sequence[str]) -> tuple[str | None, ...]:
    """Return the data that a program with these ``arguments`` reads. Raises ``ConfigError`` for an unusable config."""
    found = _known(arguments)
    data = load_config(found.config, found.override).data if found.config else None
    return (found.data, *((data.train, data.val) if data else ()))


def _known(arguments: Sequence[str]) -> argparse.Namespace:
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--config", "-c")
    known.add_argument("--override", "-o", nargs="+", action="extend", default=[])
    known.add_argument("--output")
    known.add_argument("--data")
    return known.parse_known_args(arguments)[0]


class Job:
    """One run of Paddle's launcher. Its temporary files go to ``folder``, which is private."""

    def __init__(self, options: LaunchOptions, folder: Path, logs: Path):
        self._options, self._folder, self._logs = options, folder, logs
        self._stopped_by: int | None = None
        self._shown: BinaryIO | None = None

    def run(self) -> int:
        """Start the job, wait for its end, report what went wrong, and return the exit code."""
        with open(self._folder / OUTPUT, "wb") as output:
            launcher = subprocess.Popen(
                self.command(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        for number in ending_signals():
            signal.signal(number, lambda received, _: self._stop(launcher, received))
        while launcher.poll() is None:
            time.sleep(POLL)
            self._show(read_states(self._folder))
        self._show(read_states(self._folder))
        if self._shown is not None:
            self._shown.close()
        code, lines = self._outcome(launcher.returncode)
        for line in lines:
            print(line, file=sys.stderr)
        return code

    def command(self) -> list[str]:
        """Return the command line of Paddle's launcher that starts ``one_rank`` for each rank."""
        options = self._options
        several = ["--nnodes", str(options.nnodes), "--master", options.master, "--host", options.node_ip]
        return [
            *(sys.executable, "-m", "paddle.distributed.launch", "--log_level", "WARNING"),
            *("--log_dir", str(self._folder)),
            *(("--nproc_per_node", str(options.nproc)) if options.nproc else ()),
            *(several if options.nnodes > 1 else ()),
            *(sys.executable, "-m", "paddle_dla.launching.one_rank", str(self._folder), str(self._logs)),
            str(options.hang_timeout),
            *(("-m", f"paddle_dla.{options.program}") if options.program in LOGS else (options.program,)),
            *options.arguments,
        ]

    def _stop(self, launcher: subprocess.Popen, number: int) -> None:
        """Make the launcher ask the ranks to end; after 30 seconds it kills those that still run."""
        self._stopped_by = self._stopped_by or number
        launcher.terminate()

    def _show(self, states: Sequence[RankState]) -> None:
        """Print the output of the first rank of this machine since the last call."""
        if self._shown is None:
            first = next((state for state in states if state.local == 0), None)
            if first is None or not Path(first.log).exists():
                return
            self._shown = open(first.log, "rb")  # noqa: SIM115 - read on until the job ends, though it be removed
        sys.stdout.buffer.write(self._shown.read())
        sys.stdout.buffer.flush()

    def _outcome(self, code: int) -> tuple[int, list[str]]:
        """Return the exit code and the messages for it. ``code`` is the exit code of the launcher."""
        if self._stopped_by is not None:
            return 128 + self._stopped_by, [f"stopped by {signal.Signals(self._stopped_by).name}"]
        if code < 0:
            return exit_code(code), self._launcher_failed()
        found, lines = explain(read_states(self._folder))
        if lines:
            return found, lines
        return code, self._launcher_failed() if code else []

    def _launcher_failed(self) -> list[str]:
        output = (self._folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
        return [
            "error: Paddle's launcher failed or was killed; its last words:",
            *(f"    {line}" for line in output[-LINES:]),
        ]


if __name__ == "__main__":
    sys.exit(run_command(main))
