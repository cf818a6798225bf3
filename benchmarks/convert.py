"""Conversion of a timm checkpoint to ``.pdparams``: this project's converter beside the usual script.

Usage: ``python benchmarks/convert.py [--runs 5]``, on an idle machine.

The usual script imports both frameworks, builds timm's model, loads the checkpoint into it, renames its state dict,
loads that into the Paddle model and calls ``paddle.save``. Both are whole processes, started in turn; a row is the
median over the runs. Memory is the peak of resident pages, which counts the mapped pages of the checkpoint too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

USUAL = """
import sys
import numpy as np, paddle, torch
from torch_ref.model import import_timm
timm = import_timm()
from safetensors.torch import load_file
from paddle_dla import create_model
name, source, target = sys.argv[1:]
state = load_file(source) if source.endswith(".safetensors") else torch.load(source, map_location="cpu")
model = timm.create_model(name)
model.load_state_dict(state)
converted = {}
for key, value in model.state_dict().items():
    if "num_batches_tracked" not in key:
        key = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        converted[key] = value.numpy()
port = create_model(name)
port.set_state_dict(converted)
paddle.save(port.state_dict(), target)
"""

EMPTY = "import numpy, safetensors"


def command(way: str, model: str, source: Path, target: Path) -> list[str]:
    """The process that is measured."""
    if way == "usual":
        return [sys.executable, "-c", USUAL, model, str(source), str(target)]
    script = str(Path(__file__).parent.parent / "convert/timm2paddle.py")
    return [sys.executable, script, "--model", model, "--checkpoint", str(source), "--output", str(target),
            "--no-verify"]  # fmt: skip


def measure(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of one process. Raises where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(errors.decode())
    return seconds, usage.ru_maxrss / 1024


def medians(ways: dict[str, list[str]], runs: int) -> dict[str, tuple[float, float]]:
    """Median seconds and MB by way; the ways take turns, the first turn only warms the file cache."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(runs + 1):
        for way, arguments in ways.items():
            sample = measure(arguments)
            if turn:
                found[way].append(sample)
        print(f"  turn {turn} of {runs}", file=sys.stderr, flush=True)
    return {way: tuple(map(statistics.median, zip(*samples))) for way, samples in found.items()}


def make_sources(folder: Path, model: str) -> dict[str, Path]:
    """A seeded timm checkpoint, as ``.safetensors`` and as ``.pth``, made in a process of its own."""
    code = (
        "import sys, torch; from safetensors.torch import save_file; from torch_ref.model import create_model\n"
        "state = create_model(sys.argv[1], seed=0).state_dict(); base = sys.argv[2]\n"
        "save_file(state, base + '.safetensors'); torch.save(state, base + '.pth')"
    )
    subprocess.run([sys.executable, "-c", code, model, str(folder / model)], check=True, stderr=subprocess.DEVNULL)
    return {suffix: folder / f"{model}{suffix}" for suffix in (".safetensors", ".pth")}


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Conversion of a timm checkpoint: ours beside the usual script.")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    print(machine(("paddlepaddle", "torch", "timm", "safetensors", "numpy")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"\n{'':24}{'seconds':>10}{'MB':>8}{'times faster':>14}{'of its memory':>15}")
        for suffix, source in make_sources(folder, "dla60").items():
            ways = {w: command(w, "dla60", source, folder / f"{w}.pdparams") for w in ("usual", "ours")}
            found = medians(ways, args.runs)
            for way, (seconds, memory) in found.items():
                ratio = f"{found['usual'][0] / seconds:14.1f}{memory / found['usual'][1]:15.2f}"
                print(f"{f'dla60 {suffix} {way}':24}{seconds:10.2f}{memory:8.0f}{ratio if way == 'ours' else ''}")
        source = make_sources(folder, "dla169")[".safetensors"]
        ways = {
            "ours": command("ours", "dla169", source, folder / "x.pdparams"),
            "empty": [sys.executable, "-c", EMPTY],
        }
        found = medians(ways, args.runs)
        size = source.stat().st_size / 2**20
        memory, interpreter = found["ours"][1], found["empty"][1]
        print(f"\ndla169: {found['ours'][0]:.2f} s, peak {memory:.0f} MB = interpreter with numpy {interpreter:.0f} MB "
              f"+ {(memory - interpreter) / size:.2f} times the file of {size:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
