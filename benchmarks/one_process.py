"""The families of timm, and work on each model in a process of its own, with limits, whose result is a JSON file."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FAMILIES = Path(__file__).with_name("families.csv")


def families() -> list[dict[str, str]]:
    """``family``, ``smallest`` model and its ``parameters``, of each family of timm; the smallest first."""
    with FAMILIES.open(encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["parameters"]))


def limited(command: Sequence[str], seconds: float, gigabytes: int, log: Path) -> str:
    """Run ``command``, its output in ``log``; why it did not end, where it did not."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (gigabytes << 30, gigabytes << 30))

    with log.open("w") as file:
        try:
            done = subprocess.run(command, timeout=seconds, stdout=file, stderr=file, preexec_fn=limit, check=False)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds} s"
    return f"killed by signal {-done.returncode}" if done.returncode < 0 else ""


def read(path: Path) -> Any:
    """What a process has written; ``None`` where it has not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
