"""The processor: the number of threads of a process, and the instructions of Paddle's matrix products. No framework.

Paddle's wheels for Linux, 2.6 and 3.x, contain Intel's MKL of 2019 (``libmklml_intel.so``). It selects its kernels by
the vendor of the processor before its capabilities: on AMD's processors it uses the SSE2 kernels. Every convolution in
dynamic mode is a matrix product, so a training step takes twice as long as necessary. ``MKL_DEBUG_CPU_TYPE`` is MKL's
own variable for selecting the kernels; MKL reads it at its first product.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MKL_DEBUG_CPU_TYPE"
# MKL's names for its kernels, the fastest first, and the instructions that each uses
KERNELS = {
    "7": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "5": {"avx2", "fma"},
}


def usable_threads() -> int:
    """Return the number of cores that this process may use: the default number of threads of an engine.

    Ranks that Paddle's launcher has started on one machine share its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("PADDLE_LOCAL_SIZE", "1")))


def use_vector_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Make MKL use this processor's vector instructions, in this process and in its child processes.

    Must be called before the first matrix product of the process. Does nothing on Intel's processors, where MKL's own
    choice is best, if ``MKL_DEBUG_CPU_TYPE`` is already set, or if ``cpuinfo`` (Linux) cannot be read. The other
    kernels add in another order, so results differ by rounding.
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
    """Return MKL's name of the fastest kernels that a processor of another vendor than Intel can run."""
    processor: dict[str, str] = {}
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        processor[key.strip()] = value.strip()
    if processor.get("vendor_id", "GenuineIntel") == "GenuineIntel":
        return None
    flags = set(processor.get("flags", "").split())
    return next((name for name, needed in KERNELS.items() if needed <= flags), None)
