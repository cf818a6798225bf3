"""Build and compare a timm DLA and its Paddle twin with the same weights; the only module that joins the two."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import paddle
import torch

from alignment.engine.judging.by_name import compare_tapes
from alignment.engine.judging.limits import NoiseFloor
from alignment.engine.judging.noise import run_in_both
from alignment.engine.records.store import Budget, Store
from alignment.engine.records.tape import Tape
from alignment.engine.result import Result
from alignment.engine.session import align
from alignment.engine.sides.paddle import capture as capture_paddle
from alignment.engine.sides.torch import capture as capture_torch
from alignment.engine.sides.torch.borrow import in_type
from alignment.engine.sides.torch.settings import round_epsilons
from convert.conversion import Conversion
from convert.key_map import to_timm
from convert.readers import Source, source_from_arrays
from paddle_dla import create_model
from paddle_dla.models.dla import DLA
from paddle_dla.storage.tensors import StoredTensor
from paddle_dla.weight_files import check_fit
from torch_ref import model as reference
from torch_ref.data import eval_batch

Progress = Callable[[str], None]
Precision = Literal["float32", "float64"]
"""The dtypes that a model can compute in."""


@dataclass(frozen=True)
class Pair:
    """The reference and its Paddle twin, with the same weights, both in float32 and in evaluation mode."""

    name: str
    torch_model: torch.nn.Module
    paddle_model: DLA


def seeded_source(
    name: str, seed: int, num_classes: int = 1000, in_chans: int = 3, randomise_batch_norm: bool = False
) -> Source:
    """Return the weights of a timm model that torch initialised with ``seed``.

    ``randomise_batch_norm`` also gives BatchNorm weights and statistics like those of a trained network. Initial ones
    are all 0 or 1 and would hide a swap.
    """
    model = reference.create_model(name, seed=seed, num_classes=num_classes, in_chans=in_chans)
    if randomise_batch_norm:
        reference.randomise_batch_norm(model, seed)
    origin = f"timm.create_model({name!r}) under torch.manual_seed({seed})"
    if randomise_batch_norm:
        origin += ", BatchNorm weights and statistics randomised"
    return source_from_arrays(reference.state_arrays(model), origin=origin)


def build_pair(source: Source, conversion: Conversion, paddle_arrays: Mapping[str, np.ndarray] | None = None) -> Pair:
    """Build both models with the weights of one conversion, loaded strictly.

    timm's model loads the tensors of ``source`` unchanged, so that errors of the conversion show; only a stem or head
    that was adapted comes from the conversion. Paddle's model loads the converted tensors, or ``paddle_arrays`` as read
    from a file. Raises ``CheckpointError`` where names or shapes do not fit.
    """
    sizes = dict(num_classes=conversion.num_classes, in_chans=conversion.in_chans)
    torch_model = reference.create_model(conversion.model, **sizes)
    reference.load_tensors(torch_model, _reference_tensors(source, conversion))
    arrays = dict(conversion.arrays if paddle_arrays is None else paddle_arrays)
    paddle_model = create_model(conversion.model, **sizes)
    check_fit(arrays, {k: tuple(v.shape) for k, v in paddle_model.state_dict().items()}, "the converted file")
    paddle_model.set_state_dict(arrays)
    paddle_model.eval()
    return Pair(conversion.model, torch_model, paddle_model)


def _reference_tensors(source: Source, conversion: Conversion) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, entry in conversion.manifest["tensors"].items():
        if "made" in entry:
            tensors[to_timm(name)] = torch.from_numpy(conversion.arrays[name].copy())
        else:
            tensors[entry["from"]] = torch_tensor(source.tensors[entry["from"]])
    return tensors


def torch_tensor(stored: StoredTensor) -> torch.Tensor:
    """Convert a stored tensor to torch, with the same dtype."""
    tensor = torch.from_numpy(stored.raw.copy())
    return tensor.view(torch.bfloat16) if stored.dtype == "bfloat16" else tensor


def align_forward(
    source: Source,
    conversion: Conversion,
    inputs: np.ndarray | Sequence[str],
    dtype: Precision = "float64",
    paddle_arrays: Mapping[str, np.ndarray] | None = None,
    progress: Progress = lambda line: None,
) -> Result:
    """Run both models with the weights of one conversion and compare every layer's output.

    ``inputs`` is an array (B, C, H, W), or paths of images, which timm's evaluation transform prepares.
    ``paddle_arrays`` as in ``build_pair``. Raises ``CheckpointError`` where weights do not fit and ``OSError`` for a
    file that is not an image.
    """
    pair = build_pair(source, conversion, paddle_arrays)
    if not isinstance(inputs, np.ndarray):
        progress(f"{pair.name}: {len(inputs)} images through timm's transform")
        inputs = eval_batch(pair.torch_model, inputs)
    result = compare_forward(pair, inputs, dtype, progress)
    result.facts = {"weights": source.describe(), **result.facts}
    return result


def align_backward(
    source: Source,
    conversion: Conversion,
    inputs: np.ndarray | Sequence[str],
    mode: str = "eval",
    seed: int = 0,
    paddle_arrays: Mapping[str, np.ndarray] | None = None,
    progress: Progress = lambda line: None,
) -> Result:
    """Run ``align`` on both models with the weights of one conversion: gradients too, and every layer alone.

    Arguments as in ``align_forward``.
    """
    pair = build_pair(source, conversion, paddle_arrays)
    if not isinstance(inputs, np.ndarray):
        inputs = eval_batch(pair.torch_model, inputs)
    result = align(
        pair.torch_model,
        pair.paddle_model,
        inputs,
        mode=mode,
        seed=seed,
        progress=lambda line: progress(f"{pair.name}: {line}"),
    )
    result.title = f"{pair.name}: forward and backward in {mode} mode, timm against Paddle"
    shape = "x".join(map(str, inputs.shape))
    result.facts = {"weights": source.describe(), "input": shape, **result.facts, "versions": versions()}
    return result


def compare_forward(pair: Pair, inputs: np.ndarray, dtype: Precision, progress: Progress) -> Result:
    """Compare every layer's output on ``inputs`` (B, C, H, W): the port in ``dtype`` with the reference in float64.

    The floor is the reference's own float32 error. The port changes its dtype and should not be used afterwards.
    """

    def run(dtype: str, store: Store, nudge: int = 0) -> Tape:
        progress(f"{pair.name}: timm in {dtype}" + (", for the noise floor" if dtype == "float32" else ""))
        with in_type(pair.torch_model, dtype, nudge):
            return capture_torch.capture(pair.torch_model, inputs, store)

    epsilons = ", ".join(map(repr, sorted(set(round_epsilons(pair.torch_model).values()))))
    exact, noise = run_in_both(run, Budget())
    progress(f"{pair.name}: Paddle in {dtype}")
    pair.paddle_model.to(dtype=dtype)
    port = capture_paddle.capture(pair.paddle_model, inputs)
    floor = NoiseFloor(dtype, noise)
    result = compare_tapes(f"{pair.name}: forward, timm against Paddle", exact, port, floor)
    result.facts.update(
        compared=f"Paddle {dtype} against timm float64; the floor is timm's own float32 error"
        + (" x 2**-29" if dtype == "float64" else ""),
        epsilon=f"BatchNorm's, in timm: {epsilons}, as Paddle keeps it (float32)",
        input="x".join(map(str, inputs.shape)),
        versions=versions(),
    )
    return result


def versions() -> str:
    """Return the versions of everything that ran, in one line."""
    found = {
        "Paddle": paddle.__version__,
        "torch": torch.__version__,
        "timm": reference.import_timm().__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
    }
    return ", ".join(f"{name} {value}" for name, value in found.items())
