"""Which models of timm does the translator port? One process a model, with a limit of time and memory.

Usage::

    python benchmarks/coverage.py                      # the smallest model of each of timm's 98 families
    python benchmarks/coverage.py --models 100 --seed 0 --eval-only --no-sizes
    python benchmarks/coverage.py --all-variants resnet
    python benchmarks/coverage.py --package torchvision
    python benchmarks/coverage.py --package transformers    # or diffusers, ...: packages that have to be installed

Each model of timm and torchvision is built with 10 classes, those of other packages are small. Each is translated,
given weights in which nothing is constant, and compared with its reference layer by layer in float64, forward and
backward, in evaluation and in training mode; then on another batch and, where the reference takes one, on another size.
Results are kept in ``--output``, one file a model, and a model that has one is not run again; a CSV is written from
them. ``docs/make_coverage.py`` makes a page of such files.

Exit code: 0 if every model is aligned in evaluation, 1 if not.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import resource
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# a file beside this one is called as a package of the project is
sys.path[0] = str(HERE.parent)
from benchmarks.one_process import families, limited, read  # noqa: E402

LARGEST = 100_000_000  # parameters; float64 copies of both models and their gradients then fit in 16 GB
COLUMNS = ("model", "family", "parameters", "seconds", "translate_s", "memory_mb", "lines", "reference_lines", "eval",
           "train", "batch", "size", "why")  # fmt: skip
OF_IMAGES = ("timm", "torchvision")  # their models are built whole, and take other batches and sizes
PACKAGES = (*OF_IMAGES, "transformers", "diffusers", "segmentation_models_pytorch", "vit_pytorch")
BATCH = 2
OTHER_BATCH = 3


def chosen(args):
    """[(model, family)] that the command line names."""
    if args.package == "torchvision":
        return [(name, args.package) for name in args.names or torchvision().list_models(module=torchvision())]
    if args.package != "timm":
        from benchmarks.package_models import PACKAGES

        return [(name, args.package) for name in args.names or PACKAGES[args.package]]
    if args.names:
        return [(name, family_of(name)) for name in args.names]
    if args.all_variants or args.models:
        from torch_ref.model import import_timm

        timm = import_timm()
        if args.all_variants:
            return [(name, args.all_variants) for name in timm.list_models(module=args.all_variants)]
        names = sorted(timm.list_models())
        random.Random(args.seed).shuffle(names)
        return list(small(names, args.models))
    return [(row["smallest"], row["family"]) for row in families()]


def small(names, count):
    """The first ``count`` of ``names`` with fewer than ``LARGEST`` parameters, built on torch's meta device."""
    import torch

    from torch_ref.model import import_timm

    timm, found = import_timm(), 0
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        if sum(value.numel() for value in model.parameters()) < LARGEST:
            yield name, family_of(name)
            found += 1
        if found == count:
            return


def family_of(name):
    from torch_ref.model import import_timm

    return import_timm().models._registry._model_to_module.get(name, "")


# --- one model, in a process of its own


def one(args):
    """Port one model; the record is written to ``output`` after every stage, so that a limit loses one stage only."""
    record = {"model": args.one, "family": args.family, "eval": "", "train": "", "batch": "", "size": "", "why": ""}
    start = time.perf_counter()

    def keep(**more):
        record.update(more, seconds=round(time.perf_counter() - start, 1),
                      memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)  # fmt: skip
        part = Path(f"{args.output}.part")
        part.write_text(json.dumps(record), encoding="utf-8")
        part.replace(args.output)

    try:
        stages(args, keep)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".replace("\n", " ")
        keep(why=re.sub(r"/[^\s:]*/([^\s:/]+/[^\s:/]+\.py)", r"\1", text)[:600])  # files by their last two names
        raise


def stages(args, keep):
    from alignment import align
    from convert.porting.proof import build, drawn, paired, prove, torch_arrays
    from convert.translate.float64 import float64_throughout
    from convert.translate.translator import translate

    module, inputs = subject(args)
    keep(parameters=sum(value.numel() for value in module.parameters()))
    begun = time.perf_counter()
    translated = translate(module, inputs, f"{args.one}\n")
    source = Path(args.output).with_suffix(".py")
    source.write_text(translated.source, encoding="utf-8")
    keep(translate_s=round(time.perf_counter() - begun, 1), lines=len(translated.source.splitlines()),
         reference_lines=reference_lines(module))  # fmt: skip
    if args.forward_only:
        reference = float64_throughout(drawn(module, inputs))
        port = build(source, translated, torch_arrays(reference))
        found = align(reference, port, inputs[0].numpy(), key_map=translated.key_map, backward=False)
        keep(eval=verdict(found), why="" if found.passed else str(found.verdict())[:600])
        return
    results = prove(paired(module, inputs, source, translated), translated, ("eval",))
    keep(eval=verdict(results["eval"]))
    if not results["eval"].passed:
        keep(why=str(results["eval"].verdict())[:600])
    if not args.eval_only:
        results = prove(paired(module, inputs, source, translated), translated, ("train",))
        keep(train=verdict(results["train"]))
        if not results["train"].passed:
            keep(why=str(results["train"].verdict())[:600])
    if args.package not in OF_IMAGES or args.no_sizes:
        return
    reference, shape = float64_throughout(drawn(module, inputs)), inputs[0].shape[1:]
    port = build(source, translated, torch_arrays(reference))
    keep(batch=forward(reference, port, translated, (OTHER_BATCH, *shape)))
    keep(size=forward(reference, port, translated, (BATCH, shape[0], *(side + 32 for side in shape[1:]))))


