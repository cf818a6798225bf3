"""Capture the complete state of a run from its objects, and restore it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from paddle_dla.config import Config, to_yaml
from paddle_dla.errors import WrongValue
from paddle_dla.models.expected_tensors import set_state, shapes_of, tables_of, tied_in
from paddle_dla.models.registry import model_name
from paddle_dla.ranks import Ranks, gather
from paddle_dla.storage.manifest import FORMAT as MANIFEST_FORMAT
from paddle_dla.storage.values import refuse_non_finite
from paddle_dla.training.agreement import from_first
from paddle_dla.training.checkpoints import Snapshot
from paddle_dla.training.errors import NonFiniteError, ResumeError
from paddle_dla.training.plan import Plan, Position, step_seed
from paddle_dla.training.step import Learner
from paddle_dla.weight_files import check_fit


@dataclass(frozen=True)
class Best:
    """The best validation so far: ``score`` by ``train.eval_metric``, larger is better; after ``epoch`` epochs."""

    score: float
    epoch: int


@dataclass(frozen=True)
class Circumstances:
    """The settings of a run, which do not change while it learns; all of them are stored in every checkpoint."""

    config: Config
    plan: Plan
    num_classes: int
    classes: tuple[str, ...] | None
    device: str
    threads: int


def capture(
    learner: Learner,
    around: Circumstances,
    position: Position,
    best: Best | None,
    scores: Mapping[str, float] | None = None,
    score: float | None = None,
) -> Snapshot:
    """Return the state at ``position``. ``scores`` and ``score`` are those of the validation there, if any.

    Raises ``NonFiniteError`` if a weight or an average is NaN or infinite: a run cannot resume from it.
    """
    model = _arrays(learner.network.state_dict())
    ema = None if learner.ema is None else _arrays(learner.ema.state_dict())
    _refuse_non_finite(model, "weight")
    _refuse_non_finite(ema or {}, "average of")
    record = {
        "position": asdict(position),
        "updates": around.plan.updates(position),
        "plan": asdict(around.plan),
        "score": score,
        "scores": None if scores is None else dict(scores),
        "best": None if best is None else asdict(best),
        "scaler": None if learner.scaler is None else _plain(learner.scaler.state_dict()),
        "rng": random_state(around.config.train.seed, around.plan.ranks, position),
        "config": to_yaml(around.config),
        "num_classes": around.num_classes,
        "environment": {"device": around.device, "threads": around.threads, "paddle": paddle.__version__},
    }
    return Snapshot(model, ema, _arrays(learner.optimizer.state_dict()), record, _facts(around, position))


def random_state(seed: int, ranks: int, position: Position) -> dict[str, Any]:
    """Return the random state of every rank: its seed at ``position``, and the values that the seeds derive from."""
    return {"seed": seed, "next": [step_seed(seed, rank, position) for rank in range(ranks)]}


def _facts(around: Circumstances, position: Position) -> dict[str, Any]:
    """Return the facts for the manifests of the weights, so that other commands need only the file."""
    config = around.config
    facts = {
        "format": MANIFEST_FORMAT,
        "model": model_name(config.model.name),
        "num_classes": around.num_classes,
        "in_chans": config.model.in_chans,
        "global_pool": config.model.global_pool,
        "source": {"training": config.train.output, "epoch": position.epoch, "updates": around.plan.updates(position)},
        "versions": {"paddle": paddle.__version__, "numpy": np.__version__},
        "preprocessing": config.preprocessing().as_dict(),
    }
    return facts if around.classes is None else {**facts, "classes": list(around.classes)}


def restore(learner: Learner, snapshot: Snapshot, source: str) -> None:
    """Restore ``snapshot`` into the objects of ``learner``. A missing average starts with the weights.

    Raises ``CheckpointError`` or ``ResumeError`` if it belongs to another model or optimizer.
    """
    check_fit(snapshot.model, shapes_of(learner.network), source, tables_of(learner.network), tied_in(learner.network))
    refuse_non_finite(snapshot.ema or {}, f"the average in {source}")
    refuse_non_finite(snapshot.optimizer, f"the optimizer's state in {source}")
    try:
        learner.optimizer.set_state_dict(snapshot.optimizer)
        if learner.ema is not None and snapshot.ema is not None:
            learner.ema.set_state_dict(snapshot.ema)
    except WrongValue as error:
        raise ResumeError(f"{source}: {error}") from error
    set_state(learner.network, snapshot.model)
    if learner.ema is not None and snapshot.ema is None:
        learner.ema.set(learner.network)
    if learner.scaler is not None and snapshot.record["scaler"] is not None:
        state = _of_arrays(snapshot.record["scaler"])
        learner.scaler.load_state_dict(state)  # pyright: ignore[reportArgumentType] - its type has no public name


def share(learner: Learner, ranks: Ranks) -> None:
    """Send what the first rank restored to all ranks: only its machine needs the files."""
    if ranks.count == 1:
        return
    tensors = [*learner.network.state_dict().values(), *learner.optimizer.state_tensors().values()]
    from_first(tensors + ([] if learner.ema is None else [*learner.ema.state_dict().values()]), ranks)
    learner.optimizer.counts = gather(learner.optimizer.counts, ranks)[0]
    if learner.scaler is not None:
        learner.scaler.load_state_dict(gather(learner.scaler.state_dict(), ranks)[0])


def score_of(scores: Mapping[str, float], metric: str) -> float | None:
    """Return ``metric`` of ``scores``, with larger values better, or ``None`` if it is not a number.

    If there is a moving average, its score is used: as in timm, the average is the result of the training.
    """
    value = scores.get(f"ema_{metric}", scores[metric])
    if not math.isfinite(value):
        return None
    return -value if metric == "loss" else value


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _refuse_non_finite(arrays: Mapping[str, np.ndarray], what: str) -> None:
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise NonFiniteError(f"the {what} {bad[0]} is not finite: no checkpoint is written; the one before it stands")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _of_arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value, np.float32) if isinstance(value, list) else value for name, value in values.items()}
