"""Small made images and the trees, lists and tars that tests read them from."""

from __future__ import annotations

import io
import tarfile

import numpy as np
from PIL import Image


def png(value, size=(8, 8)):
    """A PNG of one colour, (value, value + 1, value + 2) in RGB, modulo 256."""
    data = io.BytesIO()
    Image.new("RGB", size, tuple((value + i) % 256 for i in range(3))).save(data, "PNG")
    return data.getvalue()


def photo(seed, size=(40, 30), kind="JPEG"):
    """A noisy image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def write_tree(root, counts, make=png, extension="png"):
    """``counts``: folder -> number of images; image k of the whole tree is ``make(k)``. Returns ``root``."""
    k = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i}.{extension}").write_bytes(make(k))
            k += 1
    return root


def write_tar(path, members):
    """``members``: (name, bytes) pairs."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
