"""Properties of the Paddle models alone: interface, inputs, initialisation, weights from files. No torch."""

import math

import numpy as np
import paddle
import pytest
from each import EXTREMES, each
from numpy_weights import images, timm_weights

from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import create_model, list_models, weight_files
from paddle_dla.models.variants import VARIANTS
from paddle_dla.weight_files import CheckpointError

SMALL = "dla46x_c"
# one of each kind of block
KINDS = ("dla34", "dla46_c", "dla46x_c", "dla60_res2next")


def tensor(**kwargs):
    return paddle.to_tensor(images(**kwargs), dtype="float32")


def test_list_models_filters_by_pattern():
    assert list_models() == list(VARIANTS)
    assert list_models("*res2*") == ["dla60_res2net", "dla60_res2next"]


@pytest.mark.parametrize("shape", [(1, 3, 33, 32), (1, 3, 32, 48), (1, 3, 16, 16), (1, 3, 0, 32)])
def test_a_side_that_cannot_be_halved_is_refused(shape):
    with pytest.raises(ValueError, match="sides must be multiples of 32"):
        create_model(SMALL)(paddle.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 4, 32, 32)])
def test_another_number_of_channels_is_refused(shape):
    with pytest.raises(ValueError, match=f"expected 3 input channels .* got {shape[1]}"):
        create_model(SMALL)(paddle.zeros(shape))


