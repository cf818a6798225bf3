"""What recomputation saves a port, and what it costs: memory and time of a training step, with and without.

Usage: ``python benchmarks/recomputation.py ports/resnet50 [...] [--batch 8] [--side 224] [--steps 3]``

Each measurement is a process of its own. A step is forward and backward in float32; the time is the shortest of the
steps, the peak is the process's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence

from machine import machine


def measure(port: str, batch: int, side: int, steps: int, recompute: bool) -> dict[str, float]:
    """``held``: what the forward pass keeps for backward, in MiB; ``peak`` in MiB; ``step`` in seconds."""
    import paddle

    from paddle_dla import create_model
    from paddle_dla.cpu import use_vector_kernels
    from paddle_dla.training.memory import peak_resident

    use_vector_kernels()
    network = create_model(port)
    network.train()
    network.set_grad_checkpointing(recompute)
    images = paddle.randn([batch, 3, side, side])
    held, times = [], []

    def keep(tensor: paddle.Tensor) -> paddle.Tensor:
        held.append(tensor.size * tensor.element_size())
        return tensor

    with paddle.autograd.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    for _ in range(steps):
        begun = time.perf_counter()
        network(images).square().mean().backward()
        times.append(time.perf_counter() - begun)
        network.clear_gradients()
    return {"held": sum(held) / 2**20, "peak": peak_resident() / 2**20, "step": min(times)}


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usage.add_argument("ports", nargs="+")
    usage.add_argument("--batch", type=int, default=8)
    usage.add_argument("--side", type=int, default=224)
    usage.add_argument("--steps", type=int, default=3)
    usage.add_argument("--recompute", choices=("yes", "no"), help=argparse.SUPPRESS)
    args = usage.parse_args(argv)
    if args.recompute:
        print(json.dumps(measure(args.ports[0], args.batch, args.side, args.steps, args.recompute == "yes")))
        return 0
    print(machine(("paddlepaddle", "numpy")))
    print(f"batches of {args.batch}, {args.side}x{args.side}, float32\n")
    print(f"{'port':32} {'recompute':>9} {'held MiB':>9} {'peak MiB':>9} {'s/step':>7}")
    for port in args.ports:
        for recompute in ("no", "yes"):
            sizes = ["--batch", str(args.batch), "--side", str(args.side), "--steps", str(args.steps)]
            command = [sys.executable, __file__, port, *sizes, "--recompute", recompute]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            figures = f"{found['held']:9.0f} {found['peak']:9.0f} {found['step']:7.2f}"
            print(f"{port.rstrip('/').rpartition('/')[2]:32} {recompute:>9} {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
