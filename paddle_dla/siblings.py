"""Check that no other folder of the same name hides a package that is installed beside this one.

A user's repository may well have folders called ``convert`` or ``alignment``. If such a folder comes first on
``sys.path`` (a script's own folder, or the current one under ``python -m``), Python imports it instead.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from paddle_dla.storage.errors import CheckpointError

SIBLINGS = ("alignment", "convert", "torch_ref")
HERE = Path(__file__).resolve().parent.parent


def refuse_shadowed() -> None:
    """Raise ``CheckpointError`` with the name of the folder that hides a package of this project."""
    for name in SIBLINGS:
        found = folder_of(name)
        if found is not None and found != HERE / name:
            raise CheckpointError(
                f"{found} hides the package {name} of paddle-dla: Python looks there first. Run the command "
                f"paddle-dla (not python -m) from the shell, rename the folder, or take {found.parent} from sys.path"
            )


def folder_of(package: str) -> Path | None:
    """Return the folder that Python would import ``package`` from, without importing it; ``None`` if not found."""
    module = sys.modules.get(package)
    spec = module.__spec__ if module is not None else find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(os.fspath(places[0])).resolve() if places else None
