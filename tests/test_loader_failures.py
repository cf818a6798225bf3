"""Corrupt images, workers that die, hang or raise, and a main process that is interrupted or killed."""

import gc
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

import loader_parts as parts
import pytest
from conftest import ROOT
from pictures import photo, png, write_tar, write_tree

from paddle_dla.data.errors import DataError, WorkerError
from paddle_dla.data.folder import open_folder
from paddle_dla.data.loader import Loader
from paddle_dla.data.opening import open_source

UINT8 = dict(output_shape=parts.SHAPE, output_dtype="uint8")
BOTH = pytest.mark.parametrize("workers", [0, 2])


def bomb():
    """An honest header of a PNG of 100,000 x 100,000 grey pixels, with almost nothing behind it."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
    ]
    data = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    data.seek(0, io.SEEK_END)
    for kind, content in [*chunks, (b"IEND", b"")]:
        data.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    return data.getvalue()


CORRUPT = {
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "truncated png": photo(0, (8, 8), "PNG")[:-60],
    "truncated jpeg": photo(0, (64, 64))[:1500],
    "a bomb": bomb(),
}


@BOTH
@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_image_is_named_and_skipped(tmp_path, data, workers):
    source = open_folder(write_tree(tmp_path, {"0": 3, "1": 3}))
    (tmp_path / "1/0.png").write_bytes(data)
    loader = Loader(source, parts.keep, 2, max_skipped=1, workers=workers, **UINT8)
    batches = [(batch.indices.tolist(), batch.labels.tolist(), batch.images[:, 0, 0, 0].tolist()) for batch in loader]
    assert batches == [([0, 1], [0, 0], [0, 1]), ([2], [0], [2]), ([4, 5], [1, 1], [4, 5])]
    [(name, reason)] = loader.skipped
    assert name == "1/0.png" and reason


@BOTH
def test_by_default_the_first_corrupt_image_is_an_error_that_names_it(tmp_path, workers):
    source = open_folder(write_tree(tmp_path, {"0": 3}))
    (tmp_path / "0/1.png").write_bytes(bomb())
    with pytest.raises(DataError, match=r"0/1.png: refused: "):
        list(Loader(source, parts.keep, 2, workers=workers, **UINT8))


@BOTH
def test_beyond_the_limit_all_corrupt_images_are_listed(workers):
    source = parts.Made(20, bad=[1, 3, 15])
    assert len(list(Loader(source, parts.keep, 2, max_skipped=3, workers=workers, **UINT8))) == 10
    with pytest.raises(DataError, match=r"(?s)images: 3, at most 2 .*image-1: .*image-3: .*image-15: "):
        list(Loader(source, parts.keep, 2, max_skipped=2, workers=workers, **UINT8))


@BOTH
def test_a_batch_of_which_nothing_is_left_does_not_come(workers):
    source = parts.Made(6, bad=[2, 3])
    loader = Loader(source, parts.keep, 2, max_skipped=2, workers=workers, **UINT8)
    assert [batch.indices.tolist() for batch in loader] == [[0, 1], [4, 5]]


@BOTH
def test_a_file_that_vanished_is_a_corrupt_image(tmp_path, workers):
    source = open_folder(write_tree(tmp_path, {"0": 3}))
    (tmp_path / "0/1.png").unlink()
    loader = Loader(source, parts.keep, 3, max_skipped=1, workers=workers, **UINT8)
    assert [batch.indices.tolist() for batch in loader] == [[0, 2]]
    assert loader.skipped[0][0] == "0/1.png" and "No such file" in loader.skipped[0][1]


@BOTH
def test_a_broken_source_is_an_error_whatever_may_be_skipped(workers):
    with pytest.raises(DataError, match="the source is broken at 7"):
        list(Loader(parts.Made(20, broken=7), parts.keep, 2, max_skipped=99, workers=workers, **UINT8))


@BOTH
def test_a_truncated_shard_is_named(tmp_path, workers):
    tar = write_tar(tmp_path / "s.tar", [m for k in "abcd" for m in ((f"{k}.png", png(0)), (f"{k}.cls", b"0"))])
    source = open_source(tar)
    os.truncate(tar, 5 * 512)
    with pytest.raises(DataError, match=r"s.tar, member "):
        list(Loader(source, parts.keep, 2, workers=workers, **UINT8))


DEATHS = {
    parts.die: r"loader worker 1 \(pid \d+\) was killed by SIGKILL at sample 'image-6'.*memory",
    parts.crash: r"loader worker 1 \(pid \d+\) was killed by SIGSEGV at sample 'image-6'",
    parts.leave: r"loader worker 1 \(pid \d+\) ended with exit code 3 at sample 'image-6'",
}


@pytest.mark.parametrize(("action", "message"), DEATHS.items(), ids=[action.__name__ for action in DEATHS])
def test_a_worker_that_dies_is_named_with_its_sample(action, message):
    loader = Loader(parts.Made(40), parts.At(6, action), 2, workers=2, **UINT8)
    with pytest.raises(WorkerError, match=message):
        list(loader)


@pytest.mark.parametrize("action", [parts.hang, parts.hang_in_c])
def test_a_worker_that_hangs_is_named_with_its_sample(action):
    loader = Loader(parts.Made(40), parts.At(6, action), 2, workers=2, timeout=0.6, **UINT8)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"loader worker 1 \(pid \d+\) hangs: .* at sample 'image-6'; raise timeout"):
        list(loader)
    # the hang lasts ten minutes; 10 s leave room for a machine that is busy
    assert time.monotonic() - start < 10


def test_a_batch_transform_that_hangs_is_told():
    options = dict(output_shape=(8, 8, 3), output_dtype="uint8", batch_transform=parts.hang_mixing)
    with pytest.raises(WorkerError, match=r"hangs: .* in the batch transform"):
        list(Loader(parts.Made(4), parts.keep, 2, workers=1, timeout=0.6, **options))


def test_a_slow_consumer_is_no_hang():
    for batch in Loader(parts.Made(12), parts.keep, 2, workers=2, timeout=0.4, **UINT8):
        time.sleep(0.5 if batch.indices[0] < 4 else 0)


def crew_of(batches):
    """The workers behind an iterator that has begun."""
    return batches.gi_frame.f_locals["crew"]


def started(loader):
    """An iterator of the loader after its first batch, and its workers' process ids."""
    batches = iter(loader)
    next(batches)
    return batches, crew_of(batches).pids


