"""Fill the tables of docs/scaling.md: ``python docs/make_scaling.py``. A test compares them.

For another model or machine: ``python docs/make_scaling.py --model dla102 --rate 497.28`` prints them instead.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from marked_parts import filled
from paddle import nn

from paddle_dla import create_model
from paddle_dla.config import Config, load_config
from paddle_dla.config.cost import IMAGENET_IMAGES

PAGE = Path(__file__).with_name("scaling.md")
CONFIGS = PAGE.parent.parent / "configs"

IMAGENET_BYTES = 147_897_477_120  # ILSVRC2012_img_train.tar
SHARD = 1000  # images of a shard, as scripts/make_shards.py writes them
FLOAT = 4  # bytes
RATE = 709.61  # images/s: see the page
CORE_RATE = 200.0  # images/s: see the page
DISK = 0.5e9  # bytes/s: see the page
CHECKPOINT_SHARE = 0.02  # of a run
LARGEST_BATCH = 8192  # see the page
PCIE = 16e9 * 16 * 128 / 130 / 8  # bytes/s: PCI Express 4.0, 16 lanes of 16 GT/s, 128 of 130 bits carry data
ETHERNET = {"10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}
STORES = {"a SATA disk, 6 Gbit/s in 8b/10b": 6e9 * 8 / 10 / 8, "a file server at 10 Gbit/s": 10e9 / 8}


@dataclass(frozen=True)
class Network:
    """Number of trainable elements, and of elements in BatchNorm statistics."""

    parameters: int
    statistics: int

    @classmethod
    def of(cls, name: str) -> Network:
        """Count them in the built model."""
        model = create_model(name)
        elements = {key: math.prod(value.shape) for key, value in model.state_dict().items()}
        norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
        statistics = sum(math.prod(norm._mean.shape) + math.prod(norm._variance.shape) for norm in norms)
        return cls(sum(elements.values()) - statistics, statistics)


@dataclass(frozen=True)
class Plan:
    """Training by ``config`` on ``gpus`` GPUs: ``batch`` images per step and GPU, ``accumulation`` steps per update."""

    gpus: int
    batch: int
    accumulation: int
    config: Config
    network: Network
    rate: float = RATE

    @property
    def global_batch(self) -> int:
        return self.gpus * self.batch * self.accumulation

    @property
    def learning_rate(self) -> float:
        return self.config.optimizer.learning_rate(self.global_batch)

    @property
    def updates(self) -> int:
        return self.config.total_epochs * (IMAGENET_IMAGES // self.global_batch)

    @property
    def images_a_second(self) -> float:
        return self.gpus * self.rate

    @property
    def reading(self) -> float:
        """Bytes per second."""
        return self.images_a_second * IMAGENET_BYTES / IMAGENET_IMAGES

    @property
    def cores(self) -> float:
        """Processor cores on all machines together."""
        return self.images_a_second / CORE_RATE

    @property
    def computing(self) -> float:
        """Seconds per update."""
        return self.batch * self.accumulation / self.rate

    @property
    def traffic(self) -> float:
        """Bytes that each GPU sends and receives per update: a ring all-reduce of float32 gradients."""
        return FLOAT * self.network.parameters * 2 * (self.gpus - 1) / self.gpus

    def exchange(self, bandwidth: float) -> float:
        """Seconds per update, at ``bandwidth`` bytes per second."""
        return self.traffic / bandwidth

    @property
    def hours(self) -> float:
        """Hours if computation never waits."""
        return self.config.total_epochs * IMAGENET_IMAGES / self.images_a_second / 3600

    def hours_waiting(self, bandwidth: float) -> float:
        """Hours if the exchange does not overlap with the computation."""
        return self.updates * (self.computing + self.exchange(bandwidth)) / 3600

    @property
    def checkpoint(self) -> float:
        """Bytes: weights, statistics, momentum, and the moving average if there is one."""
        weights = self.network.parameters + self.network.statistics
        return FLOAT * (weights * (2 if self.config.ema.enabled else 1) + self.network.parameters)

    @property
    def checkpoint_interval(self) -> int:
        """Updates between two checkpoints such that writing takes at most ``CHECKPOINT_SHARE`` of the time."""
        return math.ceil(self.checkpoint / DISK / (CHECKPOINT_SHARE * self.computing))


Row = tuple[str, str, Callable[[Plan], str]]

ROWS: tuple[Row, ...] = (
    ("images per step and GPU", "`data.batch_size`", lambda p: f"{p.batch}"),
    ("steps per update", "`train.grad_accum_steps`", lambda p: f"{p.accumulation}"),
    ("global batch", "images x steps x GPUs", lambda p: f"{p.global_batch:,}"),
    ("learning rate", "`lr_base` x global batch / `lr_base_size`", lambda p: f"{p.learning_rate:g}"),
    ("updates", "epochs x (images per epoch // global batch)", lambda p: f"{p.updates:,}"),
    ("images/s at most", "rate x GPUs", lambda p: f"{p.images_a_second:,.0f}"),
    ("read from disk", "images/s x bytes per image", lambda p: f"{p.reading / 1e6:,.0f} MB/s"),
    ("processor cores for decoding", "images/s / decoding speed", lambda p: f"{p.cores:,.1f}"),
    ("shards per GPU and epoch", "shards / GPUs", lambda p: f"{shards() / p.gpus:,.1f}"),
    ("computation per update", "images x steps / rate", lambda p: f"{1e3 * p.computing:,.0f} ms"),
    ("gradients per update and GPU", "4 bytes x parameters x 2 (n - 1) / n", lambda p: f"{p.traffic / 1e6:,.1f} MB"),
    ("exchange by PCIe 4.0 x16", "gradients / bandwidth", lambda p: f"{1e3 * p.exchange(PCIE):,.1f} ms"),
    *(
        (f"exchange by {name}", "gradients / bandwidth", lambda p, b=bandwidth: f"{1e3 * p.exchange(b):,.1f} ms")
        for name, bandwidth in ETHERNET.items()
    ),
    ("hours without waiting", "epochs x images / (images/s)", lambda p: f"{p.hours:,.1f}"),
    *(
        (
            f"hours without overlap, {name}",
            "updates x (computation + exchange)",
            lambda p, b=bandwidth: f"{p.hours_waiting(b):,.1f}",
        )
        for name, bandwidth in ETHERNET.items()
    ),
    ("size of a checkpoint", "4 bytes x (weights + statistics + momentum)", lambda p: f"{p.checkpoint / 1e6:,.0f} MB"),
    (
        "updates between checkpoints, for 2 % of the time",
        "seconds to write / (0.02 x computation)",
        lambda p: f"{p.checkpoint_interval}",
    ),
)


def shards() -> int:
    """Number of shards of the training set of ImageNet."""
    return math.ceil(IMAGENET_IMAGES / SHARD)


def plans(model: str = "dla60", rate: float = RATE) -> list[Plan]:
    """On 1, 8 and 64 GPUs: the global batch of the recipe, as long as each GPU gets enough images."""
    config, network = load_config(CONFIGS / f"{model}.yaml"), Network.of(model)
    shapes = ((1, 256, 2), (8, 64, 1), (64, 64, 1))
    return [Plan(gpus, batch, steps, config, network, rate) for gpus, batch, steps in shapes]


def plan_table(chosen: list[Plan]) -> str:
    """One row per figure, one column per plan."""
    head = "| | formula | " + " | ".join(f"{p.gpus} GPU{'s' * (p.gpus > 1)}" for p in chosen) + " |\n"
    lines = (f"| {name} | {formula} | " + " | ".join(map(show, chosen)) + " |\n" for name, formula, show in ROWS)
    return head + "| --- | --- |" + " ---: |" * len(chosen) + "\n" + "".join(lines)


def limits(plan: Plan) -> list[tuple[str, str, float]]:
    """Name, formula and number of GPUs of each limit; ``plan`` gives the images per GPU."""
    one = Plan(1, plan.batch, 1, plan.config, plan.network, plan.rate)
    rows = [("16 processor cores", "16 x decoding speed / rate", 16 * CORE_RATE / plan.rate)]
    rows += [(name, "bandwidth / (rate x bytes per image)", store / one.reading) for name, store in STORES.items()]
    rows.append((f"a global batch of {LARGEST_BATCH:,}", "batch / images per GPU", LARGEST_BATCH / plan.batch))
    return sorted(rows, key=lambda row: row[2])


def limit_table(chosen: list[Plan]) -> str:
    """The limits, lowest first, and the smallest batch for which the exchange can be hidden."""
    last = chosen[-1]
    lines = [f"| {name} | {formula} | {gpus:,.1f} GPUs |\n" for name, formula, gpus in limits(last)]
    for name, bandwidth in ETHERNET.items():
        least = last.exchange(bandwidth) * last.rate
        lines.append(f"| exchange by {name} | exchange of {last.gpus} GPUs x rate | {least:,.0f} images per GPU |\n")
    return "| limit | formula | reached at |\n| --- | --- | ---: |\n" + "".join(lines)


def assumption_table(chosen: list[Plan]) -> str:
    """The assumptions behind the figures."""
    plan = chosen[0]
    rows = (
        ("model", f"{plan.config.model.name}: {plan.network.parameters:,} parameters, counted in the built model"),
        ("epochs", f"{plan.config.total_epochs}, from the default recipe"),
        ("images per epoch", f"{IMAGENET_IMAGES:,} (training set of ImageNet)"),
        ("bytes per image", f"{IMAGENET_BYTES / IMAGENET_IMAGES:,.0f}: {IMAGENET_BYTES:,} bytes of the tar / images"),
        ("shards", f"{shards():,} of {SHARD:,} images, {SHARD * IMAGENET_BYTES / IMAGENET_IMAGES / 1e6:,.0f} MB each"),
        ("rate", f"{plan.rate:g} images/s per GPU"),
        ("decoding speed", f"{CORE_RATE:g} images/s per core"),
        ("disk for checkpoints", f"{DISK / 1e6:g} MB/s"),
    )
    return "| | |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


PARTS = {"assumptions": assumption_table, "plans": plan_table, "limits": limit_table}


def written(page: str) -> str:
    """``page`` with its tables made again."""
    chosen = plans()
    return filled(page, {name: lambda _, make=make: make(chosen) for name, make in PARTS.items()})


def main() -> None:
    """Fill the page, or print the tables for another model or rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dla60")
    parser.add_argument("--rate", type=float, help="images/s that one GPU trains")
    args = parser.parse_args()
    if args.rate is None and args.model == "dla60":
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    elif args.rate is None:
        parser.error("another model needs its --rate")
    else:
        chosen = plans(args.model, args.rate)
        print("\n".join(make(chosen) for make in PARTS.values()), end="")


if __name__ == "__main__":
    main()
