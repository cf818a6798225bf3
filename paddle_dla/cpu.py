"""The processor: how many threads a process gets, and which instructions Paddle's matrix products use. No framework.

Paddle's wheels for Linux, 2.6 and 3.x, carry Intel's MKL of 2019 (``libmklml_intel.so``). It chooses its kernels by the
maker of the processor before what the processor can do: on AMD's it takes those for SSE2. Every convolution in dynamic
mode is a matrix product, so that a training step takes twice the time it needs. ``MKL_DEBUG_CPU_TYPE`` is MKL's own
variable that names the kernels; MKL reads it at its first product.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MKL_DEBUG_CPU_TYPE"
# what MKL calls its kernels, the fastest first, and the instructions that they use
KERNELS = {
    "7": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "5": {"avx2", "fma"},
}


def usable_threads() -> int:
    """The cores that this process may use: as many threads as an engine is given where nothing else is said.

    Ranks that Paddle's launcher has started on one machine share its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("PADDLE_LOCAL_SIZE", "1")))


def use_vector_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Have MKL use this processor's vector instructions, in this process and those that it starts.

    Must come before the first matrix product of the process. Does nothing on Intel's processors, where MKL knows
    best, where ``MKL_DEBUG_CPU_TYPE`` is set already, and where ``cpuinfo`` (Linux) cannot be read. Sums are then made
    in another order: results differ by rounding.
    """
    if VARIABLE in os.environ:
        return
    try:
        kernels = _kernels(cpuinfo.read_text(encoding="utf-8"))
    except OSError:
        return
    if kernels is not None:
        os.environ[VARIABLE] = kernels


def _kernels(cpuinfo: str) -> str | None:
    """MKL's name of the fastest kernels that a processor by another maker than Intel can run."""
    processor: dict[str, str] = {}
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        processor[key.strip()] = value.strip()
    if processor.get("vendor_id", "GenuineIntel") == "GenuineIntel":
        return None
    flags = set(processor.get("flags", "").split())
    return next((name for name, needed in KERNELS.items() if needed <= flags), None)
