"""Peak memory use of a process, in main memory and on the GPU."""

from __future__ import annotations

import re
from pathlib import Path


def peak_resident() -> int:
    """Return the peak resident memory of this process in bytes: Linux's ``VmHWM``, 0 on systems without it."""
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def peak_gpu() -> int | None:
    """Return the peak memory of Paddle's tensors on the current GPU in bytes; ``None`` if the run is not on a GPU."""
    import paddle

    if not paddle.device.get_device().startswith("gpu"):
        return None
    return int(paddle.device.cuda.max_memory_allocated())
