"""Older option names: each is translated to today's option or says what to use, and the page says the same."""

import contextlib
import re
from pathlib import Path

import pytest

pytest.importorskip("yaml")

from config_parts import KNOWN

from paddle_dla.config import Config, ConfigError, load_config, parse_config, show, translate_config
from paddle_dla.config.aliases import ALIASES
from paddle_dla.config.schema import flat

pytestmark = pytest.mark.any_paddle

PAGE = (Path(__file__).parent.parent / "docs" / "configs.md").read_text(encoding="utf-8")

# the names that a user of PaddleClas 2.0 knows from the first lines of its files
FAMILIAR = [
    *("mode", "checkpoints", "last_epoch", "pretrained_model", "load_static_weights", "model_save_dir", "classes_num"),
    *("total_images", "save_interval", "validate", "valid_interval", "epochs", "topk", "image_shape", "use_mix"),
    *("ls_epsilon", "use_distillation"),
]

# an older option, and what differs from the defaults by it
ACCEPTED = [
    ("mode=train", {}),
    ("ARCHITECTURE={name:DLA34}", {"model.name": "DLA34"}),
    ("ARCHITECTURE.params=null", {}),
    ("checkpoints=''", {}),
    ("checkpoints=out/latest", {"train.resume": "out/latest"}),
    ("last_epoch=-1", {}),
    ("pretrained_model=''", {}),
    ("pretrained_model=dla60.pdparams", {"model.pretrained": "dla60.pdparams"}),
    ("load_static_weights=false", {}),
    ("model_save_dir=./output/", {"train.output": "./output/"}),
    ("classes_num=10", {"model.num_classes": 10}),
    ("total_images=1281167", {}),
    ("save_interval=5", {"train.save_interval": 5}),
    ("validate=true", {}),
    ("validate=false", {"train.val_interval": 0}),
    ("valid_interval=2", {"train.val_interval": 2}),
    ("validate=false valid_interval=2", {"train.val_interval": 0}),
    ("epochs=90", {"train.epochs": 90}),
    ("topk=3", {"evaluate.topk": (1, 3)}),
    ("topk=1", {"evaluate.topk": (1,)}),
    ("image_shape=[3,96,64]", {"transform.train.input_size": (3, 96, 64), "transform.eval.input_size": (3, 96, 64)}),
    ("use_mix=1", {"mixing.mixup_alpha": 0.2}),
    ("use_mix=false TRAIN.mix=[{MixupOperator:{alpha:0.4}}]", {}),
    ("use_mix=true TRAIN.mix=[{MixupOperator:{alpha:0.4}}]", {"mixing.mixup_alpha": 0.4}),
    ("use_mix=true TRAIN.mix=[{CutmixOperator:{alpha:0.5}}]", {"mixing.cutmix_alpha": 0.5}),
    ("ls_epsilon=-1", {}),
    ("ls_epsilon=0.1", {"loss.smoothing": 0.1}),
    ("use_distillation=false", {}),
    ("use_ema=true", {"ema.enabled": True}),
    ("ema_decay=0.99", {"ema.decay": 0.99}),
    ("use_aa=false", {}),
    ("use_gpu=false", {"train.device": "cpu"}),
    ("print_interval=1", {"train.log_interval": 1}),
    ("LEARNING_RATE.function=Cosine", {"schedule.per_epoch": False}),
    (
        "LEARNING_RATE.function=Linear",
        {"schedule.name": "poly", "schedule.decay_rate": 1.0, "schedule.per_epoch": False},
    ),
    (
        "epochs=120 LEARNING_RATE.function=CosineWarmup",
        {
            "train.epochs": 115,
            "schedule.per_epoch": False,
            "schedule.warmup_epochs": 5.0,
            "schedule.warmup_lr": 0.0,
            "schedule.warmup_prefix": True,
        },
    ),
    (
        "epochs=120 LEARNING_RATE.function=CosineWarmup LEARNING_RATE.params.warmup_epoch=10",
        {
            "train.epochs": 110,
            "schedule.per_epoch": False,
            "schedule.warmup_epochs": 10.0,
            "schedule.warmup_lr": 0.0,
            "schedule.warmup_prefix": True,
        },
    ),
    (
        "LEARNING_RATE={function:Piecewise,params:{lr:0.1,decay_epochs:[30,60,90],gamma:0.2}}",
        {
            "optimizer.lr": 0.1,
            "schedule.name": "multistep",
            "schedule.decay_milestones": (31.0, 61.0, 91.0),
            "schedule.decay_rate": 0.2,
        },
    ),
    ("LEARNING_RATE.params.end_lr=1e-5", {"schedule.min_lr": 1e-5}),
    ("OPTIMIZER={function:Momentum,params:{momentum:0.8}}", {"optimizer.name": "momentum", "optimizer.momentum": 0.8}),
    ("OPTIMIZER.function=AdamW", {"optimizer.name": "adamw"}),
    (
        "OPTIMIZER.regularizer={function:L2,factor:1e-4}",
        {"optimizer.weight_decay": 1e-4, "optimizer.filter_bias_and_bn": False},
    ),
    ("LOSS={function:MixCELoss,params:null}", {}),
    ("TRAIN.batch_size=256", {"data.batch_size": 256}),
    ("TRAIN.num_workers=2", {"data.workers": 2}),
    ("TRAIN={file_list:train.txt,data_dir:images}", {"data.train": "train.txt", "data.train_root": "images"}),
    ("TRAIN.shuffle_seed=0", {"train.seed": 0}),
    (
        "TRAIN.transforms=[{RandCropImage:{size:96,interpolation:2,scale:[0.3,1]}},{ToCHWImage:null}]",
        {
            "transform.train.input_size": (3, 96, 96),
            "transform.train.interpolation": "bicubic",
            "transform.train.scale": (0.3, 1.0),
            "transform.train.hflip": 0.0,
        },
    ),
    (
        "TRAIN.transforms=[{RandFlipImage:{flip_code:1}},{NormalizeImage:{mean:[0,0,0],std:[1,1,1],scale:1./255.}}]",
        {"transform.mean": (0.0, 0.0, 0.0), "transform.std": (1.0, 1.0, 1.0)},
    ),
    ("VALID.batch_size=32", {"evaluate.batch_size": 32}),
    ("VALID.num_workers=0", {}),
    ("VALID={file_list:val.txt,data_dir:images}", {"data.val": "val.txt", "data.val_root": "images"}),
    ("VALID.shuffle_seed=0", {}),
    (
        "VALID.transforms=[{ResizeImage:{resize_short:128,interpolation:2}},{CropImage:{size:96}}]",
        {
            "transform.eval.crop_pct": 0.75,
            "transform.eval.interpolation": "bicubic",
            "transform.eval.input_size": (3, 96, 96),
        },
    ),
]

