"""Older option names of PaddleClas 2.0's YAML files: ``paddle-dla config`` translates them, or says what to use.

Source: PaddleClas release/2.0, ``docs/zh_CN/tutorials/config.md``, ``tools/program.py`` and
``ppcls/optimizer/learning_rate.py``. One row per name; the table in ``docs/configs.md`` is generated from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from paddle_dla.config.errors import Fault
from paddle_dla.config.given import Given

Old = Mapping[str, Any]


class Refused(ValueError):
    """An older option that has no current equivalent; the message says what to do instead."""


@dataclass(frozen=True)
class Alias:
    """An older name. ``convert(value, all older values)`` returns current options, or raises ``Refused``."""

    old: str
    today: tuple[str, ...]
    doc: str
    convert: Callable[[Any, Old], dict[str, Any]]


def refused(given: Mapping[str, Given]) -> tuple[dict[str, Given], list[str], list[Fault]]:
    """Return ``given`` without older names, no notes, and a fault for each older name that says how to translate it."""
    result, old, faults = _sorted(given)
    for key, item in old.items():
        alias = ALIASES[key]
        faults.append(Fault(item.where, (key,), f"an older name; today {', '.join(alias.today) or alias.doc}"))
    if old:
        faults.append(Fault("", (), "paddle-dla config --config OLD.yaml > NEW.yaml translates the file"))
    return result, [], faults


def translate(given: Mapping[str, Given]) -> tuple[dict[str, Given], list[str], list[Fault]]:
    """Return ``given`` with current names, a note for each older name, and a fault for each that has no equivalent.

    An option in a later layer overrides an earlier one, under either name; both names in one layer are a fault.
    """
    result, old, faults = _sorted(given)
    values = {key: item.value for key, item in old.items()}
    notes: list[str] = []
    for key, item in old.items():
        alias = ALIASES[key]
        try:
            converted = alias.convert(item.value, values)
        except Refused as refusal:
            faults.append(Fault(item.where, (key,), str(refusal)))
            continue
        notes.append(f"{item.where}: {key}: {', '.join(converted or alias.today) or alias.doc}")
        for name, value in converted.items():
            earlier = result.get(name)
            if earlier and earlier.layer == item.layer:
                faults.append(Fault(item.where, (key,), f"is {name} today, which {earlier.where} gives as well"))
            elif earlier is None or earlier.layer < item.layer:
                result[name] = replace(item, value=value)
    return result, notes, faults


def _sorted(given: Mapping[str, Given]) -> tuple[dict[str, Given], dict[str, Given], list[Fault]]:
    """Return the options of today's names, those of older names, and a fault for the layout of PaddleClas 2.1."""
    old = {key: item for key, item in given.items() if key in ALIASES}
    today = {key: item for key, item in given.items() if key not in old and not _foreign(key)}
    return today, old, [_foreign_fault(given)] if any(map(_foreign, given)) else []


_NEWER = ("Global", "Arch", "Loss", "Optimizer", "DataLoader", "Metric", "Infer")


def _foreign(key: str) -> bool:
    return key.split(".")[0] in _NEWER


def _foreign_fault(given: Mapping[str, Given]) -> Fault:
    first = next(item for key, item in given.items() if _foreign(key))
    sections = tuple(dict.fromkeys(key.split(".")[0] for key in given if _foreign(key)))
    return Fault(first.where, sections, "the layout of PaddleClas 2.1 and later is not read; see docs/configs.md")


# --- conversions -----------------------------------------------------------------------------------------------------


def _to(*names: str) -> Callable[[Any, Old], dict[str, Any]]:
    return lambda value, old: dict.fromkeys(names, value)


def _nothing(value: Any, old: Old) -> dict[str, Any]:
    return {}


def _or_none(name: str, empty: Any) -> Callable[[Any, Old], dict[str, Any]]:
    return lambda value, old: {name: empty if value in ("", None) else value}


def _only(accepted: Collection[Any], advice: str) -> Callable[[Any, Old], dict[str, Any]]:
    def convert(value: Any, old: Old) -> dict[str, Any]:
        if value not in accepted:
            raise Refused(advice)
        return {}

    return convert


def _one_of(name: str, table: Mapping[Any, Any], advice: str) -> Callable[[Any, Old], dict[str, Any]]:
    def convert(value: Any, old: Old) -> dict[str, Any]:
        if not isinstance(value, str) or value not in table:
            raise Refused(f"{value!r} is none of {', '.join(table)}; {advice}")
        return {name: table[value]}

    return convert