def runs(pid):
    """A process that ended and waits for its parent to notice does not run."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def script(code, *arguments, **options):
    """A running program that can import the project and the parts of these tests."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options)


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_worker_killed_from_outside_ends_the_run():
    loader = Loader(parts.Made(200), parts.keep, 2, workers=2, **UINT8)
    batches, pids = started(loader)
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match=rf"loader worker 0 \(pid {pids[0]}\) was killed by SIGKILL"):
        list(batches)
    assert not any(runs(pid) for pid in pids)


def test_a_worker_that_stands_still_between_two_batches_is_named():
    batches, pids = started(Loader(parts.Made(200), parts.keep, 2, workers=2, timeout=0.6, **UINT8))
    next(batches)  # of worker 1: one that is still starting has a minute
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(WorkerError, match=rf"loader worker 1 \(pid {pids[1]}\) hangs"):
        list(batches)
    assert not any(runs(pid) for pid in pids)


SUSPENDED = """
import sys, loader_parts as parts
from paddle_dla.data.loader import Loader
batches = iter(Loader(parts.Made(12), parts.nap, 2, workers=1, timeout=0.6, output_shape=parts.SHAPE,
    output_dtype="uint8"))
next(batches)
print(*batches.gi_frame.f_locals["crew"].pids, flush=True)
print(sum(map(len, batches)), flush=True)
"""


def test_a_job_that_was_suspended_goes_on():
    """Longer than the timeout, in the middle of a sample; the main process is woken first."""
    running = script(SUSPENDED)
    pids = [running.pid, *map(int, running.stdout.readline().split())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.0)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
    output, errors = running.communicate(timeout=20)
    assert (output.strip(), errors) == ("10", "")


MISTAKES = {
    "in a transform": (dict(transform=parts.At(6, parts.fail)), "sample 'image-6'", "KeyError: 'a mistake in a trans"),
    "memory": (dict(transform=parts.At(6, parts.eat_memory)), "sample 'image-6'", "MemoryError"),
    "in a batch transform": (dict(batch_transform=parts.fail_mixing), "batch 0", "ZeroDivisionError: a mistake in a b"),
    "images of other sizes": (
        dict(output_shape=(4, 4, 3)),
        "sample 'image-0'",
        r"expected is uint8 of shape \(4, 4, 3\)",
    ),
    "another type": (dict(output_dtype="float32"), "sample 'image-0'", r"expected is float32"),
    "soft labels not declared": (
        dict(batch_transform=parts.mix, output_shape=(3, 8, 8), output_dtype="float32"),
        "soft_labels",
        r"float32 of shape \(2, 10\)",
    ),
}


