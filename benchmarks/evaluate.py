"""Evaluation speed: our engines beside ONNX Runtime, OpenVINO and torch, on the same weights and threads.

Usage, on an idle machine::

    python benchmarks/evaluate.py [--model dla60] [--calibration DIR|LIST] [--runs 5]
    python benchmarks/evaluate.py --port ports/resnet50
    python benchmarks/evaluate.py --port ports/resnet50 --paddleclas resnet:ResNet50

OpenVINO is optional (the extra ``openvino``); ``--calibration`` adds int8. ``--paddleclas`` compares with the
class of that network in PaddleClas alone, FILE:CLASS of its backbones (``pip install --no-deps paddleclas==2.6.0``): in
one process, batch by batch in turn, both as ``paddle`` runs them.

Each run is a process of its own, the contenders take turns; images a second are those of the network alone, 224x224, on
batches of one size, after warm-up. All compute in float32 but int8. ``paddle``, ``inference``, ``onnxruntime`` and
``openvino`` are the engines of ``paddle-dla evaluate``, opened as it opens them; "ONNX Runtime, plain" runs what
paddle2onnx makes of the network without our export; OpenVINO runs the same file; torch runs timm's model.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZE = (3, 224, 224)
WARM_UP = 4
ENGINES = ("paddle", "inference", "onnxruntime", "openvino")
PEERS = ("ONNX Runtime, plain", "OpenVINO", "torch", "torch, channels last", "torch, compiled")
INT8 = "onnxruntime, int8"

Run = Callable[[np.ndarray], object]


def prepare(folder: Path, model: str, port: str | None, calibration: str | None) -> None:
    """Weights for all contenders, the same ones, as each of them reads them."""
    from paddle_dla.exporting.opening import frozen
    from paddle_dla.loading import load_model

    weights = str(folder / "model.pdparams")
    if port:
        weights = str(Path(port).resolve() / "weights.pdparams")
    else:
        call("convert.timm2paddle", "--model", model, "--seed", 0, "--output", weights, "--no-verify")
    options = ("--model", port or model, "--checkpoint", weights, "--output")
    call("paddle_dla.export", *options, folder / "ours", "--format", "inference", "--format", "onnx")
    if calibration:
        # the weights are not trained: int8 has nothing to lose but what noise decides
        quantised = ("--int8", "--calibration", calibration, "--max-loss", 100, "--images", 64)
        call("paddle_dla.export", *options, folder / "int8", *quantised)
    write_plain_onnx(frozen(load_model(port or model, weights).layer), folder)


def call(module: str, *arguments: object) -> None:
    """A command of the project, from its root, where this folder's file names hide no package."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    if done.returncode:
        raise SystemExit(f"{module}: {done.stderr}")


def write_plain_onnx(layer: object, folder: Path) -> None:
    """What paddle2onnx makes of the network as it is."""
    import paddle
    import paddle2onnx
    from paddle.static import InputSpec

    static = paddle.jit.to_static(layer, input_spec=[InputSpec([None, *SIZE], "float32", "images")])
    paddle.jit.save(static, str(folder / "plain"))
    paddle2onnx.export(
        str(folder / "plain.json"), str(folder / "plain.pdiparams"), save_file=str(folder / "plain.onnx")
    )


def open_contender(name: str, args: argparse.Namespace) -> Run:
    folder, threads = args.folder, args.threads
    if name == "paddle":
        from paddle_dla.engines import open_engine
        from paddle_dla.loading import load_model

        weights = None if args.port else str(folder / "model.pdparams")
        return open_engine(name, load_model(args.port or args.model, weights).layer, threads=threads).run
    if name in (*ENGINES, INT8):
        from paddle_dla.engines import open_engine

        kind = name.split(",")[0]
        return open_engine(kind, str(folder / ("int8" if name == INT8 else "ours")), threads=threads).run
    if name == "ONNX Runtime, plain":
        return open_onnxruntime(str(folder / "plain.onnx"), threads)
    if name == "OpenVINO":
        return open_openvino(str(folder / "plain.onnx"), threads)
    return open_torch(name, timms_name(args), threads)


def timms_name(args: argparse.Namespace) -> str:
    """What timm calls the model. Raises ``SystemExit`` for a port of another package."""
    if not args.port:
        return args.model
    name = json.loads((Path(args.port) / "card.json").read_text(encoding="utf-8"))["reference"]["model"]
    return name or sys.exit(f"{args.port} is not the port of a model of timm")