REFUSED = [
    ("mode=valid", "run python -m paddle_dla.evaluate"),
    ("ARCHITECTURE.params=[1]", "the options of model"),
    ("last_epoch=30", "set train.resume"),
    ("load_static_weights=true", "set model.pretrained to a converted file"),
    ("use_distillation=true", "loss.distillation.teacher"),
    ("use_aa=true", "transform.train.auto_augment: original"),
    ("validate=1", "train.val_interval"),
    ("use_mix=maybe", "mixing.mixup_alpha"),
    ("use_mix=true TRAIN.mix=[{FmixOperator:{alpha:1}}]", "mixing.cutmix_alpha"),
    ("LEARNING_RATE.function=ExponentialWarmup", "set schedule.name"),
    ("LEARNING_RATE.params.steps=100", "train.epochs"),
    ("OPTIMIZER.function=RMSProp", "optimizer.name"),
    ("OPTIMIZER.regularizer.function=L1", "optimizer.weight_decay"),
    ("LOSS.function=JSDivLoss", "loss.name"),
    ("LOSS.params=[1]", "the options of loss"),
    ("TRAIN.transforms=[{RandAugment:{num_layers:2}}]", "transform.train.auto_augment"),
    ("VALID.transforms=[{PadImage:null}]", "transform.eval"),
    ("classes_num=ten", "model.num_classes: expected a whole number"),
    ("image_shape=224", "transform.train.input_size: expected a list of 3 whole numbers"),
    ("epochs=true", "train.epochs: expected a whole number, at least 1, not true"),
    ("LEARNING_RATE.params.decay_epochs=[a]", "schedule.decay_milestones: expected a list"),
    ("LEARNING_RATE={function:CosineWarmup,params:{warmup_epoch:few}}", "schedule.warmup_epochs: expected a number"),
    ("use_gpu=maybe", "train.device: expected text (one of auto, cpu, gpu)"),
    ("Global={epochs:3} Arch={name:DLA60}", "Global, Arch: the layout of PaddleClas 2.1 and later"),
]


