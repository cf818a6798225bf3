"""The main job, start to end: a timm DLA converted, loaded, run beside timm on real photographs, and compared.
Then a port with ImageNet weights predicts beside torch, see ``imagenet_demo.py``.

Usage::

    python scripts/demo.py --model dla60 [--checkpoint model.safetensors]

The photographs are those that scikit-image bundles (``skimage/data``, CC0 and public domain). Everything is written
under ``out/``. Exit codes: as ``alignment/check_forward.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from photographs import PHOTOS, photographs

from convert.readers import read_source
from paddle_dla.errors import UserError
from paddle_dla.models.variants import resolve_name

OUT = Path("out")
SEED = 0


def run(model: str, given: str | None) -> int:
    """Convert, load, compare; returns the exit code."""
    model = resolve_name(model)
    OUT.mkdir(exist_ok=True)
    weights = OUT / f"{model}.timm.safetensors"
    if given is None:
        print(f"{model} with SEEDED weights (seed {SEED}), untrained: no CHECKPOINT was given", flush=True)
        from alignment.pairs import seeded_source
        from paddle_dla.storage.tensors import write_safetensors

        source = seeded_source(model, SEED, randomise_batch_norm=True)
        write_safetensors(weights, {name: tensor.raw for name, tensor in source.tensors.items()})
    else:
        print(f"{model} with the weights of {given}", flush=True)
        weights = Path(given)
    found = read_source(weights)
    converted, report = OUT / f"{model}.pdparams", OUT / f"{model}.forward"
    sizes = ["--num-classes", str(found.num_classes or 1000), "--in-chans", str(found.in_chans)]
    print("\n1. convert", flush=True)
    of_model = ["--model", model, "--checkpoint", str(weights)]
    written = ["--output", str(converted), "--json", str(OUT / f"{model}.conversion.json")]
    code = command("convert.timm2paddle", *of_model, *written, "--no-verify", *sizes)
    if code:
        return code
    print(f"\n2. compare every layer on {len(PHOTOS)} photographs", flush=True)
    reports = ["--json", f"{report}.json", "--html", f"{report}.html"]
    inputs = ["--converted", str(converted), "--image", *photographs()]
    code = command("alignment.check_forward", *of_model, *inputs, *reports)
    print("written:")
    for path in sorted(OUT.glob(f"{model}.*")):
        print(f"  {path}  {path.stat().st_size / 1e6:.1f} MB")
    print(flush=True)
    words = [sys.executable, Path(__file__).with_name("imagenet_demo.py"), "--out", OUT / "imagenet"]
    return subprocess.run(words, check=False).returncode or code


def command(module: str, *arguments: str) -> int:
    """Run a command as a user would; returns its exit code."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="dla60", help="timm's name (default dla60)")
    parser.add_argument("--checkpoint", help="timm checkpoint; default: seeded weights")
    args = parser.parse_args(argv)
    try:
        return run(args.model, args.checkpoint)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
