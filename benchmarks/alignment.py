"""Finding faults in a port of dla60: ``align`` beside PaDiff, on the same models and inputs.

Usage: ``python benchmarks/alignment.py --padiff DIR [--runs 3]``, on an idle machine.

``DIR`` is a checkout of https://github.com/PaddlePaddle/PaDiff. Each run is a process of its own, the tools take
turns; seconds are those of the comparison alone, forward and backward, batch 2, 224x224, memory is the process's peak
of resident pages with both models in it. PaDiff runs as its README shows it (``atol=1e-4``). A row with a fault shows
what each tool says of it: nothing, a wrong place, or the layer.

The row ``runs alone`` is what ``align`` cannot do without: torch in float64 and in float32 and Paddle in float64, each
forward and backward once, with nothing recorded or compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CORRECT = "(none)"
FAULTS = (
    "bn_epsilon_1e-3",
    "conv_padding_1010",
    "conv_weight_float16",
    "root_concat_permuted",
    "block_residual_detached",
)
"""Of ``alignment.faults.catalogue``: a setting, a setting that no even input shows, weights, wiring, a gradient."""
SHAPE = (2, 3, 224, 224)


def measure(tool: str, fault: str) -> dict[str, Any]:
    """One comparison in this process: ``seconds``, ``megabytes``, the layers at fault and what the tool says."""
    import numpy as np

    from alignment.pairs import build_pair, seeded_source
    from convert.conversion import convert_source

    source = seeded_source("dla60", 0, randomise_batch_norm=True)
    pair = build_pair(source, convert_source(source, "dla60"))
    del source
    inputs = np.random.RandomState(0).standard_normal(SHAPE)
    with _made(fault, pair.paddle_model) as layers:
        run = {"align": _align, "PaDiff": _padiff, "runs alone": _runs_alone}[tool]
        seconds, says = run(pair.torch_model, pair.paddle_model, inputs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "megabytes": peak, "layers": layers, "says": says}


@contextlib.contextmanager
def _made(fault: str, model: Any) -> Iterator[list[str]]:
    from alignment.faults.catalogue import by_name
    from alignment.faults.fault import injected

    if fault == CORRECT:
        yield []
        return
    with injected(by_name(fault), model) as layers:
        yield [*layers]


def _align(reference: Any, port: Any, inputs: Any) -> tuple[float, list[str]]:
    from alignment import align

    start = time.perf_counter()
    report = align(reference, port, inputs)
    seconds = time.perf_counter() - start
    return seconds, [] if report.passed else [culprit.layer for culprit in report.culprits]


def _padiff(reference: Any, port: Any, inputs: Any) -> tuple[float, list[str]]:
    import paddle
    import torch
    from padiff import auto_diff, create_model

    pair = {"x": torch.from_numpy(inputs.astype("float32"))}, {"x": paddle.to_tensor(inputs.astype("float32"))}
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(said):
        models = create_model(reference, "torch"), create_model(port, "paddle")
        passed = auto_diff(*models, pair, auto_init=False, atol=1e-4)
    seconds = time.perf_counter() - start
    return seconds, [] if passed else _named(said.getvalue())


def _runs_alone(reference: Any, port: Any, inputs: Any) -> tuple[float, list[str]]:
    import paddle
    import torch

    from alignment.engine.sides.torch.borrow import threads_as_torch

    start = time.perf_counter()
    for dtype in (torch.float64, torch.float32):
        x = torch.from_numpy(inputs).to(dtype).requires_grad_()
        output = reference.to(dtype)(x)
        output.backward(torch.ones_like(output))
    with threads_as_torch():
        port.to(dtype="float64")
        x = paddle.to_tensor(inputs, stop_gradient=False)
        output = port(x)
        output.backward(paddle.ones_like(output))
    return time.perf_counter() - start, []


def _named(said: str) -> list[str]:
    """The layer that PaDiff's message names, as a path in the Paddle model."""
    route = re.search(r"Route: torch\S*\s+(?:\[AutoDiff\]\s+)?paddle(\S*)", said)
    if route:
        return [route[1].lstrip(".") or "(model)"]
    return ["(gradients of parameters)" if "compare grads" in said else "(no layer)"]


def in_process(tool: str, fault: str, padiff: str) -> dict[str, Any]:
    """``measure`` in a process of its own. Raises ``RuntimeError`` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.path.abspath(padiff), "PYTHONWARNINGS": "ignore"}
        # PaDiff writes beside the script that runs, which so is the temporary folder
        code = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='__main__')"
        command = [sys.executable, "-c", code, "--measure", tool, fault]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        raise RuntimeError(f"{tool} on {fault}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def judged(layers: list[str], says: list[str]) -> str:
    """What a tool's answer is worth."""
    if not layers:
        return "passes" if not says else f"FALSE ALARM: {', '.join(says)}"
    if says == layers:
        return "found in its layer"
    return "MISSED" if not says else f"found, WRONG PLACE: {', '.join(says)}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="align beside PaDiff on dla60.")
    parser.add_argument("--padiff", metavar="DIR", help="a checkout of PaDiff")
    parser.add_argument("--runs", type=int, default=3, help="turns of the correct port (default 3)")
    parser.add_argument("--measure", nargs=2, metavar=("TOOL", "FAULT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    if not args.padiff or not (Path(args.padiff) / "padiff").is_dir():
        parser.error("--padiff must name a checkout of https://github.com/PaddlePaddle/PaDiff")
    from machine import machine  # beside this file, which a measured process does not search

    print(machine(("paddlepaddle", "torch", "timm", "numpy")))
    print(f"\n{'port':26}{'tool':12}{'seconds':>9}{'MiB':>7}  verdict")
    for fault in (CORRECT, *FAULTS):
        turns = args.runs if fault == CORRECT else 1
        tools = ("align", "PaDiff", *(["runs alone"] if fault == CORRECT else []))
        runs = [{tool: in_process(tool, fault, args.padiff) for tool in tools} for _ in range(turns)]
        for tool in tools:
            found = [run[tool] for run in runs]
            seconds, peak = (statistics.median(one[key] for one in found) for key in ("seconds", "megabytes"))
            verdict = judged(found[0]["layers"], found[0]["says"]) if tool != "runs alone" else ""
            print(f"{fault:26}{tool:12}{seconds:9.1f}{peak:7.0f}  {verdict}", flush=True)


if __name__ == "__main__":
    main()