@pytest.fixture
def overridden(tmp_path):
    """A function that translates ``options``: ``KEY=VALUE`` apart by spaces."""
    (tmp_path / "empty.yaml").touch()

    def config(options):
        changes = [option.replace(":", ": ") for option in options.split()]
        return translate_config(tmp_path / "empty.yaml", changes).config

    return config


@pytest.mark.parametrize(("options", "expected"), ACCEPTED, ids=[options for options, _ in ACCEPTED])
def test_an_older_option_means_todays(overridden, options, expected):
    values = flat(overridden(options))
    assert {key: value for key, value in values.items() if value != flat(Config())[key]} == expected


@pytest.mark.parametrize(("options", "advice"), REFUSED, ids=[options for options, _ in REFUSED])
def test_an_older_option_without_an_equal_says_what_to_do(overridden, options, advice):
    with pytest.raises(ConfigError, match=re.escape(advice)):
        overridden(options)


WEIRD = [
    "[1]",
    "[[a]]",
    "{a: 1}",
    "text",
    "-3",
    "1e30",
    "true",
    "null",
    "[{RandCropImage: {size: [1], interpolation: [2]}}]",
]


@pytest.mark.parametrize("old", ALIASES)
def test_no_value_of_an_older_option_is_worse_than_a_fault(old, tmp_path):
    (tmp_path / "empty.yaml").touch()
    for value in WEIRD:
        for mixing in ("use_mix=true", "LEARNING_RATE.function=CosineWarmup"):
            with contextlib.suppress(ConfigError):
                translate_config(tmp_path / "empty.yaml", [mixing, f"{old}={value}"])


def test_a_fault_of_a_value_names_the_older_option_too(overridden):
    with pytest.raises(ConfigError, match=r"-o: model.num_classes: expected .* \(from classes_num\)"):
        overridden("classes_num=ten")


@pytest.mark.parametrize("old", ALIASES)
def test_every_older_name_is_tried(old):
    tried = " ".join(options for options, _ in ACCEPTED + REFUSED)
    section, _, last = old.rpartition(".")
    assert f"{old}=" in tried or re.search(rf"{section.split('.')[0]}\S*[{{,]{last}:", tried)


def test_every_familiar_name_is_known():
    assert set(FAMILIAR) <= ALIASES.keys()


@pytest.mark.parametrize("old", ALIASES)
def test_what_an_older_name_becomes_exists(old):
    sections = {key.rpartition(".")[0] for key in KNOWN}
    assert set(ALIASES[old].today) <= KNOWN.keys() | sections


@pytest.mark.parametrize(("options", "expected"), ACCEPTED, ids=[options for options, _ in ACCEPTED])
def test_the_table_tells_where_the_value_goes(options, expected):
    """What an older option changes is among what its row of the table names, or goes by way of another row."""
    rows = [
        alias for old, alias in ALIASES.items() if any(item.startswith(old.split(".")[0]) for item in options.split())
    ]
    told = {name for alias in rows for name in alias.today}
    followers = {
        "schedule.per_epoch",
        "schedule.decay_rate",
        "schedule.warmup_lr",
        "schedule.warmup_prefix",
    }  # of the curve
    assert all(key in told or key.rpartition(".")[0] in told for key in expected.keys() - followers)


@pytest.mark.parametrize("old", ALIASES)
def test_the_page_has_a_line_for_every_older_name(old):
    assert f"| `{old}` | " in PAGE


def test_a_later_layer_wins_under_either_name(tmp_path):
    (tmp_path / "old.yaml").write_text("epochs: 120\nclasses_num: 5\n")
    (tmp_path / "new.yaml").write_text("base: old.yaml\ntrain: {epochs: 3}\n")
    config = translate_config(tmp_path / "new.yaml", ["classes_num=7"]).config
    assert (config.train.epochs, config.model.num_classes) == (3, 7)
    assert translate_config(tmp_path / "new.yaml", ["epochs=4"]).config.train.epochs == 4