def open_onnxruntime(path: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def open_openvino(path: str, threads: int) -> Run:
    import openvino

    # by default it computes in bfloat16 where the processor can
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda images: compiled(images)[0]


def open_torch(name: str, model: str, threads: int) -> Run:
    import torch

    from torch_ref.model import create_model

    torch.set_num_threads(threads)
    network = create_model(model, seed=0)
    network.eval()
    form = torch.contiguous_format if name == "torch" else torch.channels_last
    network = network.to(memory_format=form)
    if name == "torch, compiled":
        network = torch.compile(network)

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(images).to(memory_format=form)).numpy()

    return run


def measure(run: Run, batch: int, seconds: float) -> float:
    """Images a second."""
    images = np.random.default_rng(0).standard_normal((batch, *SIZE), np.float32)
    for _ in range(WARM_UP):
        run(images)
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - began)
    return batch / statistics.median(times)


def in_a_process(args: argparse.Namespace, name: str, folder: Path) -> float:
    options = ["--model", args.model, "--batch", args.batch, "--threads", args.threads, "--seconds", args.seconds]
    options += ["--port", args.port] * bool(args.port)
    command = [sys.executable, __file__, "--only", name, "--folder", folder, *options]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def contenders(args: argparse.Namespace) -> list[str]:
    names = [*ENGINES, *((INT8,) if args.calibration else ()), *PEERS]
    return [name for name in names if name.lower() != "openvino" or importlib.util.find_spec("openvino")]


def beside_paddleclas(args: argparse.Namespace) -> str:
    """The speed of a port beside that of PaddleClas's class, in one line."""
    from paddleclas_wheel import backbone

    from paddle_dla.engines import open_engine
    from paddle_dla.loading import load_model

    file, _, builder = args.paddleclas.partition(":")
    layers = load_model(args.port, None).layer, getattr(backbone(file), builder)()
    runs = [open_engine("paddle", layer, threads=args.threads).run for layer in layers]
    images = np.random.default_rng(0).standard_normal((args.batch, *SIZE), np.float32)
    times: tuple[list[float], list[float]] = [], []
    while len(times[0]) < WARM_UP + args.runs or sum(times[0]) < args.seconds:
        for run, found in zip(runs, times):
            began = time.perf_counter()
            run(images)
            found.append(time.perf_counter() - began)
    port, theirs = (args.batch / statistics.median(found[WARM_UP:]) for found in times)
    return f"{timms_name(args):<30}{port:>6.1f} images/s, {builder} {theirs:.1f}: {port / theirs:.2f} times"


def table(args: argparse.Namespace, folder: Path) -> list[str]:
    names = contenders(args)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.runs):
        for name in names:
            found[name].append(in_a_process(args, name, folder))
    speed = {name: statistics.median(values) for name, values in found.items()}
    best = max(speed[name] for name in names if name in PEERS)
    lines = [f"{timms_name(args):<22}{'images/s':>9}{'of the fastest peer':>21}{'of onnxruntime':>16}"]
    for name in names:
        ratios = f"{speed[name] / best:>21.2f}{speed[name] / speed['onnxruntime']:>16.2f}"
        lines.append(f"{name:<22}{speed[name]:>9.1f}{ratios}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dla60")
    parser.add_argument("--port", metavar="FOLDER", help="a port of a model of timm, instead of --model")
    parser.add_argument("--paddleclas", metavar="FILE:CLASS", help="PaddleClas's own class of the same network")
    parser.add_argument("--calibration", metavar="DIR|LIST", help="images for int8, as for evaluation")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one run (6)")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        run = open_contender(args.only, args)
        print(json.dumps(measure(run, args.batch, args.seconds)))
        return
    from machine import machine

    optional = ["openvino"] * ("OpenVINO" in contenders(args)) + ["paddleclas"] * bool(args.paddleclas)
    packages = ["paddlepaddle", "onnxruntime", "torch", "timm", *optional]
    print(machine(packages), flush=True)
    print(f"{args.threads} threads, batches of {args.batch}, 224x224, float32 but int8, median of {args.runs} runs\n")
    if args.paddleclas:
        print(beside_paddleclas(args))
        return
    with tempfile.TemporaryDirectory() as scratch:
        # what the exporters print is no part of the table
        with contextlib.redirect_stdout(sys.stderr):
            prepare(Path(scratch), args.model, args.port, args.calibration)
        print("\n".join(table(args, Path(scratch))))


if __name__ == "__main__":
    main()
