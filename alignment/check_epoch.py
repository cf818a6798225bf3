"""Does the port learn what timm's network learns? Whole epochs in torch and in Paddle, the same data in the same order.

Usage::

    python scripts/make_fashion_mnist.py out/fashion
    python alignment/check_epoch.py --config configs/dla46_c.yaml --output out/epoch \\
        -o base=recipes/fashion_mnist.yaml train.epochs=1 data.train=out/fashion/train data.val=out/fashion/val

For each seed both networks start from timm's initialisation under that seed, or from the timm checkpoint that
``model.pretrained`` names. Paddle's is trained by ``paddle-dla train``, timm's by timm's own optimizer, schedule and
loss, on the batches of the same loader. In float32 no two correct trainings stay together: rounding grows with each
update. So the end is judged: were all accuracies of one kind, how often would two groups of them be as far apart as
Paddle's and timm's are (an exact permutation test)? And the beginning is shown: ``curves.png`` draws how far apart the
two are at each update, and how far timm is from itself where only the order of the images within a batch is another.

A seed that is done is not trained again: the same command goes on.

Exit codes: 0 the port learns as timm does, 1 it does not, or something could not be read, 2 usage.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from alignment.command import Progress, announcer
from alignment.epoch_runs import Run, Seed
from paddle_dla.command_parser import CommandParser
from paddle_dla.config import Config, read_config
from paddle_dla.cpu import usable_threads
from paddle_dla.data.errors import DataError
from paddle_dla.options import positive
from paddle_dla.ranks import Ranks
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import check_record, parse_json
from paddle_dla.storage.regular import read_text
from paddle_dla.terminal import run_command
from paddle_dla.training.datasets import Datasets, open_datasets, train_loader, val_loader
from paddle_dla.training.errors import TrainingError
from paddle_dla.training.records import read_records

if TYPE_CHECKING:
    import torch

    from torch_ref.epochs import Options

TIMM_NAMES = {"nesterov": "sgd", "momentum": "momentum", "adamw": "adamw", "lamb": "lamb"}
LEVEL = 0.05  # how often a correct port may be called a wrong one
FEWEST = 4  # seeds: with three the rarest of all draws is one of ten, with four one of 35
EXPECTED_ERRORS = (CheckpointError, DataError, TrainingError, ValueError, OSError)


def chance(first: Sequence[float], second: Sequence[float]) -> float:
    """How often the means of two such groups, drawn at random from all values, are at least as far apart.

    The exact two-sided permutation test; E. S. Edgington, Randomization Tests.
    """
    values, size = np.array([*first, *second]), len(first)
    groups = np.array([values[list(chosen)].mean() for chosen in combinations(range(len(values)), size)])
    rest = (values.sum() - groups * size) / (len(values) - size)
    apart = abs(np.mean(first) - np.mean(second))
    # a group as far apart as the one that was seen must count, whatever rounding says
    return float(np.mean(abs(groups - rest) >= apart - 1e-9))


def verdict(seeds: Sequence[Seed]) -> tuple[bool, str]:
    """Whether Paddle's accuracies are of the same kind as torch's, and the sentence that says so."""
    ends = [[seed.torch.top1 for seed in seeds], [seed.paddle.top1 for seed in seeds]]
    likely = chance(*ends)
    timm, ours = (f"{np.mean(end):.2f} ({min(end):.2f} to {max(end):.2f})" for end in ends)
    return likely > LEVEL, (
        f"{'PASS' if likely > LEVEL else 'FAIL'}: top-1 of timm {timm}, of Paddle {ours}; means of one kind are as far "
        f"apart in {likely:.0%} of all draws (limit {LEVEL:.0%})"
    )


def train_both(config: Config, command: Sequence[str], output: Path, control: bool, say: Progress) -> Seed:
    """Train in both frameworks side by side, from ``config.train.seed``. Raises one of ``EXPECTED_ERRORS``.

    ``command``: the arguments of ``paddle-dla train`` that ``config`` was read from. ``output``: a new folder.
    ``control``: train timm's a second time, with each batch in reverse order.
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
            found = train_torch(config, model, say)
            again = train_torch(config, twin, say, reverse=True) if twin is not None else None
            say("waiting for Paddle")
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
    if process.returncode:
        raise TrainingError(f"training in Paddle failed with exit code {process.returncode}: see {log}")
    return Seed(config.train.seed, found, read_run(run / "rank0.jsonl"), again)