_WARMUP = "LEARNING_RATE.params.warmup_epoch"


def _warmup(old: Old) -> float:
    """Return the warm-up epochs, which PaddleClas counts among ``epochs``; its default is 5."""
    if old.get("LEARNING_RATE.function") != "CosineWarmup":
        return 0
    epochs = old.get(_WARMUP, 5)
    return epochs if type(epochs) is int else 0


def _epochs(value: Any, old: Old) -> dict[str, Any]:
    return {"train.epochs": value - _warmup(old) if type(value) is int else value}


def _schedule(value: Any, old: Old) -> dict[str, Any]:
    found = _one_of("schedule.name", _CURVES, "set schedule.name to the nearest of today's")(value, old)
    if value != "Piecewise":
        found["schedule.per_epoch"] = False
    if value == "Linear":
        found["schedule.decay_rate"] = 1.0  # the power of poly
    if value == "CosineWarmup":
        warmup = {"epochs": old.get(_WARMUP, 5), "lr": 0.0, "prefix": True}
        found |= {f"schedule.warmup_{key}": item for key, item in warmup.items()}
    return found


_CURVES = {"Piecewise": "multistep", "Cosine": "cosine", "CosineWarmup": "cosine", "Linear": "poly"}


def _milestones(value: Any, old: Old) -> dict[str, Any]:
    later = [item + 1 for item in value] if isinstance(value, list) and all(map(_is_number, value)) else value
    return {"schedule.decay_milestones": later}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _validate(value: Any, old: Old) -> dict[str, Any]:
    if not isinstance(value, bool):
        raise Refused("expected true or false; today's option is train.val_interval, 0 for never")
    return {} if value else {"train.val_interval": 0}


def _valid_interval(value: Any, old: Old) -> dict[str, Any]:
    return {} if old.get("validate") is False else {"train.val_interval": value}


def _smoothing(value: Any, old: Old) -> dict[str, Any]:
    return {"loss.smoothing": 0.0 if _is_number(value) and value <= 0 else value}


def _topk(value: Any, old: Old) -> dict[str, Any]:
    return {"evaluate.topk": ([1, value] if value != 1 else [1]) if type(value) is int else value}


def _use_mix(value: Any, old: Old) -> dict[str, Any]:
    if value not in (True, False):  # PaddleClas's own documents contain -o use_mix=1
        raise Refused("expected true or false; today's option is mixing.mixup_alpha, 0 for off")
    if not value:
        return {}
    alphas = {}
    for name, arguments in _operators(old.get("TRAIN.mix")):
        if name not in _MIXES:
            raise Refused(f"{name} is unknown; use mixing.mixup_alpha or mixing.cutmix_alpha")
        alphas[_MIXES[name]] = arguments.get("alpha", 0.2)
    return alphas or {"mixing.mixup_alpha": 0.2}


_MIXES = {"MixupOperator": "mixing.mixup_alpha", "CutmixOperator": "mixing.cutmix_alpha"}


