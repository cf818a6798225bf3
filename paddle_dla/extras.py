"""Which extra of this project brings a package that is missing. Imports nothing heavy."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "paddle": "cpu",
    **dict.fromkeys(("torch", "torchvision", "timm", "threadpoolctl", "ruff"), "torch"),
    "huggingface_hub": "hub",
    **dict.fromkeys(("PIL", "simplejpeg", "tqdm"), "data"),
    "matplotlib": "plots",
    "visualdl": "visualdl",
    **dict.fromkeys(("onnx", "onnxruntime", "paddle2onnx", "ml_dtypes"), "onnx"),
    "openvino": "openvino",
    "pyarrow": "parquet",
    "yaml": "train",
    "skimage": "demo",
    "argcomplete": "completion",
}
"""A package, as it is imported: the extra in setup.cfg."""


def missing(*names: str) -> str:
    """One line that says which of these packages are not installed, and how to install them; empty where all are."""
    absent = [name for name in names if not installed(name)]
    return how_to_install(absent) if absent else ""


def installed(name: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that was put into sys.modules by hand has no spec
        return False


def how_to_install(absent: list[str]) -> str:
    """One line for packages that are not installed."""
    extras = ",".join(dict.fromkeys(EXTRAS[name] for name in absent if name in EXTRAS))
    verb = "is" if len(absent) == 1 else "are"
    return f'{", ".join(absent)} {verb} not installed: pip install -e ".[{extras}]"'
