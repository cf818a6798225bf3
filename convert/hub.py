"""Download timm's published files from the Hugging Face hub with ``huggingface_hub`` and its cache."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from paddle_dla.extras import install_command
from paddle_dla.models.cards import read_card
from paddle_dla.models.registry import find_model
from paddle_dla.storage.errors import CheckpointError

WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".pdparams")


def is_hub_id(source: str) -> bool:
    """Return whether ``source`` is an ``owner/name`` id rather than the path of a weight file."""
    owner, slash, name = source.removeprefix("hf-hub:").partition("/")
    is_path = Path(source).exists() or Path(source).suffix in SUFFIXES or owner in ("", ".", "..")
    return bool(slash and name) and "/" not in name and not is_path


def hub_id(model: str) -> str:
    """Return timm's hub id for a model name or a port folder. Raises ``CheckpointError`` if a port's card has none."""
    entry = find_model(model)
    if entry.folder is None:
        return entry.default_weights()
    found = read_card(entry.folder).get("hub")
    if not isinstance(found, str):
        raise CheckpointError(f"the card of {model} has no weights on the hub; pass --hub timm/NAME")
    return found


def download(source: str) -> Path:
    """Return the local path of ``model.safetensors`` of a hub repository. ``huggingface_hub`` caches the file.

    Raises ``CheckpointError`` if the file cannot be fetched; the message explains how to proceed without a network.
    """
    repository = source.removeprefix("hf-hub:")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"fetching {source} needs huggingface_hub: {install_command('hub')}, or name a local file instead"
        ) from None
    # the first base class is the error of the underlying HTTP library, which differs between versions; it is raised
    # unwrapped if a download breaks off
    transport = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        return Path(hf_hub_download(repository, WEIGHTS))
    except (HfHubHTTPError, transport, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"cannot fetch {WEIGHTS} of {repository} from the hub (there is no file of this name here): "
            f"{type(error).__name__}: {reason}\n"
            f"without a network: fetch https://huggingface.co/{repository}/resolve/main/{WEIGHTS} elsewhere and name "
            f"the file (create_model(name, pretrained='{WEIGHTS}'), or --checkpoint {WEIGHTS})"
        ) from error
