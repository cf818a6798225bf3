"""What a process has used at most of the machine's memory, and of the GPU's."""

from __future__ import annotations

import re
from pathlib import Path


def peak_resident() -> int:
    """Bytes of memory that this process has held at most: Linux's ``VmHWM``, 0 where the system has no such."""
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def peak_gpu() -> int | None:
    """Bytes that Paddle's tensors have held at most on the current GPU; ``None`` where the run is not on one."""
    import paddle

    if not paddle.device.get_device().startswith("gpu"):
        return None
    return int(paddle.device.cuda.max_memory_allocated())