def _operators(steps: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return ``[{"Name": {arguments}}, ...]`` as pairs; anything else in the list is skipped."""
    steps = steps if isinstance(steps, list) else []
    pairs = [pair for step in steps if isinstance(step, dict) for pair in step.items()]
    return [(str(name), arguments if isinstance(arguments, dict) else {}) for name, arguments in pairs]


def _train_transforms(value: Any, old: Old) -> dict[str, Any]:
    found: dict[str, Any] = {"transform.train.hflip": 0.0}
    for name, arguments in _operators(value):
        if name == "RandCropImage":
            found |= _sized("transform.train.input_size", arguments, old)
            found |= {f"transform.train.{key}": arguments[key] for key in ("scale", "ratio") if key in arguments}
            found |= _filter("transform.train.interpolation", arguments)
        elif name == "RandFlipImage":
            found["transform.train.hflip"] = 0.5
        elif name == "NormalizeImage":
            found |= {f"transform.{key}": arguments[key] for key in ("mean", "std") if key in arguments}
        elif name not in _PLAIN:
            raise Refused(f"{name} has no equal of that name; see transform.train.auto_augment and .re_prob")
    return found


def _eval_transforms(value: Any, old: Old) -> dict[str, Any]:
    found: dict[str, Any] = {}
    steps = dict(_operators(value))
    short, size = steps.get("ResizeImage", {}).get("resize_short"), steps.get("CropImage", {}).get("size")
    found |= _sized("transform.eval.input_size", steps.get("CropImage", {}), old)
    found |= _filter("transform.eval.interpolation", steps.get("ResizeImage", {}))
    if _is_number(short) and _is_number(size) and short > 0:
        found["transform.eval.crop_pct"] = size / short
    strange = steps.keys() - _PLAIN - {"ResizeImage", "CropImage", "NormalizeImage"}
    if strange:
        raise Refused(f"{', '.join(sorted(strange))} has no equal; see transform.eval")
    return found


_PLAIN = {"DecodeImage", "ToCHWImage"}
_FILTERS = {0: "nearest", 1: "bilinear", 2: "bicubic", 3: "box", 4: "lanczos"}  # cv2's numbers


def _sized(name: str, arguments: Mapping[str, Any], old: Old) -> dict[str, Any]:
    """Return the size given by a crop, unless ``image_shape`` is given."""
    size = arguments.get("size")
    return {name: [3, size, size]} if type(size) is int and "image_shape" not in old else {}


def _filter(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    number = arguments.get("interpolation", 1)
    return {name: _FILTERS.get(number, number) if type(number) is int else number}


def _regularizer(value: Any, old: Old) -> dict[str, Any]:
    if value != "L2":
        raise Refused("only L2 is known: optimizer.weight_decay")
    return {"optimizer.filter_bias_and_bn": False}


# --- the table -------------------------------------------------------------------------------------------------------

_ROWS = (
    Alias(
        "mode",
        (),
        "given by the command: `paddle_dla.train` or `paddle_dla.evaluate`",
        _only(("train",), "a config trains; to evaluate, run python -m paddle_dla.evaluate --config FILE"),
    ),
    Alias("ARCHITECTURE.name", ("model.name",), "unchanged", _to("model.name")),
    Alias(
        "ARCHITECTURE.params",
        (),
        "use the options of `model`",
        _only((None,), "arguments of the network are the options of model: drop_rate, in_chans, global_pool"),
    ),
    Alias("checkpoints", ("train.resume",), "empty text: `true`", _or_none("train.resume", True)),
    Alias(
        "last_epoch",
        (),
        "stored in the checkpoint",
        _only((-1, None), "a checkpoint records its epoch; set train.resume to its path"),
    ),
    Alias("pretrained_model", ("model.pretrained",), "empty text: `false`", _or_none("model.pretrained", False)),
    Alias(
        "load_static_weights",
        (),
        "static-graph weights are not supported",
        _only((False, None), "weights of static graphs are not read; set model.pretrained to a converted file"),
    ),
    Alias("model_save_dir", ("train.output",), "unchanged", _to("train.output")),
    Alias("classes_num", ("model.num_classes",), "unchanged", _to("model.num_classes")),
    Alias("total_images", (), "counted in `data.train`", _nothing),
    Alias("save_interval", ("train.save_interval",), "unchanged", _to("train.save_interval")),
    Alias("validate", ("train.val_interval",), "`false`: 0, no validation", _validate),
    Alias("valid_interval", ("train.val_interval",), "ignored if `validate` is `false`", _valid_interval),
    Alias("epochs", ("train.epochs",), "minus the warm-up of `CosineWarmup`, which is a prefix today", _epochs),
    Alias("topk", ("evaluate.topk",), "k becomes `[1, k]`", _topk),
    Alias(
        "image_shape",
        ("transform.train.input_size", "transform.eval.input_size"),
        "sets both",
        _to("transform.train.input_size", "transform.eval.input_size"),
    ),
    Alias(
        "use_mix",
        ("mixing.mixup_alpha", "mixing.cutmix_alpha"),
        "`true`: the alpha in `TRAIN.mix`, else mixup with 0.2",
        _use_mix,
    ),
    Alias("ls_epsilon", ("loss.smoothing",), "0 or less becomes 0", _smoothing),
    Alias(
        "use_distillation",
        (),
        "use `loss.distillation.teacher`, `.checkpoint` and `.kind: ssld`",
        _only((False, None), "name the teacher: loss.distillation.teacher, .checkpoint and .kind: ssld"),
    ),
    Alias("use_ema", ("ema.enabled",), "unchanged", _to("ema.enabled")),
    Alias("ema_decay", ("ema.decay",), "unchanged", _to("ema.decay")),
    Alias(
        "use_aa",
        (),
        "use `transform.train.auto_augment: original`",
        _only((False, None), "name the policy: transform.train.auto_augment: original"),
    ),
    Alias(
        "use_gpu",
        ("train.device",),
        "`true`: `gpu`, `false`: `cpu`",
        lambda value, old: {"train.device": ("cpu", "gpu")[value] if isinstance(value, bool) else value},
    ),
    Alias("print_interval", ("train.log_interval",), "unchanged", _to("train.log_interval")),
    Alias(
        "LEARNING_RATE.function",
        ("schedule.name",),
        "Piecewise: `multistep`, Linear: `poly`, Cosine and CosineWarmup: `cosine`",
        _schedule,
    ),
    Alias("LEARNING_RATE.params.lr", ("optimizer.lr",), "unchanged", _to("optimizer.lr")),
    Alias(
        "LEARNING_RATE.params.decay_epochs",
        ("schedule.decay_milestones",),
        "each plus 1, as timm counts",
        _milestones,
    ),
    Alias("LEARNING_RATE.params.gamma", ("schedule.decay_rate",), "unchanged", _to("schedule.decay_rate")),
    Alias("LEARNING_RATE.params.warmup_epoch", ("schedule.warmup_epochs",), "used with `CosineWarmup`", _nothing),
    Alias("LEARNING_RATE.params.end_lr", ("schedule.min_lr",), "unchanged", _to("schedule.min_lr")),
    Alias(
        "LEARNING_RATE.params.steps",
        (),
        "`poly` ends with `train.epochs`",
        _only((), "poly ends with train.epochs; set that"),
    ),
    Alias(
        "OPTIMIZER.function",
        ("optimizer.name",),
        "Momentum: `momentum`, SGD: `sgd`, AdamW: `adamw`",
        _one_of("optimizer.name", {"Momentum": "momentum", "SGD": "sgd", "AdamW": "adamw"}, "see optimizer.name"),
    ),
    Alias("OPTIMIZER.params.momentum", ("optimizer.momentum",), "unchanged", _to("optimizer.momentum")),
    Alias(
        "OPTIMIZER.regularizer.function",
        ("optimizer.filter_bias_and_bn",),
        "L2: `false`, because it decays all parameters",
        _regularizer,
    ),
    Alias("OPTIMIZER.regularizer.factor", ("optimizer.weight_decay",), "unchanged", _to("optimizer.weight_decay")),
    Alias(
        "LOSS.function",
        ("loss.name",),
        "CELoss and MixCELoss: `cross_entropy`",
        _one_of("loss.name", dict.fromkeys(("CELoss", "MixCELoss"), "cross_entropy"), "see loss.name"),
    ),
    Alias("LOSS.params", (), "use the options of `loss`", _only((None,), "use the options of loss")),
    Alias(
        "TRAIN.batch_size",
        ("data.batch_size",),
        "per process; in PaddleClas the sum over all processes",
        _to("data.batch_size"),
    ),
    Alias("TRAIN.num_workers", ("data.workers",), "unchanged", _to("data.workers")),
    Alias("TRAIN.file_list", ("data.train",), "unchanged", _to("data.train")),
    Alias("TRAIN.data_dir", ("data.train_root",), "unchanged", _to("data.train_root")),
    Alias("TRAIN.shuffle_seed", ("train.seed",), "unchanged", _to("train.seed")),
    Alias(
        "TRAIN.transforms",
        ("transform.train", "transform.mean", "transform.std"),
        "from RandCropImage, RandFlipImage and NormalizeImage",
        _train_transforms,
    ),
    Alias("TRAIN.mix", ("mixing.mixup_alpha", "mixing.cutmix_alpha"), "used with `use_mix`", _nothing),
    Alias("VALID.batch_size", ("evaluate.batch_size",), "unchanged", _to("evaluate.batch_size")),
    Alias("VALID.num_workers", (), "`data.workers` applies to both", _nothing),
    Alias("VALID.file_list", ("data.val",), "unchanged", _to("data.val")),
    Alias("VALID.data_dir", ("data.val_root",), "unchanged", _to("data.val_root")),
    Alias("VALID.shuffle_seed", (), "validation is not shuffled", _nothing),
    Alias(
        "VALID.transforms",
        ("transform.eval",),
        "from ResizeImage and CropImage, including the filter",
        _eval_transforms,
    ),
)

ALIASES: dict[str, Alias] = {row.old: row for row in _ROWS}
