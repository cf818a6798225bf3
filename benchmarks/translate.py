"""How long does a translation take beside ``torch.export`` alone? Both of one model, in turn, in one process.

Usage::

    python benchmarks/translate.py [--models resnet50 vit_tiny_patch16_224 ...] [--runs 3]

``torch.export`` has batch, height and width free, as the translator asks for them. A line for each model: the median
seconds of both, and their ratio. Nothing is proved or written.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from pathlib import Path

from machine import machine

# a file beside this one is called as a package of the project is
sys.path[0] = str(Path(__file__).parent.parent)
MODELS = ("resnet50", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_b0", "densenet121")


def seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main():
    import torch

    from convert.porting.reference import Reference

    args = parser().parse_args()
    print(machine(("torch", "timm")))
    for name in args.models:
        module = Reference(model=name, options={"num_classes": 10}).build().eval()
        exported, translated = measured(module, torch.randn(2, *module.pretrained_cfg["input_size"]), args.runs)
        ratio = f"{translated / exported:.2f} times"
        print(f"{name}: torch.export {exported:.1f} s, translated in {translated:.1f} s, {ratio}", flush=True)


def measured(module, x, runs):
    """Median seconds of ``torch.export`` and of a translation."""
    import torch

    from convert.translate.translator import translate

    free = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),)

    def export():
        torch.export.export(copy.deepcopy(module), (x,), dynamic_shapes=free, strict=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export()  # torch loads half of itself at the first one
        rows = [(seconds(export), seconds(lambda: translate(module, (x,)))) for _ in range(runs)]
    return (statistics.median(row) for row in zip(*rows, strict=True))


def parser():
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    result.add_argument("--runs", type=int, default=3)
    return result


if __name__ == "__main__":
    main()
