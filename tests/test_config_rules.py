"""Options that do not go together: each rule refuses what it should, with a way out that works."""

from pathlib import Path

import pytest

pytest.importorskip("yaml")

from config_parts import KNOWN, refusal

from paddle_dla.config import Config, ConfigError, device_faults, load_config, parse_config
from paddle_dla.config.rules import CPU_RULES, RULES

pytestmark = pytest.mark.any_paddle

GREY = "model.in_chans=1 transform.mean=[0.5] transform.std=[0.5] transform.eval.input_size=[1,224,224]"
TEACHER = "loss.distillation.teacher=dla102 loss.distillation.checkpoint=t.pdparams"
JITTER = "transform.train.color_jitter=0.4"
SSLD = "loss.distillation.kind=ssld"
PORT = Path(__file__).parent / "a_port"
PROBE = "train.linear_probe=true model.pretrained=true"
ALL_LAYERS = "[base_layer,level0,level1,level2,level3,level4,level5,fc]"

# options that do not go together, one that the message names, and what mends it
BROKEN = [
    (f"{GREY} model.in_chans=2", "model.in_chans", "model.in_chans=1"),
    (f"{GREY} transform.mean=[0.5,0.5]", "transform.mean", "transform.mean=[0.5]"),
    (f"{GREY} transform.mean=null", "transform.mean", "transform.mean=[0.5]"),
    ("transform.train.input_size=[3,64,100]", "transform.train.input_size", "transform.train.input_size=[3,64,96]"),
    ("transform.train.scale=[1,0.5]", "transform.train.scale", "transform.train.scale=[0.5,1]"),
    ("transform.train.ratio=[2,1]", "transform.train.ratio", "transform.train.ratio=[1,2]"),
    ("transform.train.color_jitter=[1,1]", "transform.train.color_jitter", "transform.train.color_jitter=1"),
    (f"{JITTER} transform.train.auto_augment=v0", "transform.train.auto_augment", "transform.train.color_jitter=0"),
    ("mixing.cutmix_minmax=[0.8,0.2]", "mixing.cutmix_minmax", "mixing.cutmix_minmax=[0.2,0.8]"),
    ("mixing.mixup_alpha=0.2 model.num_classes=null", "model.num_classes", "model.num_classes=10"),
    ("mixing.off_epoch=120", "mixing.off_epoch", "mixing.off_epoch=119"),
    ("loss.bce_target_thresh=0.2", "loss.bce_target_thresh", "loss.name=bce"),
    ("loss.bce_sum=true", "loss.bce_sum", "loss.name=bce"),
    (f"{TEACHER} loss.distillation.teacher=dla103", "loss.distillation.teacher", TEACHER),
    ("loss.distillation.teacher=dla102", "loss.distillation.checkpoint", TEACHER),
    ("loss.distillation.checkpoint=t.pdparams", "loss.distillation.teacher", TEACHER),
    (SSLD, "loss.distillation.kind", TEACHER),
    (
        f"{TEACHER} {SSLD} loss.distillation.temperature=2",
        "loss.distillation.temperature",
        "loss.distillation.kind=logits",
    ),
    (f"{TEACHER} {SSLD} loss.smoothing=0.1", "loss.smoothing", "loss.smoothing=0"),
    ("optimizer.name=adamw optimizer.momentum=0.9", "optimizer.momentum", "optimizer.name=nesterov"),
    ("optimizer.name=sgd optimizer.momentum=0.9", "optimizer.momentum", "optimizer.momentum=null"),
    ("optimizer.betas=[0.9,0.95]", "optimizer.betas", "optimizer.name=lamb"),
    ("optimizer.eps=1e-8", "optimizer.eps", "optimizer.name=adamw"),
    ("optimizer.lr=1e-3 schedule.min_lr=1e-3", "schedule.min_lr", "schedule.min_lr=1e-5"),
    ("schedule.name=step", "schedule.decay_epochs", "schedule.decay_epochs=30"),
    ("schedule.decay_epochs=30", "schedule.decay_epochs", "schedule.decay_epochs=null"),
    ("schedule.name=step schedule.decay_epochs=120", "train.epochs", "train.epochs=121"),
    ("schedule.name=multistep", "schedule.decay_milestones", "schedule.decay_milestones=[30]"),
    ("schedule.name=multistep schedule.decay_milestones=[30,121]", "schedule.decay_milestones", "train.epochs=150"),
    ("schedule.name=constant schedule.cooldown_epochs=5", "schedule.cooldown_epochs", "schedule.name=poly"),
    ("schedule.warmup_epochs=120", "schedule.warmup_epochs", "schedule.warmup_prefix=true"),
    ("schedule.warmup_epochs=0.5 schedule.warmup_prefix=true", "schedule.warmup_epochs", "schedule.warmup_epochs=1"),
    ("ema.warmup=true", "ema.warmup", "ema.enabled=true"),
    ("train.linear_probe=true", "model.pretrained", "model.pretrained=true"),
    (f"{PROBE} train.freeze=[level0]", "train.freeze", "train.freeze=[]"),
    (f"{PROBE} train.recompute=true", "train.recompute", "train.recompute=false"),
    (f"{PROBE} optimizer.layer_decay=0.7", "optimizer.layer_decay", "optimizer.layer_decay=null"),
    ("train.freeze=[level9.tree1]", "train.freeze", "train.freeze=[level5.tree1]"),
    (f"train.freeze={ALL_LAYERS}", "train.freeze", "train.freeze=[level0]"),
    ("data.train_root=images", "data.train", "data.train=list.txt"),
    ("data.val_root=images", "data.val", "data.val=list.txt"),
    ("train.eval_metric=top5 evaluate.topk=[1]", "evaluate.topk", "evaluate.topk=[1,5]"),
    ("train.device=cpu train.amp=bfloat16", "train.amp", "train.device=gpu"),
    ("train.device=cpu train.sync_bn=true", "train.sync_bn", "train.sync_bn=false"),
    ("model.name=dla61", "model.name", "model.name=dla60"),
    (f"model.name={PORT} model.global_pool=max", "model.global_pool", "model.global_pool=avg"),
    ("model.name=dla60 model.drop_path_rate=0.1", "model.drop_path_rate", "model.drop_path_rate=null"),
]


