"""How many threads a process gets, and which kernels Paddle's MKL is told to use: paddle_dla/cpu.py."""

import os
import subprocess
import sys

import numpy as np
import pytest

from paddle_dla.cpu import KERNELS, VARIABLE, usable_threads, use_vector_kernels

AVX512, AVX2 = (" ".join(sorted(KERNELS[name])) for name in "75")


@pytest.mark.parametrize(("ranks", "threads"), [(None, 8), ("1", 8), ("2", 4), ("3", 2), ("16", 1)])
def test_ranks_on_one_machine_share_its_cores(monkeypatch, ranks, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("PADDLE_LOCAL_SIZE", ranks)
    assert usable_threads() == threads


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """What is chosen on a processor by ``maker`` with these ``flags``."""

    def choose(maker, flags, before=None):
        one = f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: some: name\nflags\t\t: fpu sse2 {flags}\n\n"
        (tmp_path / "cpuinfo").write_text(one + one.replace(flags, ""))
        monkeypatch.setenv(VARIABLE, "")  # so that the old value comes back at the end
        monkeypatch.delenv(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        use_vector_kernels(tmp_path / "cpuinfo")
        return os.environ.get(VARIABLE)

    return choose


@pytest.mark.parametrize(
    ("flags", "expected"), [(f"{AVX2} {AVX512}", "7"), (AVX2, "5"), (f"{AVX2} avx512f", "5"), ("avx avx2", None)]
)
@pytest.mark.parametrize("maker", ["AuthenticAMD", "HygonGenuine"])
def test_the_best_kernels_that_the_processor_can_run(chosen, maker, flags, expected):
    assert chosen(maker, flags) == expected


def test_on_intels_processors_mkl_chooses(chosen):
    assert chosen("GenuineIntel", f"{AVX2} {AVX512}") is None


@pytest.mark.parametrize("own", ["4", ""])
def test_what_the_user_chose_stays(chosen, own):
    assert chosen("AuthenticAMD", f"{AVX2} {AVX512}", before=own) == own


def test_nothing_is_chosen_where_the_processor_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    use_vector_kernels(tmp_path / "missing")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    use_vector_kernels(tmp_path / "arm")
    assert VARIABLE not in os.environ


def test_products_differ_by_rounding_alone():
    code = """
import sys
import numpy as np
import paddle
from paddle_dla.cpu import use_vector_kernels
if sys.argv[1] == "ours":
    use_vector_kernels()
a = np.random.default_rng(0).standard_normal((100, 300)).astype(sys.argv[2])
product = paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(a), transpose_y=True).numpy()
sys.stdout.buffer.write(product.astype("float64").tobytes())
"""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    for dtype in ("float32", "float64"):
        a = np.random.default_rng(0).standard_normal((100, 300)).astype(dtype).astype(np.longdouble)
        # a sum of n products is off by n roundings of the sum of their sizes, at most
        bound = 300 * np.finfo(dtype).eps * (abs(a) @ abs(a).T)
        for whose in ("ours", "mkl's"):
            command = [sys.executable, "-c", code, whose, dtype]
            done = subprocess.run(command, capture_output=True, check=True, env=environment)
            product = np.frombuffer(done.stdout[-80_000:]).reshape(100, 100)
            assert (abs(product - a @ a.T) <= bound).all()
