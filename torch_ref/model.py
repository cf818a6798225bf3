"""Build timm's models as references, and make torchvision importable beside a CPU torch.

Written for timm 1.0.31 (``constraints.txt``); ``setup.cfg`` lists the supported versions.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

OLDEST_TIMM = (1, 0, 24)
"""Oldest supported version, the same as in ``setup.cfg``."""

# the two operators that torchvision looks up when it is imported, and their schema
_TORCHVISION_OPS = ("nms", "qnms")
_NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def _declare_torchvision_ops() -> torch.library.Library | None:
    """Make ``import torchvision`` work if its compiled operators do not fit the installed torch.

    PyPI's torchvision is a CUDA build. Its library does not load beside a CPU torch, and importing torchvision (and
    therefore timm) fails with ``operator torchvision::nms does not exist``. The import only needs declared schemas;
    this project never calls the operators. If the real operators load, nothing is declared. The result must stay
    referenced; the cache keeps it.
    """
    import importlib.util
    import pathlib

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for extension in pathlib.Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
            return None
        except OSError:
            continue
    library = torch.library.Library("torchvision", "DEF")
    for op in _TORCHVISION_OPS:
        library.define(f"{op}{_NMS_SCHEMA}")
    return library


def import_timm():  # noqa: ANN201 - a module
    """Import timm, even if torchvision's operators do not load.

    Warns if timm is older than ``OLDEST_TIMM``, the oldest tested version.
    """
    _declare_torchvision_ops()
    import timm

    if tuple(int(number) for number in re.findall(r"\d+", timm.__version__)[:3]) < OLDEST_TIMM:
        oldest = ".".join(map(str, OLDEST_TIMM))
        warnings.warn(f"timm {timm.__version__} is older than {oldest}, the oldest that is tested", stacklevel=2)
    return timm


def create_model(name: str, seed: int | None = None, **kwargs: Any) -> torch.nn.Module:
    """Call ``timm.create_model(name, **kwargs)`` without pretrained weights; return the model in eval mode.

    ``seed`` makes the weights reproducible.
    """
    timm = import_timm()
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False, **kwargs).eval()


def load_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Load a state dict into ``model``, strictly, except that BatchNorm's batch counters may be absent.

    Raises ``ValueError``, which lists missing and unexpected names.
    """
    result = model.load_state_dict(tensors, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        raise ValueError(f"state dict does not fit: missing {missing}, unexpected {result.unexpected_keys}")
    return model


def state_arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the model's state dict as arrays (copies)."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


@torch.no_grad()
def randomise_batch_norm(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Set every BatchNorm's weights and statistics to random values like those of a trained network.

    Freshly initialised BatchNorm (mean 0, variance 1, weight 1, bias 0) hides swapped or dropped buffers.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            mean, variance, batches = module.running_mean, module.running_var, module.num_batches_tracked
            assert mean is not None and variance is not None and batches is not None  # all track statistics
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0.0, 0.2, generator=generator)
            mean.normal_(0.0, 0.3, generator=generator)
            variance.uniform_(0.5, 2.0, generator=generator)
            batches.fill_(1000 + seed)
    return model


@torch.no_grad()
def draw_constants(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Set all values that are constant in a fresh network to random ones: BatchNorm, scales, biases, tokens.

    A parameter whose elements are all equal (a gamma of 1, a bias or a position embedding of 0) hides a layer that is
    left out, swapped or permuted. Integer and boolean buffers keep their values.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if not isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            continue
        if module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5, generator=generator)
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.numel() == 1 or float(parameter.std()) == 0:
            # a tenth, so that values that must be positive stay positive
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.1)
    return model


@torch.no_grad()
def settle_batch_norm(model: torch.nn.Module, run: Callable[[], object]) -> None:
    """Scale the running statistics of every BatchNorm to the size of its input in ``run()``.

    Trained statistics have the size of the input. Statistics of another size multiply values, and their rounding
    errors, from layer to layer: to 1e10 in tf_efficientnetv2_m, whose output is then rounding alone.
    """
    with ExitStack() as stack:
        for norm in model.modules():
            if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
                stack.callback(norm.register_forward_pre_hook(_Settling()).remove)
        run()


class _Settling:
    """Forward pre-hook that scales a BatchNorm's statistics to its input before the first call.

    Before scaling they fit an input of mean square 1.
    """

    def __init__(self):
        self.met = False

    def __call__(self, norm: torch.nn.modules.batchnorm._BatchNorm, args: tuple[torch.Tensor, ...]) -> None:
        size = float(args[0].double().square().mean()) if args and not self.met else 0.0
        self.met = True
        if 0 < size < math.inf and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean *= size**0.5
            norm.running_var *= size
