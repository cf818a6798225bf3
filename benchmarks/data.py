"""The input pipeline beside timm's: images a second, from JPEG files to normalised float32 batches.

Usage: ``python benchmarks/data.py --images DIR [--workers 2] [--runs 5]``, on an idle machine.

``DIR`` holds JPEG files (they are read in turn until ``--count`` images were loaded, so they come from memory). Each
run is a process of its own, the pipelines take turns. Time counts from the first batch to the last, so that starting
workers, which an epoch does once, is left out; it is shown beside. "decoding" is ``simplejpeg.decode_jpeg`` alone in as
many processes: no pipeline of this decoder can be faster. "ours, no C" is without the compiled ``_pixels``. Grain
(``pip install grain``; left out where it is missing) runs our transforms in its worker processes. timm runs with and
without its prefetcher, the faster counts. Evaluation: the batches are compared first, float for float.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BATCH = 50
SIZE = (3, 224, 224)
PIPELINES = ("decoding", "ours", "ours, no C", "Grain", "timm", "timm, prefetcher")
ROOT = Path(__file__).parent.parent


def listed(folder: str, count: int) -> list[str]:
    """``count`` paths: the JPEG files of ``folder``, again and again."""
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder}: no JPEG files")
    return [files[i % len(files)] for i in range(count)]


def our_transforms(training: bool) -> tuple[Any, Any]:
    """What our loader does to each image, and to each batch."""
    from paddle_dla.data.crop import EvalTransform
    from paddle_dla.data.normalise import Normalise
    from paddle_dla.data.pipeline import NormaliseBatch
    from paddle_dla.data.training import FromPixels, TrainingBatch
    from paddle_dla.data.transforms import training_transform
    from paddle_dla.preprocessing import Preprocessing

    preprocessing = Preprocessing(SIZE)
    if training:
        return FromPixels(training_transform(preprocessing).sample), TrainingBatch(Normalise(preprocessing))
    return EvalTransform(preprocessing), NormaliseBatch(preprocessing)


def ours(paths: list[str], workers: int, training: bool) -> Iterable[Any]:
    import numpy as np

    from paddle_dla.data.loader import Loader
    from paddle_dla.data.source import FileSource

    source = FileSource("", paths, np.zeros(len(paths), np.int64), None)
    sample, batch = our_transforms(training)
    options = dict(output_shape=SIZE, batch_transform=batch, workers=workers)
    return (batch.images for batch in Loader(source, sample, BATCH, order=range(len(paths)), **options))


def timms(paths: list[str], workers: int, training: bool, prefetcher: bool) -> Iterable[Any]:
    from torch_ref.model import import_timm

    import_timm()
    import torch
    from timm.data import ImageDataset, create_loader
    from timm.data.readers.reader import Reader

    class Listed(Reader):
        def __getitem__(self, index):
            return open(paths[index], "rb"), 0

        def __len__(self):
            return len(paths)

        def _filename(self, index, basename=False, absolute=False):
            return paths[index]

    loader = create_loader(
        ImageDataset("", reader=Listed()),
        input_size=SIZE,
        batch_size=BATCH,
        is_training=training,
        use_prefetcher=prefetcher,
        num_workers=workers,
        crop_pct=0.875,
        interpolation="random" if training else "bilinear",
        device=torch.device("cpu"),
        persistent_workers=False,
    )
    return (images for images, _ in loader)


def grains(paths: list[str], workers: int, training: bool) -> Iterable[Any]:
    import grain
    import numpy as np

    from paddle_dla.data.batch import Batch
    from paddle_dla.data.decoding import Decoder

    sample, whole = our_transforms(training)

    def one(path: str) -> np.ndarray:
        return np.asarray(sample(Decoder().decode(Path(path).read_bytes()), random.Random(path)))

    def batch(images: np.ndarray) -> np.ndarray:
        nothing = np.zeros(len(images), np.int64)
        return whole(Batch(images, nothing, nothing), np.random.default_rng(0), 0).images

    # each process computes in one thread, as ours do
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * BATCH)
    batches = grain.MapDataset.source(paths).map(one).to_iter_dataset(read).batch(BATCH).map(batch)
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))


def decode_some(paths: list[str]) -> None:
    import simplejpeg

    for path in paths:
        simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")


def decoding(paths: list[str], workers: int) -> dict[str, float]:
    """Seconds for decoding alone, split over ``workers`` processes that are up already."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(decode_some, [paths[:1]] * workers)
        began = time.perf_counter()
        pool.map(decode_some, [paths[i::workers] for i in range(workers)], chunksize=1)
        return {"speed": len(paths) / (time.perf_counter() - began), "start": 0.0}


