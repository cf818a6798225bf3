"""Does the port learn what timm's network learns? Whole epochs in torch and in Paddle, the same data in the same order.

Usage::

    python scripts/make_fashion_mnist.py out/fashion
    python alignment/check_epoch.py --config configs/dla46_c.yaml --output out/epoch \\
        -o base=recipes/fashion_mnist.yaml train.epochs=1 data.train=out/fashion/train data.val=out/fashion/val

For each seed both networks start from timm's initialisation under that seed, or from the timm checkpoint that
``model.pretrained`` names. Paddle's is trained by ``paddle-dla train``, timm's by timm's own optimizer, schedule and
loss, on the batches of the same loader. In float32 no two
correct trainings stay together, not even two of torch on other machines: rounding grows with each update. So the end
is judged by what the seed changes: on each seed the two may be as far apart as torch's seeds are, and the mean of
Paddle's accuracies lies among torch's. ``curves.png`` shows both, and how far apart they are at each update.

Exit codes: 0 the port learns as timm does, 1 it does not, or something could not be read, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.command import announcer
from paddle_dla.config import Config, read_config
from paddle_dla.cpu import usable_threads
from paddle_dla.data.errors import DataError
from paddle_dla.options import positive
from paddle_dla.ranks import Ranks
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.training.datasets import Datasets, open_datasets, train_loader, val_loader
from paddle_dla.training.errors import TrainingError

if TYPE_CHECKING:
    import torch

    from torch_ref.epochs import Options

TIMM_NAMES = {"nesterov": "sgd", "momentum": "momentum", "adamw": "adamw", "lamb": "lamb"}
EXPECTED_ERRORS = (CheckpointError, DataError, TrainingError, ValueError, OSError)


@dataclass(frozen=True)
class Run:
    """One training: the loss of each update, and the accuracy in the end, in percent."""

    losses: list[float]
    top1: float


@dataclass(frozen=True)
class Seed:
    """Both trainings from one seed."""

    seed: int
    torch: Run
    paddle: Run


def verdict(seeds: Sequence[Seed]) -> tuple[bool, str]:
    """Whether Paddle's accuracies are among torch's, and the sentence that says so.

    Raises ``ValueError`` for fewer than two seeds: one has no spread.
    """
    if len(seeds) < 2:
        raise ValueError("the spread of torch's accuracies needs two seeds or more")
    reference = [seed.torch.top1 for seed in seeds]
    low, high = min(reference), max(reference)
    apart = max(abs(seed.torch.top1 - seed.paddle.top1) for seed in seeds)
    mean = float(np.mean([seed.paddle.top1 for seed in seeds]))
    passed = low <= mean <= high and apart <= high - low
    return passed, (
        f"{'PASS' if passed else 'FAIL'}: torch's top-1 are {low:.2f} to {high:.2f}, Paddle's mean is {mean:.2f}; "
        f"on one seed they are {apart:.2f} apart at most, of {high - low:.2f} between torch's seeds"
    )


def train_both(config: Config, command: Sequence[str], seed: int, output: Path, say: Callable[[str], None]) -> Seed:
    """Train with ``seed`` in both frameworks, side by side. Raises one of ``EXPECTED_ERRORS``.

    ``command``: the arguments of ``paddle-dla train`` that ``config`` was read from. ``output``: an empty folder.
    """
    start = output / "start.pdparams"
    model = first_weights(config, seed, start)
    own = [f"train.seed={seed}", f"model.pretrained={start}", f"train.threads={config.train.threads}"]
    run, log = output / "run", output / "paddle.txt"
    with log.open("w", encoding="utf-8") as stream:
        words = [sys.executable, "-m", "paddle_dla.train", *command, *own, "--output", str(run), "--resume", "never"]
        process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT)
        try:
            found = train_torch(config, model, seed, say)
            say(f"seed {seed}: waiting for Paddle")
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
    if process.returncode:
        raise TrainingError(f"training in Paddle failed with exit code {process.returncode}: see {log}")
    return Seed(seed, found, read_run(run / "rank0.jsonl"))


def first_weights(config: Config, seed: int, path: Path) -> torch.nn.Module:
    """timm's model as both begin, whose weights are converted into the file ``path``."""
    from alignment.pairs import build_pair, seeded_source
    from convert.conversion import convert_source
    from convert.readers import read_source
    from paddle_dla import checkpoint

    name, sizes = config.model.name, (config.model.num_classes, config.model.in_chans)
    given = config.model.pretrained
    source = read_source(given) if isinstance(given, str) else seeded_source(name, seed, *sizes)
    conversion = convert_source(source, name, *sizes)
    checkpoint.save(path, conversion.arrays, conversion.manifest)
    return build_pair(source, conversion).torch_model


def train_torch(config: Config, model: torch.nn.Module, seed: int, say: Callable[[str], None]) -> Run:
    """timm's training of ``model``, in place."""
    import torch

    from paddle_dla.evaluation import evaluate
    from paddle_dla.metrics import top_k
    from torch_ref.epochs import TorchEngine, train_epochs

    torch.set_num_threads(config.train.threads)
    datasets, losses = open_datasets(config), []
    updates = train_loader(config, datasets, Ranks()).num_batches
    for loss in train_epochs(model, epochs(config, datasets), timm_options(config), updates):
        losses.append(loss)
        if len(losses) % config.train.log_interval == 0:
            say(f"seed {seed}: torch, step {len(losses)} of {updates * config.train.epochs}, loss {loss:.4f}")
    found = evaluate(TorchEngine(model), val_loader(config, datasets, Ranks()), datasets.num_classes)
    return Run(losses, top_k(found, 1))


def epochs(config: Config, datasets: Datasets) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """The batches that ``paddle-dla train`` sees, epoch by epoch."""
    for epoch in range(config.train.epochs):
        yield ((batch.images, batch.labels) for batch in train_loader(config, datasets, Ranks(), epoch))


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
    found = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
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
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="check_epoch", description=__doc__.split("\n")[0])
    result.add_argument("--config", "-c", required=True, metavar="FILE", help="as for paddle-dla train")
    result.add_argument("--override", "-o", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    result.add_argument("--output", type=Path, required=True, metavar="DIR", help="for weights, logs and the picture")
    # two networks are trained at a time
    share = max(1, usable_threads() // 2)
    result.add_argument("--threads", type=positive, default=share, help=f"of each side (default {share})")
    return result


def run(args: argparse.Namespace) -> int:
    """Train, judge, write; returns the exit code. Raises one of ``EXPECTED_ERRORS``."""
    overrides = [*args.override, f"train.threads={args.threads}", "train.device=cpu"]
    config = read_config(args.config, overrides).config
    refuse_unknown(config)
    if len(set(args.seeds)) < 2:
        raise ValueError("--seeds: the spread of torch's accuracies needs two seeds or more")
    from alignment.epoch_picture import draw

    seeds = []
    for number, seed in enumerate(args.seeds, 1):
        folder = args.output / f"seed{seed}"
        folder.mkdir(parents=True)  # never into results that are there
        say = announcer(f"[{number}/{len(args.seeds)}] ")
        seeded = read_config(args.config, [*overrides, f"train.seed={seed}"]).config
        seeds.append(train_both(seeded, ["--config", args.config, "-o", *overrides], seed, folder, say))
        draw(seeds, args.output / "curves.png")
    passed, sentence = verdict(seeds)
    with atomic_path(args.output / "result.json") as part:
        command = shlex.join(["--config", str(args.config), "-o", *overrides])
        part.write_text(json.dumps({"recipe": command, "verdict": sentence, "seeds": [asdict(s) for s in seeds]}))
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
    sys.exit(main())