def test_both_names_in_one_file_are_a_fault(tmp_path):
    (tmp_path / "f.yaml").write_text("epochs: 3\ntrain: {epochs: 3}\n")
    with pytest.raises(ConfigError, match=r"f.yaml:1: epochs: is train.epochs today, which .*f.yaml:2 gives as well"):
        translate_config(tmp_path / "f.yaml")


def test_each_older_name_is_noted_with_todays(tmp_path):
    (tmp_path / "old.yaml").write_text("classes_num: 5\nmode: train\n")
    first, second = translate_config(tmp_path / "old.yaml").notes
    assert first.endswith("old.yaml:1: classes_num: model.num_classes")
    assert "old.yaml:2: mode: given by the" in second


def test_a_file_of_todays_names_has_no_notes(tmp_path):
    (tmp_path / "new.yaml").write_text("train: {epochs: 3}\n")
    assert translate_config(tmp_path / "new.yaml").notes == ()


def test_other_commands_refuse_older_names_and_say_how_to_translate_them(tmp_path):
    text = "classes_num: 5\nmode: train\ntrain: {epochs: ten}\n"
    (tmp_path / "old.yaml").write_text(text)
    for read in (lambda: load_config(tmp_path / "old.yaml"), lambda: parse_config(text)):
        with pytest.raises(ConfigError) as caught:
            read()
        said = "\n".join(map(str, caught.value.faults))
        assert ":1: classes_num: an older name; today model.num_classes\n" in said
        assert ":2: mode: an older name; today given by the command" in said
        assert "paddle-dla config --config OLD.yaml > NEW.yaml" in said
        assert ":3: train.epochs: " in said  # all faults at once
        assert len(caught.value.faults) == 4


def test_what_the_command_prints_of_an_older_file_is_a_config_of_today(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text(WHOLE_FILE)
    assert show.main(["--config", str(tmp_path / "old.yaml")]) == 0
    printed = capsys.readouterr().out
    assert parse_config(printed) == translate_config(tmp_path / "old.yaml").config
    assert "# " in printed and "classes_num: model.num_classes" in printed


WHOLE_FILE = """
mode: 'train'
ARCHITECTURE:
    name: 'DLA60'
pretrained_model: ""
model_save_dir: "./output/"
classes_num: 1000
total_images: 1281167
epochs: 120
topk: 5
image_shape: [3, 224, 224]
use_mix: True
ls_epsilon: 0.1
LEARNING_RATE:
   function: 'CosineWarmup'
   params:
       lr: 0.04
OPTIMIZER:
    function: 'Momentum'
    params:
        momentum: 0.9
    regularizer:
        function: 'L2'
        factor: 0.000100
TRAIN:
    batch_size: 512
    transforms:
        - DecodeImage: {to_rgb: True, channel_first: False}
        - RandCropImage: {size: 224, interpolation: 2}
        - RandFlipImage: {flip_code: 1}
        - NormalizeImage: {scale: 1./255., mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], order: ''}
        - ToCHWImage:
    mix:
        - MixupOperator: {alpha: 0.2}
VALID:
    transforms:
        - DecodeImage: {to_rgb: True}
        - ResizeImage: {interpolation: 2, resize_short: 256}
        - CropImage: {size: 224}
        - ToCHWImage:
"""


def test_a_whole_older_file_is_todays_recipe(tmp_path):
    """PaddleClas's settings for the contest's training of dla60 are those of recipes/best.yaml."""
    (tmp_path / "old.yaml").write_text(WHOLE_FILE)
    ours = load_config(Path(__file__).parent.parent / "configs" / "recipes" / "best.yaml")
    theirs = translate_config(tmp_path / "old.yaml").config
    same = {"model.name", "train.output", "optimizer.lr", "optimizer.lr_base", "optimizer.lr_base_size"}
    same |= {"optimizer.lr_base_scale", "optimizer.momentum", "transform.mean", "transform.std"}  # said otherwise
    differ = {key for key, value in flat(ours).items() if flat(theirs)[key] != value}
    assert differ <= same
    assert ours.optimizer.learning_rate(512) == theirs.optimizer.learning_rate(512) == 0.04
    assert ours.preprocessing() == theirs.preprocessing()