def subject(args):
    """The module of ``args`` and its inputs."""
    import torch

    from convert.porting.reference import Reference

    if args.package not in OF_IMAGES:
        from benchmarks.package_models import build

        torchvision()  # these packages import it, too
        return build(args.package, args.one)
    options = {"num_classes": 10, **json.loads(args.options)}
    if args.package == "torchvision":
        torchvision()
        side = next((side for part, side in SIDES.items() if part in args.one), 64)
        options |= {"image_size": side} if args.one.startswith("vit") else {}
        # a slow initialisation, whose values are replaced
        options |= {"init_weights": False} if args.one.startswith(("googlenet", "inception")) else {}
        module, shape = Reference(factory=f"torchvision.models:{args.one}", options=options).build(), (3, side, side)
    else:
        module = Reference(model=args.one, options=options).build()
        shape = module.pretrained_cfg["input_size"]
    if args.side and not (args.package == "timm" and module.pretrained_cfg.get("fixed_input_size")):
        shape = (shape[0], *(min(args.side, own) for own in shape[1:]))
    return module, (torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1)),)


SIDES = {"inception": 299, "maxvit": 224, "_14": 56}
"""Sides that torchvision's classes take, where it is not 64: an auxiliary classifier, windows of 7, patches of 14."""


def torchvision():
    """``torchvision.models``; timm may have to declare its operators first."""
    from torch_ref.model import import_timm

    import_timm()
    from torchvision import models

    return models


def forward(reference, port, translated, shape):
    """``aligned``, ``differs``, or why the reference does not take inputs of ``shape``."""
    import paddle
    import torch

    from alignment import align

    inputs = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    try:
        with torch.no_grad():
            reference.eval()(inputs)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        return f"the reference refuses: {str(error).splitlines()[0][:60] if str(error) else type(error).__name__}"
    try:
        with paddle.no_grad():
            port(paddle.to_tensor(inputs.numpy()))
    except ValueError as error:
        return f"the port refuses: {error}"
    result = align(reference, port, inputs.numpy(), key_map=translated.key_map)
    return verdict(result)


def verdict(result):
    return "aligned" if result.passed else "undecided" if result.undecided else "differs"


def reference_lines(module):
    import inspect

    return len(Path(inspect.getsourcefile(type(module))).read_text(encoding="utf-8").splitlines())


# --- all of them


def run(args):
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    models = chosen(args)
    for number, (name, family) in enumerate(models, 1):
        target = output / f"{name}.json"
        if target.exists() and not args.again:
            continue
        command = [sys.executable, __file__, "--one", name, "--family", family, "--output", str(target)]
        command += ["--eval-only"] * args.eval_only + ["--no-sizes"] * args.no_sizes
        command += ["--forward-only"] * args.forward_only
        command += ["--side", str(args.side), "--package", args.package]
        print(f"[{number}/{len(models)}] {name}", end=": ", flush=True)
        why = limited(command, args.limit_s, args.limit_gb, output / f"{name}.log")
        record = read(target) or {"model": name, "family": family}
        if why:
            record["why"] = why
            target.write_text(json.dumps(record), encoding="utf-8")
        print({key: record.get(key) for key in COLUMNS[3:] if record.get(key)}, flush=True)
    records = [record for name, _ in models if (record := read(output / f"{name}.json"))]
    write(records, args)
    return 0 if all(record.get("eval") == "aligned" for record in records) else 1


def write(records, args):
    table = Path(args.output) / "coverage.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
    aligned = [record for record in records if record.get("eval") == "aligned"]
    print(f"{len(aligned)} of {len(records)} aligned in evaluation, "
          f"{sum(record.get('train') == 'aligned' for record in records)} in training; {table}")  # fmt: skip


def parser():
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--models", type=int, metavar="N", help="N of all models, drawn with --seed")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--all-variants", metavar="FAMILY")
    result.add_argument("--names", nargs="+", metavar="MODEL")
    result.add_argument("--package", choices=PACKAGES, default="timm")
    result.add_argument("--eval-only", action="store_true")
    result.add_argument("--forward-only", action="store_true", help="outputs in evaluation alone, of models too large")
    result.add_argument("--no-sizes", action="store_true", help="leave out the other batch and the other size")
    result.add_argument("--side", type=int, default=0, metavar="PIXELS",
                        help="at most this, where a model takes images of any size; default: the model's own size")
    result.add_argument("--again", action="store_true", help="run models that have a result")
    result.add_argument("--limit-s", type=int, default=900)
    result.add_argument("--limit-gb", type=int, default=16)
    result.add_argument("--output", default="out/coverage")
    result.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    result.add_argument("--family", default="", help=argparse.SUPPRESS)
    result.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    return result


if __name__ == "__main__":
    arguments = parser().parse_args()
    if arguments.one:
        one(arguments)
    else:
        sys.exit(run(arguments))