@pytest.mark.parametrize(("options", "key", "mend"), BROKEN, ids=[options for options, _, _ in BROKEN])
def test_options_that_do_not_go_together_are_refused_and_mended(options, key, mend):
    faults = refusal("", *options.split())
    assert any(key in fault.removeprefix("-o: ") for fault in faults)
    assert not any("unknown option" in fault for fault in faults)
    assert parse_config("", overrides=[*options.split(), *mend.split()])


@pytest.mark.parametrize("rule", RULES + CPU_RULES, ids=lambda rule: " ".join(rule.keys))
def test_each_rule_is_broken_by_one_of_these(rule):
    assert any(rule.reason in fault for options, _, _ in BROKEN for fault in refusal("", *options.split()))


@pytest.mark.parametrize("rule", RULES + CPU_RULES, ids=lambda rule: " ".join(rule.keys))
def test_each_rule_names_options_that_exist_and_accepts_the_defaults(rule):
    assert set(rule.keys) <= KNOWN.keys()
    assert not rule.broken(Config())


def test_a_fault_of_two_options_names_both_places(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("loss:\n  bce_target_thresh: 0.2\n")
    with pytest.raises(ConfigError, match=r"a.yaml:2, -o: loss.bce_target_thresh, loss.name: the threshold is"):
        load_config(file, ["loss.name=cross_entropy"])


def test_what_only_a_gpu_can_is_refused_once_the_device_is_known():
    config = parse_config("train: {amp: float16, sync_bn: true}")
    assert [fault.keys for fault in device_faults(config, "cpu")] == [("train.amp",), ("train.sync_bn",)]
    assert device_faults(config, "gpu") == []