def measure(pipeline: str, paths: list[str], workers: int, training: bool) -> dict[str, float]:
    """``speed`` in images a second, ``start`` in seconds until the first batch."""
    if pipeline == "decoding":
        return decoding(paths, workers)
    began = time.perf_counter()
    if pipeline.startswith("ours"):
        batches = ours(paths, workers, training)
    elif pipeline == "Grain":
        batches = grains(paths, workers, training)
    else:
        batches = timms(paths, workers, training, prefetcher="prefetcher" in pipeline)
    images, first = 0, None
    for batch in batches:
        if first is None:
            first = time.perf_counter()
        else:
            images += len(batch)
    return {"speed": images / (time.perf_counter() - first), "start": first - began}


def differences(paths: list[str]) -> int:
    """Floats in which the two evaluation pipelines differ, over the first batches."""
    import numpy as np

    pairs = zip(ours(paths, 0, training=False), timms(paths, 0, training=False, prefetcher=False))
    return sum(int(np.count_nonzero(left != right.numpy())) for left, right in pairs)


def in_a_process(args: argparse.Namespace, pipeline: str, training: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--images", args.images, "--workers", str(args.workers)]
    command += ["--count", str(args.count), "--only", pipeline, *(["--training"] if training else [])]
    places = [args.without_c] * (pipeline == "ours, no C") + [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(args: argparse.Namespace, training: bool) -> list[str]:
    """The lines of one table."""
    pipelines = [name for name in PIPELINES if name != "Grain" or importlib.util.find_spec("grain")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pipelines}
    for _ in range(args.runs):
        for name in pipelines:
            found[name].append(in_a_process(args, name, training))
    speed = {name: statistics.median(run["speed"] for run in runs) for name, runs in found.items()}
    start = {name: statistics.median(run["start"] for run in runs) for name, runs in found.items()}
    best = max(speed["timm"], speed["timm, prefetcher"])
    lines = [
        f"{'training' if training else 'evaluation':<18}{'images/s':>9}{'of timm':>9}{'of decoding':>13}{'start':>8}"
    ]
    for name in pipelines:
        ratios = f"{speed[name] / best:>9.2f}{speed[name] / speed['decoding']:>13.2f}{start[name]:>6.1f} s"
        lines.append(f"{name:<18}{speed[name]:>9.0f}{ratios}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=2000, help="images of one run (2000)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=PIPELINES, help=argparse.SUPPRESS)
    parser.add_argument("--training", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, listed(args.images, args.count), args.workers, args.training)))
        return
    from machine import machine

    grain = ["grain"] * bool(importlib.util.find_spec("grain"))
    print(machine(["numpy", "pillow", "simplejpeg", "torch", "timm", *grain]), flush=True)
    print(f"{args.workers} workers, batches of {BATCH}, {args.count} images a run, median of {args.runs} runs")
    paths = listed(args.images, 250)
    print(f"evaluation: {differences(paths)} floats of {len(paths)} images differ from timm's\n", flush=True)
    with tempfile.TemporaryDirectory() as args.without_c:
        compiled = shutil.ignore_patterns("_pixels*.so", "__pycache__")
        shutil.copytree(ROOT / "paddle_dla", Path(args.without_c, "paddle_dla"), ignore=compiled)
        for training in (False, True):
            print("\n".join(compare(args, training)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