@BOTH
@pytest.mark.parametrize(("options", "place", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_transform_arrives_with_its_traceback(options, place, message, workers):
    options = {"transform": parts.keep, **UINT8, **options}
    with pytest.raises(WorkerError, match=message) as error:
        list(Loader(parts.Made(40), batch_size=2, workers=workers, **options))
    assert place in str(error.value)
    if workers:
        assert "loader_parts.py" in str(error.value) or "batching.py" in str(error.value)


def in_this_file(image, rng):
    return image


def test_what_workers_cannot_import_is_refused_before_any_starts(monkeypatch):
    with pytest.raises(DataError, match="importable module, or use workers=0"):
        list(Loader(parts.Made(4), lambda image, rng: image, 2, workers=1, **UINT8))
    monkeypatch.setattr(in_this_file, "__module__", "__main__")
    with pytest.raises(DataError, match="in_this_file"):
        list(Loader(parts.Made(4), in_this_file, 2, workers=1, **UINT8))


def descriptors():
    return len(os.listdir("/proc/self/fd"))


ENDS = {
    "closed": lambda batches: batches.close(),
    "used up": lambda batches: list(batches),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_no_worker_and_no_descriptor_outlives_the_iterator(end):
    gc.collect()
    before, named = descriptors(), set(os.listdir("/dev/shm"))
    batches, pids = started(Loader(parts.Made(40), parts.keep, 2, workers=2, **UINT8))
    assert all(runs(pid) for pid in pids) and descriptors() > before
    end(batches)
    assert not any(runs(pid) for pid in pids)
    assert descriptors() == before
    assert wait_until(lambda: set(os.listdir("/dev/shm")) <= named)  # others may have something there for a moment


def test_no_worker_outlives_an_iterator_that_is_forgotten():
    batches, pids = started(Loader(parts.Made(40), parts.keep, 2, workers=2, **UINT8))
    del batches
    assert not any(runs(pid) for pid in pids)


PROGRAM = """
import sys, loader_parts as parts
from paddle_dla.data.loader import Loader
loader = Loader(parts.Made(40), parts.At(6, getattr(parts, sys.argv[1])), 2, workers=2, output_shape=parts.SHAPE,
    output_dtype="uint8")
batches = iter(loader)
for batch in batches:
    print(*batches.gi_frame.f_locals["crew"].pids, flush=True)
"""


def program(action, **options):
    """A program whose worker 1 hangs at sample 6; returns it and the workers' process ids."""
    running = script(PROGRAM, action.__name__, **options)
    # worker 1 gets stuck at its second batch, when worker 0 has no room left
    pids = [[int(pid) for pid in running.stdout.readline().split()] for _ in range(3)][-1]
    assert len(pids) == 2 and all(runs(pid) for pid in pids)
    return running, pids


@pytest.mark.parametrize("action", [parts.hang, parts.hang_in_c], ids=["asleep", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_no_worker_outlives_the_main_process(number, action):
    """One worker waits for room, one is stuck in a transform."""
    named = set(os.listdir("/dev/shm"))
    running, pids = program(action)
    running.send_signal(number)
    _, errors = running.communicate(timeout=10)
    assert running.returncode == -number
    assert wait_until(lambda: not any(runs(pid) for pid in pids))
    assert wait_until(lambda: set(os.listdir("/dev/shm")) <= named)  # others may have something there for a moment
    assert errors.count("Traceback") == (number == signal.SIGINT)


def test_an_interrupt_of_the_whole_terminal_is_told_once():
    """Ctrl-C goes to every process of the group; workers have groups of their own."""
    running, pids = program(parts.hang, start_new_session=True)
    assert all(os.getpgid(pid) == pid for pid in pids)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=10)
    assert errors.count("KeyboardInterrupt") == 1


def test_a_loader_may_be_iterated_in_a_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(len(b) for b in Loader(parts.Made(8), parts.keep, 2, workers=2, **UINT8))
    )
    thread.start()
    thread.join(20)
    assert found == [2, 2, 2, 2]
