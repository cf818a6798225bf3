"""The photographs of the demonstrations: those that scikit-image bundles (``skimage/data``, CC0 and public domain)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from paddle_dla.extras import install_command
from paddle_dla.storage.errors import CheckpointError

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")


def photographs() -> list[str]:
    """Paths of the bundled photographs; scikit-image is found, not imported, which would take a second."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise CheckpointError(f"the photographs come with scikit-image: {install_command('demo')}")
    folder = Path(spec.origin).parent / "data"
    return [str(folder / name) for name in PHOTOS]
