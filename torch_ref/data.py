"""Read and transform images with timm's own readers and transforms. Never imports Paddle."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from torch_ref.model import import_timm

Stages = Callable[[bytes], dict[str, np.ndarray]]


def eval_batch(model: torch.nn.Module, paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """Apply the evaluation transform of ``model`` to the images at ``paths``: (B, C, H, W) float32, normalised.

    Raises ``OSError`` (``PIL.UnidentifiedImageError`` is one) for a file that is not an image.
    """
    import_timm()
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    transform = _whole(create_transform(**resolve_data_config({}, model=model)))
    batch = []
    for path in paths:
        with Image.open(path) as image:
            batch.append(transform(image.convert("RGB")).numpy())
    return np.stack(batch)


def eval_config(model: str) -> dict[str, Any]:
    """Return timm's evaluation config (``resolve_data_config``) for a model name, without building the model.

    Raises ``ValueError`` if timm has no model of this name.
    """
    import_timm()
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(model)
    if config is None:
        raise ValueError(f"timm has no model {model!r}")
    return resolve_data_config({}, pretrained_cfg=config.to_dict())


def eval_stages(config: Mapping[str, Any]) -> Stages:
    """Return a function that applies timm's evaluation transform to the bytes of a file, stage by stage.

    It returns ``decode`` and ``crop``, (H, W, C) uint8, and ``normalise``, (C, H, W) float32. It raises ``OSError``
    (``PIL.UnidentifiedImageError`` is one) if the bytes are not an image. For ``config`` see ``eval_config``.
    """
    import_timm()
    from timm.data import create_transform

    # with use_prefetcher the transform does not normalise: timm's loader does
    cropped = _whole(create_transform(**config, use_prefetcher=True))
    normalised = _whole(create_transform(**config))
    channels = config["input_size"][0]

    def stages(data: bytes) -> dict[str, np.ndarray]:
        image = _opened(data, channels)
        decoded = np.asarray(image).reshape(image.height, image.width, channels)
        return {
            "decode": decoded,
            "crop": np.asarray(cropped(image)).transpose(1, 2, 0),
            "normalise": normalised(image).numpy(),
        }

    return stages


def train_crop(config: Mapping[str, Any], **recipe: Any) -> Callable[[bytes], np.ndarray]:
    """Return timm's training transform (``transforms_imagenet_train`` with ``recipe``), without the loader's part.

    The returned function takes the bytes of a file and returns (H, W, C) uint8. See ``draws.py`` for its random
    numbers.
    """
    import_timm()
    from timm.data.transforms_factory import transforms_imagenet_train

    channels, *size = config["input_size"]
    made = transforms_imagenet_train(tuple(size), mean=config["mean"], use_prefetcher=True, **recipe)
    transform = _whole(made)
    return lambda data: transform(_opened(data, channels)).numpy().transpose(1, 2, 0)


def erase(images: np.ndarray, **options: Any) -> np.ndarray:
    """Apply timm's ``RandomErasing(**options)`` to a copy of ``images``, (B, C, H, W) float32, normalised."""
    import_timm()
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(**options, device="cpu")(torch.from_numpy(images.copy())).numpy()


def mix(images: np.ndarray, labels: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Apply timm's ``Mixup(**options)`` to (B, C, H, W) float32 images and (B,) labels; B must be even.

    Returns the mixed images and (B, K) targets.
    """
    import_timm()
    from timm.data.mixup import Mixup

    mixed, targets = Mixup(**options)(torch.from_numpy(images.copy()), torch.from_numpy(labels))
    return mixed.numpy(), targets.numpy()


def folder_samples(root: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """List timm's samples of a tree of class folders, in timm's order: paths relative to ``root``, and labels.

    Raises ``RuntimeError`` if there are none.
    """
    import_timm()
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    reader = ReaderImageFolder(os.fspath(root))
    return [(os.path.relpath(path, root), label) for path, label in reader.samples]


def _whole(made: Any) -> Callable[[Any], Any]:
    """Return a transform made by timm; it has one part, since ``separate`` is never passed."""
    return made


def _opened(data: bytes, channels: int) -> Any:
    """Open an image as ``timm.data.ImageDataset`` does."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB" if channels == 3 else "L")
