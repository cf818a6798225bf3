"""What is known of a model: size, cost, published accuracy, and how its images must be prepared.

Usage::

    paddle-dla info                 # one line for each of the twelve
    paddle-dla info dla60
    paddle-dla info dla60.pdparams  # a converted checkpoint
    paddle-dla info exported/

Exit codes: 0 done, 1 refused, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paddle_dla.checkpoint import read, recorded_preprocessing
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.folder import read_record
from paddle_dla.models.macs import forward_macs
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.options import add_preprocessing, chosen_preprocessing
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import read_manifest
from paddle_dla.terminal import run_command

Facts = dict[str, object]

HEADLINES = ("checkpoint", "export", "formats", "source", "model", "num_classes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="info", description="What is known of a model, a checkpoint or an export.")
    parser.add_argument("subject", nargs="?", metavar="MODEL|CHECKPOINT|EXPORT", help="default: all twelve models")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_preprocessing(parser)
    args = parser.parse_args(argv)
    try:
        if args.subject is None:
            found = [model_facts(name, PRETRAINED[name].preprocessing) for name in VARIANTS]
            print(to_json(found, indent=1) if args.json else "\n".join(table(found)))
        else:
            facts = subject_facts(args)
            print(to_json(facts, indent=1) if args.json else "\n".join(page(facts)))
    except (CheckpointError, ExportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def subject_facts(args: argparse.Namespace) -> Facts:
    """What is known of the model, the checkpoint or the export that ``args.subject`` names."""
    path = Path(args.subject)
    if path.is_dir():
        record = read_record(path)
        own = {"export": str(path), "formats": list(record.formats)}
        return {**own, **model_facts(record.model, record.preprocessing, record.num_classes)}
    if path.is_file():
        return checkpoint_facts(path, args)
    name = resolve_name(args.subject)
    return model_facts(name, chosen_preprocessing(args, PRETRAINED[name].preprocessing))


def checkpoint_facts(path: Path, args: argparse.Namespace) -> Facts:
    """Of a converted checkpoint. Raises ``CheckpointError`` where it has no manifest, or is not what that says."""
    manifest = None if read_manifest(path) is None else read(path)[1]
    if manifest is None:
        raise CheckpointError(
            f"{path} has no manifest, so nothing is known of it; convert it: python convert/timm2paddle.py"
        )
    own = {"checkpoint": str(path), "source": manifest.get("source", {}), "verified": True}
    published = PRETRAINED[resolve_name(manifest["model"])].preprocessing
    preprocessing = chosen_preprocessing(args, recorded_preprocessing(manifest, path) or published)
    return {**own, **model_facts(manifest["model"], preprocessing, manifest.get("num_classes", 1000))}


def model_facts(name: str, preprocessing: Preprocessing, num_classes: int = 1000) -> Facts:
    """Size and cost as built for this input; accuracy as timm publishes it for its own weights."""
    published = PRETRAINED[name]
    return {
        "model": name,
        "num_classes": num_classes,
        "parameters": count_parameters(name, preprocessing.input_size[0], num_classes),
        "macs": forward_macs(name, preprocessing.input_size, num_classes),
        "published": {"weights": published.hub_id, "top1": published.top1, "top5": published.top5},
        "preprocessing": preprocessing.as_dict(),
    }


def count_parameters(name: str, in_chans: int, num_classes: int) -> int:
    """Numbers that training changes; statistics of normalisation are not among them."""
    from paddle_dla import create_model

    model = create_model(name, num_classes=num_classes, in_chans=in_chans)
    return sum(int(parameter.size) for parameter in model.parameters() if not parameter.stop_gradient)


def table(found: Sequence[Facts]) -> list[str]:
    """One line for each model."""
    lines = [f"{'model':<16}{'parameters':>12}{'GMACs':>8}{'input':>7}{'top-1':>9}{'top-5':>9}"]
    for facts in found:
        published, side = facts["published"], facts["preprocessing"]["input_size"][1]
        lines.append(
            f"{facts['model']:<16}{facts['parameters'] / 1e6:>10.2f} M{facts['macs'] / 1e9:>8.2f}{side:>7}"
            f"{published['top1']:>9.3f}{published['top5']:>9.3f}"
        )
    return lines


def page(facts: Facts) -> list[str]:
    """All that is known, a line for each."""
    published = facts["published"]
    shown = {
        **{key: facts[key] for key in HEADLINES if key in facts},
        "parameters": f"{facts['parameters'] / 1e6:.2f} M",
        "GMACs": f"{facts['macs'] / 1e9:.3g} (convolutions, one image)",
        "published": f"{published['weights']}: top-1 {published['top1']} %, top-5 {published['top5']} %",
        **facts["preprocessing"],
    }
    return [f"{key + ':':<15}{_text(value)}" for key, value in shown.items()]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(run_command(main))
