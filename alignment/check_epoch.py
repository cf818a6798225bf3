"""Does the port learn what its reference learns? Whole epochs in torch and in Paddle, the same data in the same order.

Usage::

    python scripts/make_fashion_mnist.py out/fashion
    python alignment/check_epoch.py --config configs/dla46_c.yaml --output out/epoch \\
        -o base=recipes/fashion_mnist.yaml train.epochs=1 data.train=out/fashion/train data.val=out/fashion/val

    python alignment/check_epoch.py --config recipe.yaml --output out/port -o model.name=ports/resnet18

For each seed both networks start from the reference's initialisation under that seed, or from the torch checkpoint in
``model.pretrained``; ``true`` takes a port's own weights. ``paddle-dla train`` trains Paddle's network. timm's own
optimizer, schedule and loss train torch's, on the batches of the same loader. In float32 even two correct trainings
separate, because rounding grows with each update. The verdict is therefore about the final accuracy: the 90 % interval
of the mean difference, seed by seed, must lie within ``--margin`` (two one-sided t tests). ``curves.png`` shows how far
apart the two are at each update, and how far torch is from itself when the images of each batch are in another order.

ALIGNED: the interval lies within the margin. NOT ALIGNED: it lies outside. UNDECIDED: it crosses the margin's edge;
take more seeds. A training in which torch itself learns no more than a guess is refused: equality would prove nothing.

A finished seed is not trained again: after an interruption, run the same command again.

Exit codes: 0 aligned, 1 not aligned or undecided, or something could not be read, 2 usage.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from alignment.command import Progress, announcer
from alignment.engine.result import ALIGNED
from alignment.epoch_runs import Run, Seed, Validation, judged, refuse_meaningless, sentence, table
from alignment.equivalence import FEWEST, Equivalence
from paddle_dla.command_parser import CommandParser
from paddle_dla.config import Config, load_config
from paddle_dla.cpu import usable_threads
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.models.registry import Entry, find_model
from paddle_dla.options import add_config, finite, options_of, positive
from paddle_dla.ranks import Ranks
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.json_record import check_record, parse_json
from paddle_dla.storage.regular import read_text
from paddle_dla.terminal import run_command
from paddle_dla.training.errors import TrainingError
from paddle_dla.training.records import read_records

if TYPE_CHECKING:
    import torch

    from convert.readers import Source
    from paddle_dla.training.datasets import Datasets
    from torch_ref.epochs import Options

TIMM_NAMES = {"nesterov": "sgd", "momentum": "momentum", "adamw": "adamw", "lamb": "lamb"}


@dataclass(frozen=True, kw_only=True)
class EpochOptions:
    """The options: the recipe, the seeds, the folder of the runs, and the equivalence margin.

    ``margin``: points of top-1; half of the spread of torch's own seeds in an epoch of Fashion-MNIST. ``threads``: of
    each of the two networks that train at a time; 0: half of the available ones.
    """

    config: str
    output: Path
    override: tuple[str, ...] = ()
    seeds: tuple[int, ...] = tuple(range(6))
    margin: float = 1.0
    threads: int = 0


def train_both(config: Config, command: Sequence[str], output: Path, control: bool, say: Progress) -> Seed:
    """Train in both frameworks side by side, from ``config.train.seed``. Raises ``UserError``.

    ``command``: the arguments of ``paddle-dla train`` that ``config`` was read from. ``output``: a new folder.
    ``control``: train timm's network a second time, with each batch in reverse order.
    """
    output.mkdir(parents=True, exist_ok=True)
    start = output / "start.pdparams"
    model = first_weights(config, start)
    twin = copy.deepcopy(model) if control else None
    run, log = output / "run", output / "paddle.txt"
    words = [sys.executable, "-m", "paddle_dla.train", *command, f"model.pretrained={start}"]
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen([*words, "--output", str(run)], stdout=stream, stderr=subprocess.STDOUT)
        try:
            found, validation = train_torch(config, model, say)
            again = train_torch(config, twin, say, reverse=True)[0] if twin is not None else None
            say("waiting for Paddle")
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
    if process.returncode:
        raise TrainingError(f"training in Paddle failed with exit code {process.returncode}: see {log}")
    return Seed(config.train.seed, found, read_run(run / "rank0.jsonl"), validation, again)


def first_weights(config: Config, path: Path) -> torch.nn.Module:
    """Return the reference with the initial weights of both networks, and write them, converted, to ``path``."""
    from alignment.models import both
    from convert.conversion import convert_source
    from convert.port_weights import convert_for_port
    from paddle_dla import weight_files

    model, seed = config.model, config.train.seed
    entry, sizes = find_model(model.name), (model.num_classes, model.in_chans)
    source = first_source(config, entry)
    if entry.folder is None:
        conversion = convert_source(source, entry.name, *sizes, head_seed=seed)
    else:
        conversion = convert_for_port(source, entry, *sizes, head_seed=seed)
    module, _ = both(entry, source, conversion)
    weight_files.save(path, conversion.arrays, conversion.manifest)
    return module


def first_source(config: Config, entry: Entry) -> Source:
    """Return the torch weights in ``model.pretrained``, or the reference's own initialisation."""
    from alignment.pairs import seeded_source
    from alignment.ported import fresh_source, own_source
    from convert.readers import read_source

    model, seed = config.model, config.train.seed
    if isinstance(model.pretrained, str):
        return read_source(model.pretrained)
    assert model.num_classes is not None  # checked by refuse_unknown
    if entry.folder is None:
        return seeded_source(entry.name, seed, model.num_classes, model.in_chans)
    return own_source(entry) if model.pretrained else fresh_source(entry, seed, model.num_classes, model.in_chans)


