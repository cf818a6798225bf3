"""Which models of timm does X2Paddle translate, and are the numbers right? Beside ``benchmarks/coverage.py``.

Usage: ``python benchmarks/x2paddle.py --x2paddle DIR [--names MODEL ...] [--output out/x2paddle]``.

``DIR`` is where X2Paddle 1.6 is, with the packages that it imports: ``pip install --no-deps --target DIR
x2paddle==1.6.0 six requests urllib3 charset_normalizer``. The models are the smallest of each of timm's families, with
10 classes, in evaluation; each is traced and translated at its own input size, one process a model, and what X2Paddle
wrote runs on the inputs it was traced with. An output is right where rounding explains its distance to torch in
float64: at most ``MARGIN`` times that of torch in float32, the engine's own measure.

Results are kept in ``--output``, one file a model, and a model that has one is not run again; ``x2paddle.csv`` is
written from them.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
# a file beside this one is called as a package of the project is
sys.path[0] = str(HERE.parent)
COLUMNS = ("model", "family", "outcome", "lines", "why")
RAISES, WRONG, RIGHT = "raises", "wrong", "right"


def one(name, folder):
    """Translate one model and run what was written: ``{column: value}``."""
    import copy

    import torch

    from convert.porting.reference import Reference

    module = Reference(model=name, options={"num_classes": 10}).build().eval()
    x = torch.randn(2, *module.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(x.double()).numpy()
        rounded = module(x).numpy()
    output, lines = translated(module, x, folder)
    return {**judged(output, rounded, exact), "lines": lines}


def translated(module, x, folder):
    """What X2Paddle's translation of ``module`` returns for ``x``, and the length of its source."""
    import paddle
    from x2paddle.convert import pytorch2paddle

    # without feedback: it is an upload
    pytorch2paddle(module, str(folder), jit_type="trace", input_examples=[x], disable_feedback=True)
    source = folder / "x2paddle_code.py"
    spec = importlib.util.spec_from_file_location("x2paddle_code", source)
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    classes = [value for value in vars(written).values() if isinstance(value, type) and value.__module__ == spec.name]
    network = classes[-1]()
    network.set_dict(paddle.load(str(folder / "model.pdparams")))
    network.eval()
    with paddle.no_grad():
        return network(paddle.to_tensor(x.numpy())), len(source.read_text(encoding="utf-8").splitlines())


def judged(output, rounded, exact):
    """The outcome of an output beside torch's own in float32 and in float64."""
    import numpy as np

    from alignment.engine.judging.error import compare
    from alignment.engine.judging.limits import MARGIN

    output = output[0] if isinstance(output, (list, tuple)) else output
    found = compare(exact, np.asarray(output.numpy()))
    floor = max(compare(exact, rounded).relative, 2.0**-24)
    if found.relative <= MARGIN["float32"] * floor:
        return {"outcome": RIGHT}
    return {"outcome": WRONG, "why": found.mismatch or f"relative error {found.relative:.1e}"}


def run(args):
    from benchmarks.one_process import families, limited, read

    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.path.abspath(args.x2paddle)
    rows = [row for row in families() if not args.names or row["smallest"] in args.names]
    for number, row in enumerate(rows, 1):
        name, target = row["smallest"], output / f"{row['smallest']}.json"
        if not target.exists():
            command = [sys.executable, __file__, "--one", name, "--output", str(target)]
            log = output / f"{name}.log"
            why = limited(command, args.limit_s, args.limit_gb, log)
            record = read(target) or {"outcome": RAISES, "why": why or last_line(log)}
            if "ModuleNotFoundError" in record.get("why", ""):
                raise SystemExit(f"{record['why']}: it belongs into {args.x2paddle}")
            target.write_text(json.dumps({"model": name, "family": row["family"], **record}), encoding="utf-8")
        print(f"[{number}/{len(rows)}] {name}: {read(target)}", flush=True)
    records = sorted((read(output / f"{row['smallest']}.json") for row in rows), key=lambda one: one["family"])
    with (output / "x2paddle.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    counts = {outcome: sum(one["outcome"] == outcome for one in records) for outcome in (RIGHT, WRONG, RAISES)}
    print(f"{counts} of {len(records)}; {output / 'x2paddle.csv'}")


def last_line(log):
    """What a process that raised printed last, with the last name of each file."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return re.sub(r"/[^\s:]*/", "", next((line for line in reversed(lines) if line.strip()), ""))[:200]


def parser():
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--x2paddle", metavar="DIR")
    result.add_argument("--names", nargs="+", metavar="MODEL")
    result.add_argument("--limit-s", type=int, default=600)
    result.add_argument("--limit-gb", type=int, default=16)
    result.add_argument("--output", default="out/x2paddle")
    result.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    if arguments.one:
        target = Path(arguments.output)
        target.write_text(json.dumps(one(arguments.one, target.with_suffix(""))), encoding="utf-8")
    else:
        run(arguments)
