"""Convert timm weights to Paddle: read, map, audit, verify, write.

Usage::

    python convert/timm2paddle.py --model dla60 --checkpoint model.safetensors --output dla60.pdparams
    python convert/timm2paddle.py --model dla60 --hub timm/dla60.in1k --output dla60.pdparams
    python convert/timm2paddle.py --model all --seed 0 --output weights/
    python convert/timm2paddle.py --model ports/resnet18 --checkpoint model.safetensors --output resnet18.pdparams

``--checkpoint`` takes ``.safetensors``, ``.pth``, ``.pth.tar``, ``.pt`` and ``.bin`` (reading them needs neither torch
nor Paddle): plain state dicts, timm's training checkpoints, those of the original authors. ``--output`` is a
``.pdparams`` or ``.safetensors`` file, or, with ``--model all``, a folder. A manifest with the origin and checksum of
every tensor is written beside each file.

If torch, timm and Paddle are installed, both models are run with the weights and every layer is compared before
anything is written; ``--no-verify`` skips this.

Exit codes: 0 written, 1 refused (nothing was written), 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from convert.conversion import convert_source
from convert.hub import download, hub_id
from convert.matching.key_map import KeyMap
from convert.outcome import Conversion, ConversionError
from convert.port_weights import convert_for_port
from convert.readers import Source, read_source
from paddle_dla import weight_files
from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError
from paddle_dla.extras import install_command
from paddle_dla.models.registry import find_model
from paddle_dla.models.variants import VARIANTS
from paddle_dla.options import (
    PreprocessingOptions,
    add_preprocessing,
    chosen_preprocessing,
    natural,
    options_of,
    positive,
)
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import check_weights_writable, manifest_path
from paddle_dla.terminal import run_command

FRAMEWORKS = ("torch", "timm", "paddle")
# batch, height and width of the random images for the comparison: twice the smallest side that the network takes, so
# that every level still has more than one position
VERIFY_SHAPE = (2, 64, 64)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(PreprocessingOptions):
    """Options of a conversion.

    The weights come from the file ``checkpoint``, from ``hub`` (empty: the model's own repository), or from ``seed``.
    """

    model: str
    output: str
    checkpoint: str | None = None
    hub: str | None = None
    seed: int | None = None
    use_ema: bool = False
    num_classes: int | None = None
    in_chans: int | None = None
    key_map: str | None = None
    json: str | None = None
    no_verify: bool = False


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = CommandParser("timm2paddle", __doc__)
    result.add_argument("--model", required=True, help="DLA name, port folder, or 'all'")
    source = result.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="FILE", help="timm weights: .safetensors, .pth, .pth.tar, .pt or .bin")
    source.add_argument(
        "--hub", metavar="ID", nargs="?", const="", help="repository on the hub, timm/NAME (default: the model's own)"
    )
    source.add_argument(
        "--seed",
        type=natural,
        metavar="N",
        help="use timm's initialisation with this random seed instead of a checkpoint",
    )
    result.add_argument(
        "--output", required=True, help="file to write: .pdparams or .safetensors; a folder with --model all"
    )
    result.add_argument(
        "--use-ema", action="store_true", help="use the averaged (EMA) weights of a training checkpoint"
    )
    result.add_argument(
        "--num-classes",
        type=positive,
        metavar="N",
        help="number of classes; the head is new if the checkpoint has another number",
    )
    result.add_argument(
        "--in-chans", type=positive, metavar="N", help="number of input channels; the first convolution is adapted"
    )
    result.add_argument("--key-map", metavar="FILE", help="key map for a checkpoint with other tensor names")
    result.add_argument("--json", metavar="FILE.json", help="write a report of the conversion as JSON")
    result.add_argument("--no-verify", action="store_true", help="skip running and comparing both models")
    add_preprocessing(result)
    return result


def targets(options: ConvertOptions, usage: argparse.ArgumentParser) -> dict[str, Path]:
    """Return ``{model: file to write}``; exit with code 2 if the arguments are invalid."""
    output = Path(options.output)
    if options.use_ema and not options.checkpoint:
        usage.error("--use-ema needs --checkpoint")
    if options.model == "all":
        if options.checkpoint or options.hub:
            usage.error("--checkpoint and --hub ID belong to one model; with 'all' use --hub or --seed N alone")
        if output.suffix in weight_files.WRITERS:
            usage.error(f"with --model all, --output is a folder, not the file {output}")
        return {name: output / f"{name}.pdparams" for name in VARIANTS}
    try:
        entry = find_model(options.model)
    except UserError as error:
        usage.error(str(error))
    if entry.published is None and entry.folder is None:
        usage.error(f"{options.model} has no reference; only a DLA or a port is converted")
    if options.key_map and entry.folder is None:
        usage.error("--key-map is only for ports; the map of DLA is built in")
    return {entry.place: output}


def convert_one(options: ConvertOptions, model: str, target: Path, progress: Progress) -> dict[str, Any]:
    """Convert one model, write it and return the report. If ``UserError`` is raised, nothing was written."""
    weight_files.check_suffix(target)
    check_weights_writable(target)
    preprocessing = _preprocessing(options, model)
    source = find_source(options, model, progress)
    conversion = _conversion(options, source, model, preprocessing)
    for warning in conversion.warnings:
        progress(f"warning: {warning}")
    verification = (
        {"run": False, "why": "--no-verify"} if options.no_verify else verify(model, source, conversion, progress)
    )
    weight_files.save(target, conversion.arrays, conversion.manifest)
    dropped = conversion.manifest["dropped"]
    progress(
        f"{len(conversion.arrays)} tensors mapped, {len(dropped)} dropped with a reason; wrote {target} and "
        f"{manifest_path(target).name}"
    )
    manifest = {key: value for key, value in conversion.manifest.items() if key != "tensors"}
    return {
        "status": "converted",
        "model": model,
        "output": str(target),
        "verification": verification,
        "warnings": conversion.warnings,
        "mapped": len(conversion.arrays),
        **manifest,
    }


def _conversion(options: ConvertOptions, source: Source, model: str, preprocessing: Preprocessing) -> Conversion:
    how: dict[str, Any] = {"head_seed": options.seed or 0, "preprocessing": preprocessing}
    entry = find_model(model)
    if entry.folder is None:
        return convert_source(source, model, options.num_classes, options.in_chans, **how)
    key_map = KeyMap.load(options.key_map) if options.key_map else None
    return convert_for_port(source, entry, options.num_classes, options.in_chans, key_map=key_map, **how)


def _preprocessing(options: ConvertOptions, model: str) -> Preprocessing:
    """Return the published preprocessing, changed by the options. Raises ``WrongValue`` for invalid options."""
    card = find_model(model).card
    preprocessing = card.preprocessing.with_channels(options.in_chans or card.in_chans or 3)
    return chosen_preprocessing(options, preprocessing)


def find_source(options: ConvertOptions, model: str, progress: Progress) -> Source:
    """Read the weights that the options name. Raises ``CheckpointError`` if they are not available."""
    if options.checkpoint:
        return read_source(options.checkpoint, options.use_ema)
    if options.hub is not None:
        repository = options.hub or hub_id(model)
        progress(f"fetching {repository} from the hub")
        return read_source(download(repository))
    if options.seed is None:
        raise CheckpointError("no weights are given: pass --checkpoint FILE, --hub or --seed N")
    missing = _missing_frameworks(("torch", "timm"))
    if missing:
        raise CheckpointError(f"--seed lets timm initialise the model; {missing}: {install_command('torch')}")
    if find_model(model).folder is not None:
        raise CheckpointError("--seed is only for DLA: a port has its own weights; pass --checkpoint")
    from alignment.pairs import seeded_source

    return seeded_source(model, options.seed, options.num_classes or 1000, options.in_chans or 3)


def verify(model: str, source: Source, conversion: Conversion, progress: Progress) -> dict[str, Any]:
    """Run both models and compare every layer, if the frameworks are installed.

    Returns the report's entry; raises ``CheckpointError`` if the models differ.
    """
    missing = _missing_frameworks(FRAMEWORKS)
    if missing:
        progress(f"not verified by running both models: {missing}")
        return {"run": False, "why": missing}
    import numpy as np

    from alignment.models import compared_forward

    entry = find_model(model)
    batch, height, width = VERIFY_SHAPE if entry.folder is None else (2, *entry.card.preprocessing.input_size[1:])
    inputs = np.random.RandomState(0).standard_normal((batch, conversion.in_chans, height, width))
    result = compared_forward(entry, source, conversion, inputs, progress=progress)
    progress(result.verdict())
    worst = result.worst
    if not result.passed or worst is None:
        raise CheckpointError(
            f"the converted model differs from timm's; {result.verdict()}\nsee every layer: "
            f"python alignment/check_forward.py --model {model} --checkpoint FILE"
        )
    return {"run": True, "verdict": result.verdict(), "compared": len(result.rows), "worst": worst.relative}


def _missing_frameworks(names: Sequence[str]) -> str:
    missing = [name for name in names if find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def write_report(path: str, reports: Sequence[dict[str, Any]]) -> None:
    """Write one report as an object, several as a list. Raises ``CheckpointError`` if the file cannot be written."""
    content = reports[0] if len(reports) == 1 else list(reports)
    with atomic_path(path) as part:
        part.write_text(to_json(content, indent=1) + "\n", encoding="utf-8")


def written_by(targets: Mapping[str, Path], report: str | None) -> dict[str, str | Path | None]:
    """Return every file that the command writes, by its description."""
    weights = {f"--output ({model})": path for model, path in targets.items()}
    manifests = {f"the manifest of {path}": manifest_path(path) for path in targets.values()}
    return {**weights, **manifests, "--json": report}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    usage = parser()
    options = options_of(ConvertOptions, usage.parse_args(argv))
    reports: list[dict[str, Any]] = []
    wanted = targets(options, usage)
    try:
        if options.json:
            check_writable(options.json)
        check_apart(written_by(wanted, options.json), [options.checkpoint])
        for number, (model, target) in enumerate(wanted.items(), 1):
            prefix = f"[{number}/{len(wanted)}] {model}: " if len(wanted) > 1 else f"{model}: "
            reports.append(_attempt(options, model, target, prefix))
        if options.json:
            write_report(options.json, reports)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if all(report["status"] == "converted" for report in reports) else 1


def _attempt(options: ConvertOptions, model: str, target: Path, prefix: str) -> dict[str, Any]:
    def progress(line: str) -> None:
        print(prefix + line.removeprefix(f"{model}: "), file=sys.stderr, flush=True)

    try:
        with suppress(OSError):  # convert_one reports what is wrong with the folder
            target.parent.mkdir(parents=True, exist_ok=True)
        return convert_one(options, model, target, progress)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        faults = error.faults if isinstance(error, ConversionError) else []
        return {"status": "refused", "model": model, "output": str(target), "error": str(error), "faults": faults}


if __name__ == "__main__":
    sys.exit(run_command(main))
