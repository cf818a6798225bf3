"""BatchNorm learns from differences between images: a training on batches of one is refused, not gone on with."""

import numpy as np
import pytest
from small_models import save_small
from small_runs import make_images, small_config, steps

from paddle_dla.ranks import Ranks
from paddle_dla.training.errors import TrainingError
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest

ONE = ("data.batch_size=1", "mixing.mixup_alpha=0", "mixing.cutmix_alpha=0", "data.workers=0")


@pytest.mark.parametrize("side", [32, 64])
def test_a_batch_of_one_image_is_refused_before_the_start(side, tmp_path):
    size = f"transform.train.input_size=[3, {side}, {side}]"
    config = small_config(make_images(tmp_path), tmp_path / "run", *ONE, size)
    with pytest.raises(TrainingError, match=r"data\.batch_size"):
        train(config, Ranks(), StopRequest(), lambda line: None)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_which_one_image_is_left_ends_the_run(tmp_path):
    data = make_images(tmp_path)
    for label in range(3):
        for path in (data / "train" / f"class{label}").iterdir():
            path.write_bytes(b"no image")
    options = ("data.batch_size=20", "data.max_skipped=40", "mixing.mixup_alpha=0", "mixing.cutmix_alpha=0")
    config = small_config(data, tmp_path / "run", *options, "data.workers=0", "train.epochs=20")
    for path in list((data / "train" / "class3").iterdir())[1:]:
        path.write_bytes(b"no image")
    with pytest.raises(TrainingError, match="image"):
        train(config, Ranks(), StopRequest(), lambda line: None)


def test_a_linear_probe_takes_one_image(tmp_path):
    weights = save_small(tmp_path / "small.pdparams")
    options = ("train.linear_probe=true", f"model.pretrained={weights}", "train.epochs=1", "schedule.warmup_epochs=0")
    config = small_config(make_images(tmp_path), tmp_path / "run", *ONE, *options)
    train(config, Ranks(), StopRequest(), lambda line: None)
    assert np.isfinite([step["loss"] for step in steps(tmp_path / "run")]).all()
