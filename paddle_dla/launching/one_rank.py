"""What Paddle's launcher starts in place of a rank: it starts the rank, waits for it, and notes how it ended.

    python -m paddle_dla.launching.one_rank FOLDER LOGS SCRIPT|-m MODULE ARGUMENTS...

The launcher alone loses who died first, and of what. The rank's output goes to ``LOGS/rank<N>.log``. Whoever is killed,
nothing is left running: the rank dies with this process, and this process with the launcher.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from paddle_dla.launching.ends import die_with_parent, exit_code
from paddle_dla.launching.ranks import RankState, guard, read_states


def forget_environment(folder: Path) -> dict[str, str]:
    """Remove the copies of the environment that the launcher has put into ``folder``; the environment itself.

    Variables too long for the environment of a process are in the copy alone: they are in what is returned.
    """
    environment = dict(os.environ)
    backup = environment.pop("PADDLE_BACKUP_ENV_PATH", None)
    if backup is not None:
        environment = {**json.loads(Path(backup).read_text(encoding="utf-8")), **environment}
        environment.pop("PADDLE_BACKUP_ENV_PATH", None)
        Path(backup).unlink()
    for pattern in ("envlog.*", "*.??????.log"):
        for copy in folder.glob(pattern):
            copy.unlink(missing_ok=True)
    return environment


def run(folder: Path, logs: Path, command: Sequence[str]) -> int:
    """Run ``command`` as this process's rank; its exit code, or less the number of the signal that ended it."""
    die_with_parent()
    environment = forget_environment(folder)
    rank, ranks = int(environment["PADDLE_TRAINER_ID"]), int(environment["PADDLE_TRAINERS_NUM"])
    guard(folder, rank)
    log = logs / f"rank{rank}.log"
    with open(log, "ab", buffering=0) as output:
        output.write(f"--- {time.strftime('%F %T')} rank {rank} of {ranks} on {platform.node()}\n".encode())
        # a session of its own: the launcher's signals reach the rank alone, not the loaders that it still needs
        child = subprocess.Popen(
            [sys.executable, "-u", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    _pass_on(signal.SIGTERM, child, folder)
    local = int(environment.get("PADDLE_LOCAL_RANK", rank))
    begun, guardian = time.monotonic(), os.getpid()
    state = RankState(rank, ranks, local, child.pid, platform.node(), str(log), begun, guardian=guardian)
    state.write(folder)
    for changed in _life(child, state):
        changed.write(folder)
    return child.returncode


def _life(child: subprocess.Popen, state: RankState) -> Iterator[RankState]:
    """The state of ``child`` each time that it changes: stopped, continued, ended."""
    while state.code is None:
        _, status = os.waitpid(child.pid, os.WUNTRACED | os.WCONTINUED)
        now = time.monotonic()
        if os.WIFSTOPPED(status):
            state = replace(state, stopped=now)
        elif os.WIFCONTINUED(status):
            state = replace(state, stopped=None)
        else:
            child.returncode = os.waitstatus_to_exitcode(status)
            state = replace(state, code=child.returncode, ended=now)
        yield state


def _pass_on(number: int, child: subprocess.Popen, folder: Path) -> None:
    """The first signal ``number`` goes to ``child``; the launcher repeats it within the second, for no reason.

    The launcher sends it where another guardian has ended: one that was killed is noted before ``child`` ends of this.
    """

    def once(received: int, frame: FrameType | None) -> None:
        signal.signal(received, lambda *_: None)
        with suppress(ProcessLookupError):
            os.kill(child.pid, received)
        with suppress(OSError):  # as on a full disk: the launch itself looks later
            read_states(folder)

    signal.signal(number, once)


def main() -> int:
    """Run from the launcher; the exit code of the rank, 128 more than a signal's number where one ended it."""
    folder, logs, *command = sys.argv[1:]
    return exit_code(run(Path(folder), Path(logs), command))


if __name__ == "__main__":
    sys.exit(main())
