"""A port's folder, or a network written by hand, is a model as DLA is: built, changed, listed, described."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from each import each  # noqa: E402
from made_ports import SMALL, ByHand, make_port, sealed_again  # noqa: E402

from paddle_dla import create_model, list_models  # noqa: E402
from paddle_dla.loading import load_model  # noqa: E402
from paddle_dla.models.ported import open_port  # noqa: E402
from paddle_dla.models.registry import ModelError, find_model  # noqa: E402
from paddle_dla.models.variants import VARIANTS  # noqa: E402
from paddle_dla.optim import layer_decay_groups, weight_decay_groups  # noqa: E402
from paddle_dla.storage.errors import CheckpointError  # noqa: E402
from torch_ref.model import import_timm  # noqa: E402


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    made, parent = {}, tmp_path_factory.mktemp("ports")

    def port(name):
        if name not in made:
            made[name] = make_port(name, parent, *SMALL.get(name, ["--input-shape", "3x64x64"]))
        return made[name]

    return port


@pytest.fixture(params=SMALL)
def port(request, ports):
    return ports(request.param)


def images(model, count=2, seed=0):
    size = find_model(model).card.preprocessing.input_size
    return np.random.RandomState(seed).standard_normal((count, *size)).astype("float32")


def reference(folder, **options):
    """timm's model with the port's weights, adapted as timm does it."""
    timm = import_timm()
    name, built = Path(folder).name, json.loads((Path(folder) / "card.json").read_text())["reference"]["options"]
    from convert.porting.opening import reference_of

    weights = reference_of(Path(folder))[0].state_dict()
    model = timm.create_model(name, pretrained=False, **{**built, **options})
    stem = f"{model.pretrained_cfg['first_conv']}.weight"
    weights[stem] = timm.models.adapt_input_conv(options.get("in_chans", 3), weights[stem])
    own = model.state_dict()
    left = model.load_state_dict({k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}, False)
    return model.eval(), left.missing_keys


def run(model, x):
    with paddle.no_grad():
        return model(paddle.to_tensor(x))


# --- create_model -----------------------------------------------------------------------------------------------------


def test_a_port_with_its_own_weights_is_the_open_port(port):
    model, x = create_model(port, pretrained=True), images(port)
    model.eval()
    assert np.array_equal(run(model, x).numpy(), run(open_port(port), x).numpy())


def test_another_head_and_other_channels_are_timms(port):
    with pytest.warns(UserWarning, match="untrained head") as told:
        model = create_model(port, pretrained=True, num_classes=5, in_chans=1)
    assert not [warning for warning in told if "Skip loading" in str(warning.message)]  # Paddle's own words
    model.eval()
    theirs, missing = reference(port, num_classes=5, in_chans=1)
    classifier = model.card.classifier
    assert {*missing} <= {f"{classifier}.weight", f"{classifier}.bias"} and model.num_classes == 5
    layer = dict(theirs.named_modules())[classifier]
    with torch.no_grad():
        weight = torch.from_numpy(model.get_classifier().weight.numpy())
        layer.weight.copy_(weight.T if weight.ndim == 2 else weight)
        layer.bias.copy_(torch.from_numpy(model.get_classifier().bias.numpy()))
        x = images(port)[:, :1]
        expected = theirs(torch.from_numpy(x)).numpy()
    # float32 through some ten layers
    assert np.abs(run(model, x).numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_new_head_begins_as_torchs(port):
    paddle.seed(0)
    weight = create_model(port, num_classes=400).get_classifier().weight.numpy()
    fan_in = weight.shape[0] if weight.ndim == 2 else weight.shape[1]
    # uniform: the largest of thousands of draws is near the bound, the deviation is the bound / sqrt(3)
    assert 0.99 < np.abs(weight).max() * fan_in**0.5 <= 1 and abs(weight.std() * (3 * fan_in) ** 0.5 - 1) < 0.02


def test_without_classes_it_returns_what_the_classifier_reads(port):
    whole, headless, x = create_model(port, pretrained=True), create_model(port, pretrained=True, num_classes=0), None
    x = images(port)
    whole.eval(), headless.eval()
    with paddle.no_grad():
        read = whole.pre_logits(paddle.to_tensor(x)).numpy()
    assert np.array_equal(run(headless, x).numpy(), read.reshape(run(headless, x).shape))


def test_feature_maps_are_timms(port):
    model = create_model(port, pretrained=True, features_only=True)
    model.eval()
    x = images(port)
    maps = run(model, x)
    assert [info["module"] for info in model.out_info] == [level["module"] for level in model.card.levels]
    if Path(port).name == "test_vit":  # timm's own maps are reshaped and normalised there
        return
    theirs = reference(port)[0]
    seen = []
    for info in model.out_info:
        dict(theirs.named_modules())[info["module"]].register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    with torch.no_grad():
        theirs(torch.from_numpy(x))
    for ours, expected in zip(maps, seen, strict=True):
        assert np.abs(ours.numpy() - expected.numpy()).max() <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", each([*SMALL, "resnet18"], SMALL))
def test_forward_features_is_timms(ports, name):
    folder = ports(name)
    model, theirs = create_model(folder, pretrained=True), reference(folder)[0]
    model.eval()
    x = np.random.RandomState(0).standard_normal((2, 3, 64, 64)).astype("float32")
    behind = []
    model.get_classifier().register_forward_post_hook(lambda *_: behind.append(1))
    ours = run_features(model, x)
    with torch.no_grad():
        expected = theirs.forward_features(torch.from_numpy(x)).numpy()
    assert tuple(ours.shape) == expected.shape and not behind
    assert np.abs(ours.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()
    model(paddle.to_tensor(x))
    assert behind, "the next pass runs to the end"


def run_features(model, x):
    with paddle.no_grad():
        return model.forward_features(paddle.to_tensor(x))


def test_forward_features_has_a_gradient(port):
    model = create_model(port, pretrained=True)
    model.train()
    model.forward_features(paddle.to_tensor(images(port))).square().mean().backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert f"{model.card.first_conv}.weight" in got and f"{model.card.classifier}.weight" not in got


def test_a_card_without_a_layer_of_features_says_so(ports, tmp_path):
    folder = Path(shutil.copytree(ports("test_resnet"), tmp_path / "port"))
    card = json.loads((folder / "card.json").read_text())
    assert card.pop("features") == "layer4"
    (folder / "card.json").write_text(json.dumps(card))
    sealed_again(folder)  # as before there was such an entry
    with pytest.raises(ModelError, match="features"):
        run_features(create_model(folder), images(folder))
    sealed_again(folder, features="layer5")
    with pytest.raises(ModelError, match="layer5"):
        create_model(folder)


def test_drop_rate_drops_what_the_classifier_reads(ports):
    folder = ports("test_resnet")
    model, x = create_model(folder, pretrained=True, drop_rate=0.5, num_classes=0), images(folder)
    model.eval()
    kept = run(model, x).numpy()
    model.train()
    for layer in model.sublayers():
        if "BatchNorm" in type(layer).__name__:
            layer.eval()
    paddle.seed(0)
    dropped = run(model, x).numpy()
    gone = dropped == 0
    # 2 x some hundred features at rate 0.5; what is left is scaled by 1 / (1 - rate)
    assert 0.3 < gone[kept != 0].mean() < 0.7
    assert np.allclose(dropped[~gone], 2 * kept[~gone], rtol=1e-5)


def test_stochastic_depth_is_scaled_where_there_is_any(tmp_path):
    from convert.port import main

    build = ["--torch", "timm:create_model", "--torch-args", '{"model_name": "test_convnext", "drop_path_rate": 0.1}']
    folder = str(tmp_path / "port")
    assert main([*build, "--input-shape", "3x64x64", "--eval-only", "--output", folder]) == 0
    rates = [layer.drop_prob for layer in create_model(folder, drop_path_rate=0.4).sublayers()
             if hasattr(layer, "drop_prob")]  # fmt: skip
    timm = import_timm()
    theirs = timm.create_model("test_convnext", drop_path_rate=0.4)
    expected = [layer.drop_prob for layer in theirs.modules() if hasattr(layer, "drop_prob")]
    assert rates == pytest.approx([rate for rate in expected if rate], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop_path_rate": 0.1}, "stochastic depth"),
        ({"output_stride": 8}, "output_stride"),
        ({"global_pool": "max"}, "pooling"),
        ({"drop_rate": 1.5}, "drop_rate"),
        ({"features_only": True, "out_indices": (9,)}, "feature levels"),
    ],
)
def test_what_a_port_cannot_do_is_refused(ports, options, said):
    with pytest.raises(ValueError, match=said):
        create_model(ports("test_resnet"), **options)


# --- what training asks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda *a: layer_decay_groups(*a, 0.5), weight_decay_groups])
def test_parameter_groups_are_timms(port, make):
    import_timm()
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    theirs = reference(port)[0]
    never = theirs.no_weight_decay() if hasattr(theirs, "no_weight_decay") else ()
    if make is weight_decay_groups:
        expected = param_groups_weight_decay(theirs, 0.1, no_weight_decay_list=never)
    else:
        expected = param_groups_layer_decay(theirs, 0.1, no_weight_decay_list=never, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    wanted = {names[id(parameter)]: (group["weight_decay"], group.get("lr_scale", 1.0))
              for group in expected for parameter in group["params"]}  # fmt: skip
    found = {name: (group.weight_decay, group.lr_scale) for group in make(create_model(port), 0.1)
             for name in group.parameters}  # fmt: skip
    assert found == wanted


# --- found and listed -------------------------------------------------------------------------------------------------


def test_ports_are_listed_by_their_folders(ports, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ports("test_vit"), tmp_path / "ports" / "mine")
    monkeypatch.setenv("PADDLE_DLA_PORTS", str(Path(ports("test_vit")).parent))
    assert list_models()[: len(VARIANTS)] == list(VARIANTS)
    assert {"ports/mine", ports("test_vit")} <= {*list_models()}
    assert list_models("ports/*") == ["ports/mine"]
    assert find_model("ports/mine").name == "test_vit"
    with pytest.raises(ModelError, match="ports/mine"):
        find_model("mines")


def test_a_checkpoint_does_not_choose_which_source_is_run(ports):
    folder = ports("test_vit")
    with pytest.raises(ValueError, match="--model"):
        load_model(None, f"{folder}/weights.pdparams")
    assert load_model(folder, f"{folder}/weights.pdparams").name == "test_vit"


def test_drafts_and_changed_sources_are_refused(ports, tmp_path):
    draft = Path(shutil.copytree(ports("test_vit"), tmp_path / "draft"))
    sealed_again(draft, proved=False)
    with pytest.raises(CheckpointError, match="draft"):
        create_model(draft)
    sealed_again(draft, proved=True)
    (draft / "model.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(CheckpointError, match="changed"):
        create_model(draft)


def test_a_card_that_names_what_is_not_there_is_refused(ports, tmp_path):
    wrong = Path(shutil.copytree(ports("test_vit"), tmp_path / "wrong"))
    sealed_again(wrong, classifier="fc")
    with pytest.raises(ModelError, match="classifier 'fc'"):
        create_model(wrong)


def test_a_folder_that_is_no_port_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no port"):
        create_model(tmp_path)


def test_the_last_weights_are_those_of_the_card(ports):
    loaded = load_model(ports("test_resnet"), None)
    assert loaded.num_classes == 1000 and loaded.source.endswith("weights.pdparams")
    assert loaded.preprocessing == find_model(ports("test_resnet")).card.preprocessing and not loaded.assumed


# --- written by hand --------------------------------------------------------------------------------------------------


def test_a_network_written_by_hand_is_a_model(tmp_path):
    model = create_model("made_ports:ByHand", num_classes=3, in_chans=1)
    assert isinstance(model, ByHand) and run(model, np.zeros((2, 1, 32, 32), "float32")).shape == [2, 3]
    assert len(layer_decay_groups(model, 0.0, 0.5)) == 3
    maps = run(create_model("made_ports:ByHand", features_only=True), np.zeros((1, 3, 32, 32), "float32"))
    assert [list(one.shape) for one in maps] == [[1, 4, 16, 16], [1, 8, 8, 8]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("made_ports:Cardless", "has no card"),
        ("made_ports:HalfCard", "classifier, first_conv"),
        ("made_ports:Nothing", "not found"),
        ("no_such_module:Net", "not found"),
        (":Net", "package.module:function"),
        (".made_ports:Net", "not found"),
        ("made_to_end:Net", "SystemExit"),
        ("made_of_nothing:Net", "SyntaxError"),
        ("made_ports:ending", "SystemExit"),
    ],
)
def test_what_a_card_lacks_is_named(name, said, tmp_path, monkeypatch):
    (tmp_path / "made_to_end.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "made_of_nothing.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=said):
        create_model(name)
