"""A converted file loads in PaddleClas's own DLA classes: same names, same shapes, nothing left over."""

import importlib
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import paddle
import pytest
from each import each
from numpy_weights import images, timm_weights

from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import create_model, weight_files

NAMES = ["DLA34", "DLA46_c", "DLA46x_c", "DLA60", "DLA60x", "DLA60x_c", "DLA102", "DLA102x", "DLA102x2", "DLA169"]
PACKAGES = ("", "ppcls", "ppcls.arch", "ppcls.arch.backbone", "ppcls.arch.backbone.base",
            "ppcls.arch.backbone.model_zoo", "ppcls.utils")  # fmt: skip


@pytest.fixture
def paddleclas_dla(monkeypatch):
    """PaddleClas's module, without running its packages' ``__init__``, which import OpenCV, Faiss and every model."""
    spec = find_spec("paddleclas")
    if spec is None:
        pytest.skip("needs paddleclas: pip install --no-deps paddleclas==2.6.0")
    root = Path(spec.origin).parent
    for package in PACKAGES:
        name = f"paddleclas.{package}".rstrip(".")
        module = types.ModuleType(name)
        module.__path__ = [str(root / package.replace(".", "/"))]
        monkeypatch.setitem(sys.modules, name, module)
    # only downloads weights, and needs packages that nothing here does
    save_load = types.ModuleType("paddleclas.ppcls.utils.save_load")
    save_load.load_dygraph_pretrain = None
    monkeypatch.setitem(sys.modules, save_load.__name__, save_load)
    return importlib.import_module("paddleclas.ppcls.arch.backbone.model_zoo.dla")


@pytest.mark.parametrize("name", each(NAMES, ("DLA34", "DLA60x_c", "DLA102")))
def test_a_converted_file_loads_in_paddleclas(paddleclas_dla, name, tmp_path):
    model = name.lower()
    conversion = convert_source(source_from_arrays(timm_weights(model)), model)
    weight_files.save(tmp_path / "converted.pdparams", conversion.arrays, conversion.manifest)
    theirs = getattr(paddleclas_dla, name)()
    state = paddle.load(str(tmp_path / "converted.pdparams"))
    assert state.keys() == theirs.state_dict().keys()
    missing, unexpected = theirs.set_state_dict(state)
    assert (missing, unexpected) == ([], [])
    theirs.eval()
    ours = create_model(name, pretrained=tmp_path / "converted.pdparams")
    ours.eval()
    x = paddle.to_tensor(images(), dtype="float32")
    expected, actual = ours(x).numpy(), theirs(x).numpy()
    # float32 noise of these networks is 1e-6 relative; a misplaced tensor changes the logits by their own size
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
