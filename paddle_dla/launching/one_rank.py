"""The process that Paddle's launcher starts instead of a rank: it starts the rank, waits for it, and records its end.

    python -m paddle_dla.launching.one_rank FOLDER LOGS SCRIPT|-m MODULE ARGUMENTS...

The launcher alone does not record which rank died first, and why. The rank's output goes to ``LOGS/rank<N>.log``.
Whichever process is killed, nothing is left running: the rank dies with this process, and this process with the
launcher.
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
    """Remove the copies of the environment that the launcher has written to ``folder``. Returns the environment.

    Variables too long for the environment of a process are only in the copy; they are included in the result.
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
    """Run ``command`` as this process's rank. Returns its exit code, or the negative number of a signal."""
    die_with_parent()
    environment = forget_environment(folder)
    rank, ranks = int(environment["PADDLE_TRAINER_ID"]), int(environment["PADDLE_TRAINERS_NUM"])
    guard(folder, rank)
    log = logs / f"rank{rank}.log"
    with open(log, "ab", buffering=0) as output:
        output.write(f"--- {time.strftime('%F %T')} rank {rank} of {ranks} on {platform.node()}\n".encode())
        # its own session: the launcher's signals reach only the rank, not the loaders that it still needs
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
    """Yield the state of ``child`` whenever it changes: stopped, continued, ended."""
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
    """Pass the first signal ``number`` on to ``child``; the launcher needlessly repeats it within the second.

    The launcher sends it when another guardian has ended. A killed guardian is recorded before ``child`` ends by the
    signal.
    """

    def once(received: int, frame: FrameType | None) -> None:
        signal.signal(received, lambda *_: None)
        with suppress(ProcessLookupError):
            os.kill(child.pid, received)
        with suppress(OSError):  # as on a full disk: the launch itself checks later
            read_states(folder)

    signal.signal(number, once)


def main() -> int:
    """Run for the launcher. Returns the exit code of the rank, or 128 plus the number of the signal that ended it."""
    folder, logs, *command = sys.argv[1:]
    return exit_code(run(Path(folder), Path(logs), command))


if __name__ == "__main__":
    sys.exit(main())
