"""The process that Paddle's launcher starts instead of a rank: it starts the rank, watches it, and records its end.

    python -m paddle_dla.launching.one_rank FOLDER LOGS TIMEOUT SCRIPT|-m MODULE ARGUMENTS...

The launcher alone does not record which rank died first, and why. The rank's output goes to ``LOGS/rank<N>.log``. A
rank that gives no sign of life for ``TIMEOUT`` seconds (0: never) writes the stacks of its threads there and is killed.
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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle_dla.launching.ends import die_with_parent, exit_code
from paddle_dla.launching.heartbeat import DUMP, FILE_VARIABLE, Beat, read_beat
from paddle_dla.launching.ranks import RankState

POLL = 0.1  # seconds
# shortest time in seconds that a rank has before its first step: others import Paddle for 5, on a busy machine for 20
STARTING = 60.0
STACKS = 1.0  # seconds that a rank has for writing its stacks


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


def run(folder: Path, logs: Path, timeout: float, command: Sequence[str]) -> int:
    """Run ``command`` as this process's rank. Returns its exit code, or the negative number of a signal."""
    die_with_parent()
    environment = forget_environment(folder)
    rank, ranks = int(environment["PADDLE_TRAINER_ID"]), int(environment["PADDLE_TRAINERS_NUM"])
    log, beats = logs / f"rank{rank}.log", folder / f"rank{rank}.beat"
    with open(log, "ab", buffering=0) as output:
        output.write(f"--- {time.strftime('%F %T')} rank {rank} of {ranks} on {platform.node()}\n".encode())
        # its own session: the launcher's signals reach only the rank, not the loaders that it still needs
        child = subprocess.Popen(
            [sys.executable, "-u", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, FILE_VARIABLE: str(beats)},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    local = int(environment.get("PADDLE_LOCAL_RANK", rank))
    guardian = Guardian(child, RankState(rank, ranks, local, child.pid, platform.node(), str(log)), folder, beats)
    signal.signal(signal.SIGTERM, lambda *_: guardian.ask())
    return guardian.watch(timeout)


class Guardian:
    """Watches ``child``, which beats in the file ``beats``, and keeps its ``state`` in ``folder``.

    Silence is counted in polls, so that it does not grow while a scheduler has suspended the whole job.
    """

    def __init__(self, child: subprocess.Popen, state: RankState, folder: Path, beats: Path):
        self._child, self.state, self._folder, self._beats = child, state, folder, beats
        self._last: Beat | None = None
        self._asked = False
        self._note()

    def watch(self, timeout: float) -> int:
        """Return the exit code of the rank when it has ended; end it after ``timeout`` seconds of silence, if not 0."""
        while self.state.code is None:
            time.sleep(POLL)
            self._listen()
            if self._asked and not self.state.asked:
                self._note(asked=True)
            if timeout and not self.state.hung and self.state.silent > self._limit(timeout):
                self._end_hanging()
            self._look()
        return self._child.returncode

    def ask(self) -> None:
        """Ask the rank to end, once: the launcher needlessly repeats its signal within the second.

        A signal's handler: it leaves the record to ``watch``, which it may have interrupted while it writes one.
        """
        if not self._asked:
            self._asked = True
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGTERM)

    def _note(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self.state.write(self._folder)

    def _listen(self) -> None:
        """Take the last beat. Before the first one, and once it is done, a rank is silent only if it is stopped."""
        beat = read_beat(self._beats)
        if beat != self._last or (beat is None and not self.state.stopped):
            self._last = beat
            self.state = replace(self.state, silent=0.0)
        else:
            self.state = replace(self.state, silent=self.state.silent + POLL)
        if beat is not None:
            self.state = replace(self.state, place=beat.place, step=beat.step)

    def _limit(self, timeout: float) -> float:
        return timeout if self._last is None or self._last.step > 0 else max(timeout, STARTING)

    def _end_hanging(self) -> None:
        self._note(hung=True)
        if self._last is not None:
            os.kill(self._child.pid, DUMP)
            time.sleep(STACKS)
        os.kill(self._child.pid, signal.SIGKILL)

    def _look(self) -> None:
        """Note whether the rank was stopped, continued or has ended since the last call."""
        pid, status = os.waitpid(self._child.pid, os.WUNTRACED | os.WCONTINUED | os.WNOHANG)
        if not pid:
            return
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            self._note(stopped=os.WIFSTOPPED(status))
        else:
            self._child.returncode = os.waitstatus_to_exitcode(status)
            self._note(code=self._child.returncode, ended=time.monotonic(), asked=self._asked)


def main() -> int:
    """Run for the launcher. Returns the exit code of the rank, or 128 plus the number of the signal that ended it."""
    folder, logs, timeout, *command = sys.argv[1:]
    return exit_code(run(Path(folder), Path(logs), float(timeout), command))


if __name__ == "__main__":
    sys.exit(main())
