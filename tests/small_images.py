"""Images for tests of transforms: real ones shrunk small, and sizes that are hard."""

import numpy as np
from PIL import Image

SAMPLES = ("n01440764_tench", "n01806143_peacock", "n02002724_black_stork")
SIZES = {"wide": (90, 7), "tall": (5, 61), "odd": (33, 47), "tiny": (3, 2), "pixel": (1, 1)}


def made_images() -> dict[str, Image.Image]:
    """RGB images of all sizes in ``SIZES`` (width, height): gradients with noise, so that every value occurs."""
    rng = np.random.default_rng(0)
    made = {}
    for name, (width, height) in SIZES.items():
        ramp = np.linspace(0, 255, width * height).reshape(height, width, 1)
        made[name] = Image.fromarray((0.7 * ramp + 76 * rng.random((height, width, 3))).astype(np.uint8))
    return made


def real_images(folder) -> dict[str, Image.Image]:
    """Three photographs of the folder, at most 72 pixels wide and high."""
    images = {}
    for name in SAMPLES:
        image = Image.open(folder / f"{name}.JPEG").convert("RGB")
        image.thumbnail((72, 72))
        images[name] = image
    return images


def all_images(shared) -> dict[str, Image.Image]:
    """RGB: photographs, a photograph in grey (three equal channels), and the made ones."""
    images = real_images(shared / "imagenet_samples")
    grey = images[SAMPLES[0]].convert("L").convert("RGB")
    return {**images, "grey": grey, **made_images()}


def in_grey(images: dict[str, Image.Image]) -> dict[str, Image.Image]:
    """The same with one channel."""
    return {name: image.convert("L") for name, image in images.items()}
