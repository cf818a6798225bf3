"""Remake ``docs/forward.png``: ``python docs/make_picture.py``. Needs Debian's ``chromium`` beside both frameworks.

A dla60 whose port has one BatchNorm epsilon of 1e-3, deep in the network, through ``align``.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from alignment import align
from alignment.pairs import build_pair, seeded_source
from convert.conversion import convert_source

SIZE = "1200,880"  # of the window: the verdict, the culprit and the first picture
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)


def main() -> None:
    """Run the comparison and photograph its page."""
    source = seeded_source("dla60", 0, randomise_batch_norm=True)
    pair = build_pair(source, convert_source(source, "dla60"))
    pair.paddle_model.level4.tree1.tree2.tree1.bn2._epsilon = 1e-3
    inputs = np.random.RandomState(0).standard_normal((2, 3, 64, 64))
    result = align(pair.torch_model, pair.paddle_model, inputs, backward=False)
    result.title = "dla60, its port with one BatchNorm epsilon of 1e-3"
    with tempfile.TemporaryDirectory() as folder:
        result.to_html(f"{folder}/page.html")
        target = Path(__file__).parent / "forward.png"
        options = [*FLAGS.split(), f"--user-data-dir={folder}/profile", f"--window-size={SIZE}"]
        subprocess.run(
            ["chromium", *options, f"--screenshot={target}", f"file://{folder}/page.html"],
            check=True,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main()
