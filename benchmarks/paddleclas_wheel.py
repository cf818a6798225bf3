"""PaddleClas 2.6's backbones from its wheel, without the packages that their imports need (OpenCV, Faiss, ...)."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from importlib.util import find_spec
from pathlib import Path

FOLDERS = ("model_zoo", "legendary_models")
_BACKBONE = "paddleclas.ppcls.arch.backbone"
_PACKAGES = ("paddleclas", "paddleclas.ppcls", "paddleclas.ppcls.arch", _BACKBONE, f"{_BACKBONE}.base",
             *(f"{_BACKBONE}.{folder}" for folder in FOLDERS), "paddleclas.ppcls.utils")  # fmt: skip


def backbone(name: str) -> types.ModuleType:
    """The module of one architecture, such as ``dla`` or ``swin_transformer``.

    Each package above it is declared empty, so that its ``__init__`` does not run. Raises ``SystemExit`` where the
    wheel is not installed and ``ImportError`` for an unknown name.
    """
    if _PACKAGES[-1] not in sys.modules:
        _declare_packages()
    for folder in FOLDERS:
        if find_spec(f"{_BACKBONE}.{folder}.{name}"):
            return importlib.import_module(f"{_BACKBONE}.{folder}.{name}")
    raise ImportError(f"PaddleClas has no backbone {name!r}")


def _declare_packages() -> None:
    spec = find_spec("paddleclas")
    if spec is None:
        raise SystemExit("needs paddleclas: pip install --no-deps paddleclas==2.6.0")
    root = Path(spec.origin).parent.parent
    for package in _PACKAGES:
        module = types.ModuleType(package)
        module.__path__ = [str(root / package.replace(".", "/"))]
        sys.modules[package] = module
    utils = sys.modules["paddleclas.ppcls.utils"]
    utils.logger = logging.getLogger("paddleclas")
    # only downloads weights, and needs packages that nothing here does
    save_load = types.ModuleType("paddleclas.ppcls.utils.save_load")
    save_load.load_dygraph_pretrain = None
    sys.modules[save_load.__name__] = save_load
