"""Map missing packages to the extras of this project that install them. Imports nothing heavy."""

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
"""Import name of a package: the extra in setup.cfg that installs it."""


def missing(*names: str) -> str:
    """Return one line that lists the missing packages among these and how to install them; empty if none is missing."""
    absent = [name for name in names if not installed(name)]
    return how_to_install(absent) if absent else ""


def installed(name: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that was put into sys.modules by hand has no spec
        return False


def how_to_install(absent: list[str]) -> str:
    """Return one line on how to install the missing packages."""
    extras = ",".join(dict.fromkeys(EXTRAS[name] for name in absent if name in EXTRAS))
    verb = "is" if len(absent) == 1 else "are"
    return f"{', '.join(absent)} {verb} not installed: {install_command(extras)}"


def install_command(extras: str) -> str:
    """Return the command that installs ``extras`` beside the installed package, wherever that came from.

    >>> install_command("hub")
    'pip install "paddle-dla[hub]"'
    """
    return f'pip install "paddle-dla[{extras}]"'
