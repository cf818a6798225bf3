"""Show what is known of a model, a checkpoint or an export: size, cost, accuracy, preprocessing.

Usage::

    paddle-dla info                 # one line for each of the twelve, and for each port
    paddle-dla info dla60
    paddle-dla info ports/resnet18  # or package.module:function
    paddle-dla info dla60.pdparams  # a converted checkpoint
    paddle-dla info exported/

Exit codes: 0 done, 1 refused, 2 usage.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError
from paddle_dla.exporting.folder import read_record
from paddle_dla.models.cards import CARD, read_card
from paddle_dla.models.complexity import forward_macs, parameters
from paddle_dla.models.grouping import STATISTICS
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.registry import Entry, ModelError, find_model, port_folders
from paddle_dla.models.variants import VARIANTS
from paddle_dla.options import PreprocessingOptions, add_preprocessing, chosen_preprocessing, options_of
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import read_manifest
from paddle_dla.terminal import run_command
from paddle_dla.weight_files import TRAINED, read, recorded_preprocessing

Facts = dict[str, Any]

HEADLINES = (
    "checkpoint", "export", "formats", "source", "model", "place", "proved", "verdict", "num_classes", "classifier",
    "first_conv", "levels",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InfoOptions(PreprocessingOptions):
    """Options of ``info``: the subject (``None``: all models), and whether to print JSON."""

    subject: str | None = None
    json: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = CommandParser("info", __doc__)
    parser.add_argument(
        "subject",
        nargs="?",
        metavar="MODEL|PORT|CHECKPOINT|EXPORT",
        help="model, port folder, checkpoint or export (default: list all models)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_preprocessing(parser)
    options = options_of(InfoOptions, parser.parse_args(argv))
    try:
        if options.subject is None:
            found = [model_facts(name, PRETRAINED[name].preprocessing) for name in VARIANTS]
            found += [port_facts(find_model(folder)) for folder in port_folders()]
            print(to_json(found, indent=1) if options.json else "\n".join(table(found)))
        else:
            facts = subject_facts(options.subject, options)
            print(to_json(facts, indent=1) if options.json else "\n".join(page(facts)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def subject_facts(subject: str, options: InfoOptions) -> Facts:
    """Collect the facts about the model, checkpoint or export named ``subject``."""
    path = Path(subject)
    if (path / TRAINED).is_file():
        path = path / TRAINED
    if path.is_dir() and not (path / CARD).is_file():
        record = read_record(path)
        own = {"export": str(path), "formats": list(record.formats)}
        return {**own, **facts_of(record.model, record.preprocessing, record.num_classes)}
    if path.is_file():
        return checkpoint_facts(path, options)
    entry = find_model(subject)
    if entry.published is None:
        return port_facts(entry)
    return model_facts(entry.name, chosen_preprocessing(options, entry.card.preprocessing))


def checkpoint_facts(path: Path, options: InfoOptions) -> Facts:
    """Collect the facts about a converted checkpoint.

    Raises ``CheckpointError`` if it has no manifest or does not match it.
    """
    manifest = None if read_manifest(path) is None else read(path)[1]
    if manifest is None:
        raise CheckpointError(
            f"{path} has no manifest, so nothing is known of it; convert it: python convert/timm2paddle.py"
        )
    own = {"checkpoint": str(path), "source": manifest.get("source", {}), "verified": True}
    name, recorded = manifest["model"], recorded_preprocessing(manifest, path)
    if recorded is None and name not in VARIANTS:
        raise ModelError(f"{path} records no preprocessing, and {name} is not a DLA; name the folder of its port")
    preprocessing = chosen_preprocessing(options, recorded or PRETRAINED[name].preprocessing)
    return {**own, **facts_of(name, preprocessing, manifest.get("num_classes", 1000))}


def facts_of(name: str, preprocessing: Preprocessing, num_classes: int) -> Facts:
    """Collect the facts recorded in a file and, if it is a DLA, those about the model."""
    if name in VARIANTS:
        return model_facts(name, preprocessing, num_classes)
    return {"model": name, "num_classes": num_classes, "preprocessing": preprocessing.as_dict()}


def port_facts(entry: Entry) -> Facts:
    """Collect the facts about a port or a hand-written network from its card. Its source is not run."""
    card = {} if entry.folder is None else read_card(entry.folder)
    return {
        "model": entry.name,
        "place": entry.place,
        "num_classes": entry.card.num_classes,
        **({"proved": card["proved"], "verdict": card.get("verdict", {}), "source": card.get("weights", {})} if card
           else {}),
        "parameters": None if entry.folder is None else _stored_parameters(entry),
        "classifier": entry.card.classifier,
        "first_conv": entry.card.first_conv,
        "levels": [level["module"] for level in entry.card.levels],
        "preprocessing": entry.card.preprocessing.as_dict(),
    }  # fmt: skip


def _stored_parameters(entry: Entry) -> int:
    """Return the number of elements in the port's weights, without normalisation statistics and index tables."""
    manifest = read_manifest(entry.default_weights()) or {"tensors": {}}
    shapes = [record["shape"] for name, record in manifest["tensors"].items()
              if not name.endswith(STATISTICS) and record["dtype"].startswith("float")]  # fmt: skip
    return sum(math.prod(shape) for shape in shapes)


def model_facts(name: str, preprocessing: Preprocessing, num_classes: int = 1000) -> Facts:
    """Collect size and cost for this input, and the accuracy that timm publishes for its own weights."""
    published = PRETRAINED[name]
    return {
        "model": name,
        "num_classes": num_classes,
        "parameters": parameters(name, preprocessing.input_size[0], num_classes),
        "macs": forward_macs(name, preprocessing.input_size, num_classes),
        "published": {"weights": published.hub_id, "top1": published.top1, "top5": published.top5},
        "preprocessing": preprocessing.as_dict(),
    }


def table(found: Sequence[Facts]) -> list[str]:
    """Return one line for each model."""
    variants = [facts for facts in found if "published" in facts]
    lines = [f"{'model':<16}{'parameters':>12}{'GMACs':>8}{'input':>7}{'top-1':>9}{'top-5':>9}"]
    for facts in variants:
        published, side = facts["published"], facts["preprocessing"]["input_size"][1]
        lines.append(
            f"{facts['model']:<16}{facts['parameters'] / 1e6:>10.2f} M{facts['macs'] / 1e9:>8.2f}{side:>7}"
            f"{published['top1']:>9.3f}{published['top5']:>9.3f}"
        )
    for facts in found:
        if "place" in facts:
            size, side = facts["parameters"] / 1e6, facts["preprocessing"]["input_size"][1]
            proved = "proved" if facts["proved"] else "a draft that is not proved"
            lines.append(f"{facts['place']:<16}{size:>10.2f} M{'':8}{side:>7}  a port, {proved}")
    return lines


def page(facts: Facts) -> list[str]:
    """Return all facts, one per line."""
    shown = {key: facts[key] for key in HEADLINES if key in facts}
    if facts.get("parameters"):
        shown["parameters"] = f"{facts['parameters'] / 1e6:.2f} M"
    if "macs" in facts:
        shown["GMACs"] = f"{facts['macs'] / 1e9:.3g} (convolutions, one image)"
    if "published" in facts:
        published = facts["published"]
        shown["published"] = f"{published['weights']}: top-1 {published['top1']} %, top-5 {published['top5']} %"
    shown |= facts["preprocessing"]
    return [f"{key + ':':<15}{_text(value)}" for key, value in shown.items()]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item not in (None, "", [], {}))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(run_command(main))
