"""The table of variants and the names under which a model is found."""

import pytest

from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import VARIANTS, resolve_name

PADDLECLAS = ["DLA34", "DLA46_c", "DLA46x_c", "DLA60", "DLA60x", "DLA60x_c", "DLA102", "DLA102x", "DLA102x2", "DLA169"]


@pytest.mark.parametrize("spelling", ["{}", "{}.in1k", "timm/{}.in1k", "hf-hub:timm/{}.in1k"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_spelling_of_timm_names_the_variant(name, spelling):
    assert resolve_name(spelling.format(name)) == name


@pytest.mark.parametrize("name", PADDLECLAS)
def test_every_name_of_paddleclas_is_an_alias(name):
    assert resolve_name(name) == name.lower()


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'dla6O'.*dla60"):
        resolve_name("dla6O")


def test_what_is_published_covers_every_variant():
    assert PRETRAINED.keys() == VARIANTS.keys()


@pytest.mark.torch
def test_the_names_are_those_of_timm():
    from torch_ref.model import import_timm

    assert sorted(VARIANTS) == sorted(import_timm().list_models("dla*"))


@pytest.mark.torch
@pytest.mark.parametrize("name", VARIANTS)
def test_preprocessing_and_hub_id_are_those_of_timm(name):
    config = timm_config(name)
    spec = PRETRAINED[name].preprocessing
    assert PRETRAINED[name].hub_id == config.hf_hub_id
    assert spec.input_size == config.input_size
    assert (spec.crop_pct, spec.interpolation) == (config.crop_pct, config.interpolation)
    assert (spec.mean, spec.std) == (config.mean, config.std)


def timm_config(name):
    from torch_ref.model import import_timm

    import_timm()
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(name)