def first_weights(config: Config, path: Path) -> torch.nn.Module:
    """timm's model as both begin, whose weights are converted into the file ``path``."""
    from alignment.pairs import build_pair, seeded_source
    from convert.conversion import convert_source
    from convert.readers import read_source
    from paddle_dla import checkpoint

    name, sizes = config.model.name, (config.model.num_classes, config.model.in_chans)
    given = config.model.pretrained
    source = read_source(given) if isinstance(given, str) else seeded_source(name, config.train.seed, *sizes)
    conversion = convert_source(source, name, *sizes)
    checkpoint.save(path, conversion.arrays, conversion.manifest)
    return build_pair(source, conversion).torch_model


def train_torch(config: Config, model: torch.nn.Module, say: Progress, reverse: bool = False) -> Run:
    """timm's training of ``model``, in place; ``reverse`` turns the order of the images within each batch around."""
    import torch

    from paddle_dla.evaluation import evaluate
    from paddle_dla.metrics import top_k
    from torch_ref.epochs import TorchEngine, train_epochs

    torch.set_num_threads(config.train.threads)
    datasets, losses = open_datasets(config), []
    updates = train_loader(config, datasets, Ranks()).num_batches
    who = "timm, batches reversed" if reverse else "timm"
    for loss in train_epochs(model, epochs(config, datasets, reverse), timm_options(config), updates):
        losses.append(loss)
        if len(losses) % config.train.log_interval == 0:
            say(f"{who}, step {len(losses)} of {updates * config.train.epochs}, loss {loss:.4f}")
    found = evaluate(TorchEngine(model), val_loader(config, datasets, Ranks()), datasets.num_classes)
    return Run(losses, top_k(found, 1))


def epochs(
    config: Config, datasets: Datasets, reverse: bool = False
) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """The batches that ``paddle-dla train`` sees, epoch by epoch."""
    for epoch in range(config.train.epochs):
        batches = ((batch.images, batch.labels) for batch in train_loader(config, datasets, Ranks(), epoch))
        yield ((images[::-1].copy(), labels[::-1].copy()) for images, labels in batches) if reverse else batches


def timm_options(config: Config) -> Options:
    """The recipe in timm's words. Raises ``ValueError`` that names what this comparison does not know."""
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
    )


def refuse_unknown(config: Config) -> None:
    """Raises ``ValueError`` that names what of the recipe is trained in Paddle alone."""
    plain = Config()
    options = {
        "optimizer.name": config.optimizer.name in TIMM_NAMES,
        "optimizer.layer_decay": config.optimizer.layer_decay is None,
        "optimizer.clip_mode": config.optimizer.clip_mode == plain.optimizer.clip_mode,
        "schedule.name": config.schedule.name == "cosine",
        "schedule.warmup_prefix": not config.schedule.warmup_prefix,
        "schedule.cooldown_epochs": not config.schedule.cooldown_epochs,
        "loss.name": config.loss.name == plain.loss.name,
        "loss.distillation.teacher": config.loss.distillation.teacher is None,
        "model.pretrained": config.model.pretrained is not True,
        "model.drop_rate": not config.model.drop_rate,
        "model.num_classes": config.model.num_classes is not None,
        "train.grad_accum_steps": config.train.grad_accum_steps == 1,
        "train.freeze": not config.train.freeze,
        "train.linear_probe": not config.train.linear_probe,
    }
    unknown = [name for name, known in options.items() if not known]
    if unknown:
        raise ValueError(f"the torch side does not know what the recipe says in {', '.join(unknown)}")


def read_run(records: Path) -> Run:
    """What ``paddle-dla train`` wrote down."""
    found = list(read_records(records))
    losses = [record["loss"] for record in found if record["kind"] == "train"]
    return Run(losses, [record["top1"] for record in found if record["kind"] == "validation"][-1])


