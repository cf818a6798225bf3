"""Write a port's folder atomically: source, weights, card, reports and test. No framework.

============================  ======================================================================================
``model.py``                  the source; it imports only paddle
``weights.pdparams``          the weights, with a manifest that records the torch tensor of each
``card.json``                 the model's description, its inputs and its verdict
``report.html``, ``.json``    the proof in evaluation mode; ``report-train`` is the proof in training mode
``test_port.py``              one test per layer where torch is installed, a golden test where it is not
============================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.matching.key_map import KeyMap
from paddle_dla import weight_files
from paddle_dla.models.cards import CARD, SOURCE, WEIGHTS, sealed
from paddle_dla.storage import folders
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import FORMAT, describe, describe_file, manifest_path
from paddle_dla.storage.shown import shown

TEST = "test_port.py"
REPORTS = tuple(f"report{mode}.{kind}" for mode in ("", "-train") for kind in ("html", "json"))
OWN = {SOURCE, WEIGHTS, manifest_path(WEIGHTS).name, CARD, TEST, *REPORTS}
MADE_ANEW = {"__pycache__", ".pytest_cache"}
"""Folders that running the port's test leaves behind."""
TEST_SOURCE = Path(__file__).with_name("test_port.txt")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise ``CheckpointError`` if a port cannot be written to ``folder``."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; --output names a folder")
    folders.check_folder(folder, parents=True)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder} is not empty; name another folder, or pass --overwrite")
    if not (folder / CARD).is_file():
        raise CheckpointError(f"{folder} is not a port (it has no {CARD}); --overwrite only replaces ports")
    foreign = sorted(shown(path.name) for path in folder.iterdir() if path.name not in OWN or path.is_dir())
    foreign = [name for name in foreign if name not in MADE_ANEW]
    if foreign:
        raise CheckpointError(
            f"{folder} holds other files ({', '.join(foreign[:5])}), which would be lost; move them away, or name "
            "another folder"
        )


def write_folder(
    folder: Path,
    source: str,
    arrays: Mapping[str, np.ndarray],
    key_map: KeyMap,
    card: Mapping[str, Any],
    reports: Mapping[str, Any],
    overwrite: bool = False,
    unsaved: frozenset[str] = frozenset(),
) -> None:
    """Write the port to ``folder`` atomically; ``unsaved`` is that of ``manifest``.

    Raises ``CheckpointError`` if the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folders.atomic_folder(folder, overwrite) as part:
        (part / SOURCE).write_text(source, encoding="utf-8")
        weight_files.save(part / WEIGHTS, arrays, manifest(arrays, key_map, card, unsaved))
        full = sealed({**card, "files": {name: describe_file(part / name) for name in (SOURCE, WEIGHTS)}})
        (part / CARD).write_text(to_json(full, indent=1) + "\n", encoding="utf-8")
        (part / TEST).write_text(TEST_SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
        for mode, report in reports.items():
            name = "report" if mode == "eval" else f"report-{mode}"
            report.to_html(part / f"{name}.html")
            report.to_json(part / f"{name}.json")


def manifest(
    arrays: Mapping[str, np.ndarray], key_map: KeyMap, card: Mapping[str, Any], unsaved: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the manifest of the weights: for each its torch tensor, the steps and a checksum.

    ``unsaved`` are torch tensors that its checkpoints do not contain, such as Swin's masks.
    """
    lines = {line.paddle: line for line in key_map if line.paddle}
    tensors = {}
    for name, array in arrays.items():
        line = lines[name]
        tensors[name] = {"from": line.torch, "steps": [str(step) for step in line.steps], **describe(array)}
        if line.torch in unsaved:
            tensors[name]["saved"] = False
    return {
        "format": FORMAT,
        "model": card["name"],
        "num_classes": card["num_classes"] or 0,
        **({"preprocessing": card["preprocessing"]} if card["preprocessing"] else {}),
        "source": card["weights"],
        "versions": card["versions"],
        "tensors": tensors,
    }
