"""Exports of a small network, and images to show them; shared by the tests of exports."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES, SIZE, small_model

from paddle_dla.exporting.exporter import Wanted, export_model
from paddle_dla.exporting.folder import RECORD
from paddle_dla.preprocessing import Preprocessing

MODEL = "dla46x_c"
SPEC = Preprocessing(SIZE)
NAMES = [f"class {index}" for index in range(CLASSES)]


def wanted(*formats, **options):
    return Wanted(MODEL, SPEC, formats or ("inference",), **options)


def photograph(path, size=(50, 40), mode="RGB", seed=0):
    """A seeded image file of smooth colours, as photographs are."""
    small = np.random.RandomState(seed).randint(0, 256, (5, 4, 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


FORMATS = ("inference", "onnx") if importlib.util.find_spec("paddle2onnx") else ("inference",)
needs_onnx = pytest.mark.skipif("onnx" not in FORMATS, reason="needs paddle2onnx, onnx and onnxruntime")
BOTH = ["inference", pytest.param("onnx", marks=needs_onnx)]
ENGINE_NAMES = ["inference", pytest.param("onnxruntime", marks=needs_onnx)]
"""What can be exported, and run, where the tests run."""


def make(folder):
    """The network whose export in every format that there is now lies in ``folder``."""
    model = small_model(MODEL)
    export_model(model, folder, wanted(*FORMATS, class_names=NAMES))
    return model


def rewrite(folder, **changes):
    """Change keys of the record, as a hand might."""
    content = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**content, **changes}))