def table(seeds: Sequence[Seed]) -> str:
    """A line for each seed."""
    lines = [f"{'seed':>6}{'updates':>9}{'last loss, torch':>18}{'Paddle':>9}{'top-1, torch':>14}{'Paddle':>9}"]
    for seed in seeds:
        tail = max(1, len(seed.torch.losses) // 20)
        ends = [float(np.mean(run.losses[-tail:])) for run in (seed.torch, seed.paddle)]
        counts = f"{seed.seed:>6}{len(seed.paddle.losses):>9}"
        lines.append(f"{counts}{ends[0]:>18.4f}{ends[1]:>9.4f}{seed.torch.top1:>14.2f}{seed.paddle.top1:>9.2f}")
    again = seeds[0].again
    if again is not None:
        lines.append(f"timm again on seed {seeds[0].seed}, with each batch in reverse order: top-1 {again.top1:.2f}")
    return "\n".join(lines)


class _KeptRun(TypedDict):
    losses: list[float]
    top1: float


class _Again(TypedDict, total=False):
    again: _KeptRun | None


class _KeptRuns(_Again):
    torch: _KeptRun
    paddle: _KeptRun


class _Kept(TypedDict):
    recipe: str
    seed: int
    runs: _KeptRuns


def read_seed(path: Path, recipe: str) -> Seed | None:
    """What was trained before, by the same ``recipe``. Raises ``ValueError`` for what was trained by another."""
    if not path.exists():
        return None
    try:
        content = parse_json(read_text(path))
        check_record(content, _Kept)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no runs: {error}; remove it to train again") from error
    if content["recipe"] != recipe:
        raise ValueError(f"{path} is of another recipe: {content['recipe']}; name another --output")
    runs = {name: Run(run["losses"], run["top1"]) for name, run in content["runs"].items() if run is not None}
    return Seed(content["seed"], runs["torch"], runs["paddle"], runs.get("again"))


def write_seed(path: Path, recipe: str, seed: Seed) -> None:
    """Keep a seed for ``read_seed``."""
    runs = {name: asdict(run) for name, run in vars(seed).items() if isinstance(run, Run)}
    with atomic_path(path) as part:
        part.write_text(json.dumps({"recipe": recipe, "seed": seed.seed, "runs": runs}), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("check-epoch", __doc__)
    result.add_argument("--config", "-c", required=True, metavar="FILE", help="as for paddle-dla train")
    result.add_argument("--override", "-o", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    result.add_argument("--seeds", type=int, nargs="+", default=[*range(6)], help="(default 0 to 5)")
    result.add_argument("--output", type=Path, required=True, metavar="DIR", help="for weights, logs and the picture")
    # two networks are trained at a time
    share = max(1, usable_threads() // 2)
    result.add_argument("--threads", type=positive, default=share, help=f"of each side (default {share})")
    return result


def run(args: argparse.Namespace) -> int:
    """Train, judge, write; returns the exit code. Raises one of ``EXPECTED_ERRORS``."""
    overrides = [*args.override, f"train.threads={args.threads}", "train.device=cpu"]
    recipe = shlex.join(["--config", args.config, "-o", *overrides])
    refuse_unknown(read_config(args.config, overrides).config)
    if len(set(args.seeds)) < FEWEST:
        raise ValueError(f"--seeds: with fewer than {FEWEST} nothing could be told apart from chance")
    from alignment.epoch_picture import draw

    seeds: list[Seed] = []
    for number, seed in enumerate(args.seeds, 1):
        say, folder = announcer(f"[{number}/{len(args.seeds)}] seed {seed}: "), args.output / f"seed{seed}"
        known = read_seed(folder / "losses.json", recipe)
        if known is None:
            mine = [*overrides, f"train.seed={seed}"]
            config = read_config(args.config, mine).config
            known = train_both(config, ["--config", args.config, "-o", *mine], folder, number == 1, say)
            write_seed(folder / "losses.json", recipe, known)
        seeds.append(known)
        draw(seeds, args.output / "curves.png")
    passed, sentence = verdict(seeds)
    print(f"{table(seeds)}\n\n{sentence}\ncurves: {args.output / 'curves.png'}")
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return run(args)
    except EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run_command(main))