def train_torch(config: Config, model: torch.nn.Module, say: Progress, reverse: bool = False) -> tuple[Run, Validation]:
    """Train ``model`` in torch, in place; ``reverse`` reverses the order of the images within each batch."""
    import torch

    from paddle_dla.evaluation import evaluate
    from paddle_dla.metrics import top_k
    from paddle_dla.training.datasets import open_datasets, train_loader, val_loader
    from torch_ref.epochs import TorchEngine, train_epochs

    assert config.train.threads is not None  # set by --threads
    torch.set_num_threads(config.train.threads)
    datasets, losses = open_datasets(config), []
    updates = train_loader(config, datasets, Ranks()).num_batches
    who = "torch, batches reversed" if reverse else "torch"
    for loss in train_epochs(model, epochs(config, datasets, reverse), timm_options(config), updates):
        losses.append(loss)
        if len(losses) % config.train.log_interval == 0:
            say(f"{who}, step {len(losses)} of {updates * config.train.epochs}, loss {loss:.4f}")
    found = evaluate(TorchEngine(model), val_loader(config, datasets, Ranks()), datasets.num_classes)
    return Run(losses, top_k(found, 1)), Validation.of(found.labels)


def epochs(
    config: Config, datasets: Datasets, reverse: bool = False
) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Yield the batches of ``paddle-dla train``, epoch by epoch."""
    from paddle_dla.training.datasets import train_loader

    for epoch in range(config.train.epochs):
        batches = ((batch.images, batch.labels) for batch in train_loader(config, datasets, Ranks(), epoch))
        yield ((images[::-1].copy(), labels[::-1].copy()) for images, labels in batches) if reverse else batches


def timm_options(config: Config) -> Options:
    """Convert the recipe to timm's options. Raises ``UserError`` that names the unsupported ones."""
    from torch_ref.epochs import Options

    refuse_unknown(config)
    optimizer, schedule = config.optimizer, config.schedule
    return Options(
        opt=TIMM_NAMES[optimizer.name],
        lr=optimizer.learning_rate(config.data.batch_size),
        weight_decay=optimizer.weight_decay,
        momentum=0.9 if optimizer.momentum is None else optimizer.momentum,
        sched=schedule.name,
        epochs=config.train.epochs,
        warmup_epochs=schedule.warmup_epochs,
        warmup_lr=schedule.warmup_lr,
        min_lr=schedule.min_lr,
        sched_on_updates=not schedule.per_epoch,
        smoothing=config.loss.smoothing,
        clip_grad=optimizer.clip_grad,
        layer_decay=optimizer.layer_decay,
        filter_bias_and_bn=optimizer.filter_bias_and_bn,
        adaptive={name: value for name in ("betas", "eps") if (value := getattr(optimizer, name)) is not None},
        freeze=config.train.freeze,
    )


def refuse_unknown(config: Config) -> None:
    """Raise ``UserError`` that names the parts of the recipe that only Paddle supports."""
    plain = Config()
    options = {
        "optimizer.name": config.optimizer.name in TIMM_NAMES,
        "optimizer.clip_mode": config.optimizer.clip_mode == plain.optimizer.clip_mode,
        "schedule.name": config.schedule.name == "cosine",
        "schedule.warmup_prefix": not config.schedule.warmup_prefix,
        "schedule.cooldown_epochs": not config.schedule.cooldown_epochs,
        "loss.name": config.loss.name == plain.loss.name,
        "loss.distillation.teacher": config.loss.distillation.teacher is None,
        "model.pretrained": config.model.pretrained is not True or find_model(config.model.name).folder is not None,
        "model.drop_rate": not config.model.drop_rate,
        "model.drop_path_rate": config.model.drop_path_rate is None,
        "model.global_pool": config.model.global_pool == plain.model.global_pool,
        "model.num_classes": config.model.num_classes is not None,
        "train.grad_accum_steps": config.train.grad_accum_steps == 1,
        "train.linear_probe": not config.train.linear_probe,
        "evaluate.tta": config.evaluate.tta == plain.evaluate.tta,
    }
    unknown = [name for name, known in options.items() if not known]
    if unknown:
        raise WrongValue(f"the torch side does not support these settings of the recipe: {', '.join(unknown)}")


