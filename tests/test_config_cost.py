"""What follows from a config: the learning rate, the epochs, the preprocessing, and what a training costs."""

import pytest

pytest.importorskip("yaml")

from config_parts import changed
from each import DIFFERENT, each

from paddle_dla.config import Config
from paddle_dla.config.cost import cost
from paddle_dla.models.complexity import TRUNK_MACS, forward_macs
from paddle_dla.models.variants import VARIANTS
from paddle_dla.preprocessing import Preprocessing

RATES = [
    (dict(optimizer__lr=0.3), 4096, 0.3),
    (dict(optimizer__lr_base=0.1), 512, 0.2),
    (dict(optimizer__name="lamb", optimizer__lr_base=0.1), 1024, 0.2),
    (dict(optimizer__name="adamw", optimizer__lr_base=0.1, optimizer__lr_base_scale="linear"), 1024, 0.4),
    (dict(optimizer__lr_base=0.1, optimizer__lr_base_size=512, optimizer__lr_base_scale="sqrt"), 128, 0.05),
]


@pytest.mark.parametrize(("options", "batch", "rate"), RATES)
def test_the_learning_rate_follows_the_global_batch_as_in_timm(options, batch, rate):
    assert changed(**options).optimizer.learning_rate(batch) == pytest.approx(rate, rel=1e-15)


def test_a_warm_up_prefix_and_a_cool_down_come_on_top_of_the_epochs():
    assert changed(train__epochs=10, schedule__warmup_epochs=3.0).total_epochs == 10
    longer = changed(
        train__epochs=10, schedule__warmup_epochs=3.0, schedule__warmup_prefix=True, schedule__cooldown_epochs=2
    )
    assert longer.total_epochs == 15


def test_preprocessing_is_the_models_own_where_nothing_is_said():
    own = Preprocessing(crop_pct=0.9, interpolation="lanczos")
    assert Config().transform.preprocessing(own) == own
    assert Config().preprocessing() == Preprocessing()


def test_preprocessing_is_what_the_config_says():
    said = Preprocessing((1, 64, 96), 0.95, "bicubic", (0.5,), (0.25,))
    evaluation = {f"transform__eval__{key}": getattr(said, key) for key in ("input_size", "crop_pct", "interpolation")}
    config = changed(model__in_chans=1, transform__mean=said.mean, transform__std=said.std, **evaluation)
    assert config.preprocessing() == said
    assert config.train_input_size() == (1, 64, 96)


def counted_macs(name, input_size, num_classes):
    """Multiply-accumulates of every convolution that runs, in the built network."""
    import paddle

    from paddle_dla import create_model

    model, found = create_model(name, in_chans=input_size[0], num_classes=num_classes), []

    def count(layer, inputs, output):
        found.append(layer.weight.size * output.shape[2] * output.shape[3])

    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            layer.register_forward_post_hook(count)
    model.eval()
    with paddle.no_grad():
        model(paddle.zeros([1, *input_size]))
    return int(sum(found))


@pytest.mark.parametrize("name", each(VARIANTS, DIFFERENT))
def test_macs_are_those_of_the_network(name):
    assert forward_macs(name, (3, 32, 32)) == counted_macs(name, (3, 32, 32), 1000)


def test_macs_follow_size_channels_and_classes():
    assert forward_macs("dla46x_c", (1, 64, 96), 7) == counted_macs("dla46x_c", (1, 64, 96), 7)


def test_every_variant_has_its_macs():
    assert TRUNK_MACS.keys() == VARIANTS.keys()


def test_the_cost_counts_the_passes():
    config = changed(train__epochs=2)
    forward = forward_macs("dla60", (3, 224, 224))
    assert cost(config, 10).macs == 2 * 10 * 3 * forward
    assert cost(changed(train__epochs=2, train__recompute=True), 10).macs == 2 * 10 * 4 * forward
    assert cost(changed(train__epochs=2, train__linear_probe=True), 10).macs == 2 * 10 * forward