def test_an_image_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"expected a batch of images \(B, 3, H, W\)"):
        create_model(SMALL)(paddle.zeros((3, 32, 32)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(output_stride=4), "output_stride 4 is not supported; one of 8, 16, 32"),
        (dict(global_pool="mean"), "unknown global_pool 'mean'; one of 'avg', 'max'"),
        (dict(drop_rate=1.0), r"drop_rate must be in \[0, 1\)"),
        (dict(num_classes=-1), "num_classes must be 0 or more"),
        (dict(in_chans=0), "in_chans must be at least 1"),
        (dict(features_only=True, out_indices=(1, 6)), r"level indices \[6\] are out of range"),
        (dict(features_only=True, out_indices=()), "out of range"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_model(SMALL, **options)


@pytest.mark.parametrize("name", each(KINDS, EXTREMES))
@pytest.mark.parametrize("stride", [8, 16])
def test_dense_features_sampled_at_the_original_grid_are_the_original_features(name, stride):
    arrays = convert_source(source_from_arrays(timm_weights(name)), name).arrays
    features = []
    for output_stride in (32, stride):
        model = create_model(name, output_stride=output_stride)
        model.set_state_dict(arrays)
        model.to(dtype="float64").eval()
        features.append(model.forward_features(paddle.to_tensor(images(size=128))).numpy())
    original, dense = features
    assert dense.shape[2] == 128 // stride
    sampled = dense[:, :, :: 32 // stride, :: 32 // stride]
    # float64 rounding alone; a tap at the wrong place changes the features by their own size
    np.testing.assert_allclose(sampled, original, rtol=0, atol=1e-12 * np.abs(original).max())


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dense_model_takes_sides_that_are_multiples_of_its_stride(stride):
    model = create_model(SMALL, output_stride=stride)
    assert model(tensor(size=3 * stride)).shape == [1, 1000]


@pytest.mark.parametrize("frozen", ["", "base_layer", "level2"])
@pytest.mark.parametrize("name", each(KINDS, EXTREMES))
def test_recomputation_changes_neither_gradients_nor_statistics(name, frozen):
    def step(checkpointing):
        paddle.seed(0)
        model = create_model(name, num_classes=10).to(dtype="float64")
        model.train()
        for key, parameter in model.named_parameters():  # everything up to the layer that is named
            parameter.stop_gradient |= key <= f"{frozen}~" if frozen else False
        model.set_grad_checkpointing(checkpointing)
        model(paddle.to_tensor(images(batch=2))).square().mean().backward()
        gradients = {key: p.grad.numpy() for key, p in model.named_parameters() if not p.stop_gradient}
        assert any(key.startswith("level3") for key in gradients)
        return gradients, {key: value.numpy() for key, value in model.state_dict().items()}

    (kept, kept_state), (recomputed, recomputed_state) = step(False), step(True)
    assert all(np.array_equal(kept_state[key], recomputed_state[key]) for key in kept_state)
    for key, gradient in kept.items():
        # the sums of a block's two gradients are added in another order: float64 rounding, and no more
        limit = 1e-12 * np.abs(gradient).max()
        np.testing.assert_allclose(recomputed[key], gradient, rtol=0, atol=limit, err_msg=key)


def test_recomputation_keeps_fewer_activations():
    def kept(checkpointing):
        model = create_model("dla34", num_classes=10)
        model.train()
        model.set_grad_checkpointing(checkpointing)
        held = []
        with paddle.autograd.saved_tensors_hooks(lambda t: held.append(t.size) or t, lambda t: t):
            model(tensor(batch=2))
        return sum(held)

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4, 5), (1, 3), (-1,)])
def test_features_are_the_outputs_of_the_levels(out_indices):
    model = create_model(SMALL, features_only=True, out_indices=out_indices)
    model.eval()
    maps = model(tensor())
    wanted = sorted(i % 6 for i in out_indices)
    assert [info["module"] for info in model.out_info] == [f"level{i}" for i in wanted]
    assert [m.shape[1:] for m in maps] == [
        [info["num_chs"], 64 // info["reduction"], 64 // info["reduction"]] for info in model.out_info
    ]


def test_levels_behind_the_last_wanted_one_are_not_built():
    names = create_model(SMALL, features_only=True, out_indices=(2,)).state_dict()
    assert {name.split(".")[0] for name in names} == {"base_layer", "level0", "level1", "level2"}


def test_features_of_a_shallow_extractor_need_smaller_multiples_only():
    maps = create_model(SMALL, features_only=True, out_indices=(2,))(tensor(size=36))
    assert maps[0].shape == [1, 64, 9, 9]


def test_convolutions_start_with_the_spread_that_timm_gives_them():
    paddle.seed(0)
    for name, value in create_model("dla60").state_dict().items():
        array = value.numpy()
        if array.ndim == 4 and array.size > 10_000:
            out_channels, _, kh, kw = array.shape
            expected = math.sqrt(2 / (kh * kw * out_channels))
            # the standard error of a standard deviation is 1 / sqrt(2 n): five of them
            assert abs(array.std() / expected - 1) < 5 / math.sqrt(2 * array.size), name
            assert abs(array.mean()) < 5 * expected / math.sqrt(array.size), name


def test_a_reset_classifier_starts_as_a_torch_convolution():
    model = create_model("dla34")
    model.reset_classifier(200)
    bound = 1 / math.sqrt(512)
    for parameter in (model.fc.weight, model.fc.bias):
        values = parameter.numpy()
        assert np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_batch_norm_refuses_a_single_value_per_channel_in_training():
    model = create_model(SMALL)
    model.train()
    with pytest.raises(ValueError, match="more than one value per channel"):
        model(tensor(size=32))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pdparams"
    conversion = convert_source(source_from_arrays(timm_weights(SMALL)), SMALL)
    weight_files.save(path, conversion.arrays, conversion.manifest)
    return path


def same_weights(model, arrays, but=()):
    return all(np.array_equal(v.numpy(), arrays[k]) for k, v in model.state_dict().items() if k not in but)


def test_pretrained_takes_a_converted_file(converted):
    arrays, _ = weight_files.read(converted)
    assert same_weights(create_model(SMALL, pretrained=converted), arrays)


def test_pretrained_takes_a_timm_file(converted, tmp_path):
    from safetensors.numpy import save_file

    save_file(timm_weights(SMALL), tmp_path / "model.safetensors")
    arrays, _ = weight_files.read(converted)
    assert same_weights(create_model(SMALL, pretrained=tmp_path / "model.safetensors"), arrays)


def test_pretrained_weights_serve_a_feature_extractor(converted):
    arrays, _ = weight_files.read(converted)
    assert same_weights(create_model(SMALL, pretrained=converted, features_only=True, out_indices=(1, 3)), arrays)


def test_pretrained_weights_serve_a_dense_model(converted):
    arrays, _ = weight_files.read(converted)
    assert same_weights(create_model(SMALL, pretrained=converted, output_stride=8), arrays)


def test_another_number_of_classes_starts_a_new_head(converted):
    arrays, _ = weight_files.read(converted)
    with pytest.warns(UserWarning, match="has 1000 classes, the model 7: the model keeps its own, untrained head"):
        model = create_model(SMALL, pretrained=converted, num_classes=7)
    assert same_weights(model, arrays, but=("fc.weight", "fc.bias"))
    assert model(tensor()).shape == [1, 7]


def test_no_classes_leave_the_pooled_features(converted):
    arrays, _ = weight_files.read(converted)
    model = create_model(SMALL, pretrained=converted, num_classes=0)
    assert same_weights(model, arrays)
    assert model(tensor()).shape == [1, 256]


def test_grey_images_see_the_sum_of_the_stem(converted):
    arrays, _ = weight_files.read(converted)
    model = create_model(SMALL, pretrained=converted, in_chans=1)
    np.testing.assert_array_equal(
        model.base_layer[0].weight.numpy(), arrays["base_layer.0.weight"].sum(1, keepdims=True)
    )


def test_a_file_of_another_model_is_refused(converted):
    with pytest.raises(CheckpointError, match="holds dla46x_c, not dla60"):
        create_model("dla60", pretrained=converted)


def test_a_file_without_manifest_loads_with_a_warning(converted, tmp_path):
    bare = tmp_path / "bare.pdparams"
    bare.write_bytes(converted.read_bytes())
    with pytest.warns(UserWarning, match="unverified"):
        create_model(SMALL, pretrained=bare)


def test_weights_that_do_not_fit_are_listed_from_both_sides(tmp_path):
    conversion = convert_source(source_from_arrays(timm_weights("dla46_c")), "dla46_c")
    path = tmp_path / "other.pdparams"
    paddle.save(dict(conversion.arrays), str(path))
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="does not fit") as caught:
        create_model("dla60x_c", pretrained=path)
    message = str(caught.value)
    for words in ("missing in the file", "not in the model", "the file has shape"):
        assert words in message