def read_run(records: Path) -> Run:
    """Read the records of ``paddle-dla train``."""
    found = list(read_records(records))
    losses = [record["loss"] for record in found if record["kind"] == "train"]
    return Run(losses, [record["top1"] for record in found if record["kind"] == "validation"][-1])


class _KeptRun(TypedDict):
    losses: list[float]
    top1: float


class _KeptValidation(TypedDict):
    images: int
    chance: float


class _Again(TypedDict, total=False):
    again: _KeptRun | None


class _KeptRuns(_Again):
    torch: _KeptRun
    paddle: _KeptRun


class _Kept(TypedDict):
    recipe: str
    seed: int
    validation: _KeptValidation
    runs: _KeptRuns


def read_seed(path: Path, recipe: str) -> Seed | None:
    """Read a seed that was trained before with the same ``recipe``. Raises ``UserError`` for another recipe."""
    if not path.exists():
        return None
    try:
        content = parse_json(read_text(path))
        check_record(content, _Kept)
    except (OSError, ValueError) as error:
        raise WrongValue(f"{path} holds no runs: {error}; remove it to train again") from error
    if content["recipe"] != recipe:
        raise WrongValue(f"{path} is of another recipe: {content['recipe']}; name another --output")
    runs = {name: Run(run["losses"], run["top1"]) for name, run in content["runs"].items() if run is not None}
    validation = Validation(**content["validation"])
    return Seed(content["seed"], runs["torch"], runs["paddle"], validation, runs.get("again"))


def write_seed(path: Path, recipe: str, seed: Seed) -> None:
    """Write a seed for ``read_seed``."""
    runs = {name: asdict(run) for name, run in vars(seed).items() if isinstance(run, Run)}
    kept = {"recipe": recipe, "seed": seed.seed, "validation": asdict(seed.validation), "runs": runs}
    with atomic_path(path) as part:
        part.write_text(json.dumps(kept), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = CommandParser("check-epoch", __doc__)
    add_config(result, required=True, what="recipe, as for paddle-dla train")
    result.add_argument(
        "--seeds", type=int, nargs="+", default=EpochOptions.seeds, help="random seeds (default: 0 to 5)"
    )
    result.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="output folder for weights, logs and the plot"
    )
    result.add_argument(
        "--margin", type=finite, default=EpochOptions.margin, metavar="POINTS",
        help=f"equivalence margin in points of top-1 (default: {EpochOptions.margin:g})",
    )  # fmt: skip
    result.add_argument(
        "--threads", type=positive, default=0, help="threads of each side (default: half of the usable cores)"
    )
    return result


def run(options: EpochOptions, tell: Callable[[str], None] = lambda line: None) -> Equivalence:
    """Train, judge, write the results and report them. Raises ``UserError``."""
    threads = options.threads or max(1, usable_threads() // 2)
    overrides = [*options.override, f"train.threads={threads}", "train.device=cpu"]
    recipe = shlex.join(["--config", options.config, "-o", *overrides])
    refuse_unknown(load_config(options.config, overrides))
    if len(set(options.seeds)) < FEWEST:
        raise WrongValue(f"--seeds: an interval needs {FEWEST} or more")
    if not options.margin:
        raise WrongValue("--margin must be above 0")
    from alignment.epoch_picture import draw

    seeds: list[Seed] = []
    for number, seed in enumerate(options.seeds, 1):
        say, folder = announcer(f"[{number}/{len(options.seeds)}] seed {seed}: "), options.output / f"seed{seed}"
        known = read_seed(folder / "losses.json", recipe)
        if known is None:
            mine = [*overrides, f"train.seed={seed}"]
            config = load_config(options.config, mine)
            known = train_both(config, ["--config", options.config, "-o", *mine], folder, number == 1, say)
            write_seed(folder / "losses.json", recipe, known)
        seeds.append(known)
        refuse_meaningless(seeds, options.margin)
        draw(seeds, options.output / "curves.png")
    found = judged(seeds, options.margin)
    tell(f"{table(seeds)}\n\n{sentence(seeds, found)}\ncurves: {options.output / 'curves.png'}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = options_of(EpochOptions, parser().parse_args(argv))
    try:
        return 0 if run(options, print).verdict == ALIGNED else 1
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run_command(main))
