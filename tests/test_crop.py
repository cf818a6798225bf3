"""What a model sees in evaluation is timm's crop to the byte, whatever the file, and its floats to the bit."""

import io
import itertools
from contextlib import suppress

import numpy as np
import pytest
from odd_images import drawing, encode, odd_images
from PIL import Image, features

from paddle_dla.data import crop as crop_module
from paddle_dla.data.crop import COMPILED, FILTERS, EvalTransform, resize_crop
from paddle_dla.data.decoding import MAX_PIXELS, Decoder, decode
from paddle_dla.data.errors import ImageError
from paddle_dla.data.normalise import Normalise
from paddle_dla.preprocessing import Preprocessing

ODD = odd_images()
SPECS = {
    "dla": Preprocessing(),
    "fashion": Preprocessing((3, 32, 32), 1.0),
    "bicubic": Preprocessing((3, 160, 160), 0.95, "bicubic"),
    "not_square": Preprocessing((3, 192, 256), 0.875),
    "grey": Preprocessing((1, 64, 64), 0.9, "bilinear", (0.5,), (0.25,)),
    "padded": Preprocessing((3, 96, 96), 1.25),
    "lanczos": Preprocessing((3, 128, 128), 0.875, "lanczos"),
}
needs_compiled = pytest.mark.skipif(crop_module._pixels is None, reason="built without a C compiler")


@pytest.fixture(params=["compiled", "pillow"])
def backend(request, monkeypatch):
    """Both ways of resizing."""
    if request.param == "pillow":
        monkeypatch.setattr(crop_module, "_pixels", None)
    elif crop_module._pixels is None:
        pytest.skip("built without a C compiler")


def timm_transform(spec, **options):
    from torch_ref.model import import_timm

    import_timm()
    from timm.data import create_transform

    return create_transform(
        spec.input_size,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        mean=spec.mean,
        std=spec.std,
        **options,
    )


def opened_by_timm(data, spec):
    """As ``timm.data.ImageDataset`` opens a file."""
    return Image.open(io.BytesIO(data)).convert("RGB" if spec.input_size[0] == 3 else "L")


def assert_timms_bytes(data, spec):
    expected = np.asarray(timm_transform(spec, use_prefetcher=True)(opened_by_timm(data, spec)))
    actual = EvalTransform(spec)(decode(data)).transpose(2, 0, 1)
    assert actual.shape == spec.input_size
    assert np.abs(actual.astype(int) - expected).max() == 0


@pytest.mark.torch
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_crop_of_every_odd_image_is_timms(kind, spec, backend):
    assert_timms_bytes(ODD[kind], spec)


@pytest.mark.torch
def test_the_crop_of_every_sample_is_timms(shared_data, backend):
    files = sorted((shared_data / "imagenet_samples").glob("*.JPEG"))
    assert len(files) == 250
    for file in files:
        assert_timms_bytes(file.read_bytes(), SPECS["dla"])


@pytest.mark.torch
def test_a_crop_that_is_off_by_a_pixel_would_be_seen(monkeypatch):
    monkeypatch.setattr(crop_module, "round", lambda value: int(value + 1), raising=False)
    with pytest.raises(AssertionError):
        assert_timms_bytes(ODD["jpeg"], SPECS["dla"])


@pytest.mark.torch
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_normalised_floats_are_timms_to_the_bit(spec):
    expected = timm_transform(spec)(opened_by_timm(ODD["jpeg"], spec)).numpy()
    pixels = EvalTransform(spec)(decode(ODD["jpeg"]))
    assert np.array_equal(Normalise(spec)(pixels[np.newaxis])[0], expected)


def test_normalising_can_be_undone():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    normalise = Normalise(SPECS["dla"])
    assert np.array_equal(normalise.undo(normalise(pixels)), pixels)


def test_every_pixel_of_a_batch_is_normalised_where_it_was_asked_for():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    out = np.full((2, 3, 5, 7), np.nan, np.float32)
    assert Normalise(SPECS["dla"])(pixels, out) is out
    assert np.array_equal(out, np.stack([Normalise(SPECS["dla"])(one[np.newaxis])[0] for one in pixels]))


SIZES = (1, 2, 3, 7, 31, 32, 33, 100, 257)


@needs_compiled
@pytest.mark.parametrize("interpolation", COMPILED)
def test_the_compiled_resize_is_pillows_for_all_sizes(interpolation):
    """Enlarged, reduced, unchanged, in either direction, with the crop in a corner or in the middle."""
    rng = np.random.default_rng(1)
    for (h, w), (new_h, new_w) in itertools.product(itertools.product(SIZES, repeat=2), repeat=2):
        if (h * w + new_h * new_w) % 5:
            continue  # a fifth of the 6,561 cases, spread over all
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        top, left = rng.integers(new_h), rng.integers(new_w)
        crop = (top, left, rng.integers(1, new_h - top + 1), rng.integers(1, new_w - left + 1))
        crop = tuple(int(value) for value in crop)
        expected = np.asarray(Image.fromarray(image).resize((new_w, new_h), FILTERS[interpolation]))
        expected = expected[top : top + crop[2], left : left + crop[3]]
        assert np.array_equal(resize_crop(image, (new_h, new_w), crop, interpolation), expected)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_region_is_resized_as_if_it_were_the_image(interpolation, backend):
    image = np.asarray(drawing())
    region = (11, 20, 90, 101)
    alone = np.ascontiguousarray(image[11:101, 20:121])
    arguments = ((64, 48), (3, 4, 50, 40), interpolation)
    assert np.array_equal(resize_crop(image, *arguments, region), resize_crop(alone, *arguments))


@needs_compiled
@pytest.mark.parametrize(
    "wrong",
    [
        {"region": (0, 0, 300, 10)},
        {"region": (-1, 0, 10, 10)},
        {"crop": (0, 0, 65, 10)},
        {"crop": (0, -1, 10, 10)},
        {"size": (0, 0)},
    ],
)
def test_the_compiled_resize_refuses_what_would_leave_its_memory(wrong):
    arguments = {"size": (64, 64), "crop": (0, 0, 32, 32), "region": (0, 0, 100, 100)} | wrong
    with pytest.raises(ValueError, match="do not fit"):
        resize_crop(np.asarray(drawing()), interpolation="bilinear", **arguments)


@pytest.mark.parametrize("kind", ODD)
def test_decoding_is_pillows_with_or_without_a_buffer_used_before(kind):
    expected = np.asarray(Image.open(io.BytesIO(ODD[kind])).convert("RGB"))
    decoder = Decoder()
    decoder.decode(ODD["large"])
    assert np.array_equal(decode(ODD[kind]), expected)
    assert np.array_equal(decoder.decode(ODD[kind]), expected)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_progressive", "jpeg_cmyk", "png", "png_alpha", "gif", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_refused(kind, share):
    with pytest.raises(ImageError, match=r"damaged image|no image of a known format|refused"):
        decode(ODD[kind][: int(len(ODD[kind]) * share)])


AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF"))


@pytest.mark.parametrize("kind", ["JPEG2000", "TGA", "ICO", "QOI", "DDS", "SGI", "PCX", AVIF])
def test_damage_is_the_one_error_in_formats_that_only_call_themselves_png(kind):
    try:
        whole = encode(drawing(64, 48), kind)
    except OSError:
        pytest.skip(f"Pillow was built without {kind}")
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        with suppress(ImageError):
            decode(bytes(data))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_planes_that_cannot_be_decoded_are_the_one_error():
    """Of which Pillow's AVIF reader tells by a ``RuntimeError``, as no other does."""
    whole = encode(drawing(64, 64), "AVIF")
    planes = whole.index(b"mdat") + 4
    with pytest.raises(ImageError, match="damaged image"):
        decode(whole[:planes] + b"\xff" * (len(whole) - planes))


def test_a_program_that_calls_itself_an_image_is_not_run():
    with pytest.raises(ImageError, match="EPS is a program"):
        decode(encode(drawing(8, 8), "EPS"))


@pytest.mark.parametrize("kind", ["jpeg", "png", "jpeg_cmyk", "tiff", "gif"])
def test_damaged_bytes_give_pixels_or_the_one_error(kind):
    """What decodes is what Pillow decodes; anything else is an ``ImageError``, never a crash of another kind."""
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = bytearray(ODD[kind])
        for place in rng.integers(0, len(data), 20):
            data[place] = rng.integers(256)
        try:
            pixels = decode(bytes(data))
        except ImageError:
            refused += 1
        else:
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert refused


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(kind):
    """A header of 60,000 x 60,000 pixels, in a file of a few hundred bytes."""
    data = bytearray(encode(drawing(8, 8), kind))
    if kind == "PNG":
        data[16:24] = (60000).to_bytes(4, "big") * 2
        data[29:33] = __import__("zlib").crc32(data[12:29]).to_bytes(4, "big")
    else:
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="refused"):
        decode(bytes(data))


def test_the_limit_of_pixels_is_pillows():
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_size": (3, 0, 224)}, "input_size"),
        ({"input_size": (4, 224, 224)}, "mean and std have 4 values"),
        ({"crop_pct": 0}, "crop_pct"),
        ({"crop_pct": float("nan")}, "crop_pct"),
        ({"interpolation": "linear"}, "bilinear, bicubic"),
        ({"mean": (0.5,)}, "mean and std"),
        ({"std": (0.1, 0.0, 0.1)}, "std"),
    ],
)
def test_preprocessing_that_no_image_could_go_through_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**wrong)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_preprocessing_survives_its_json(spec):
    assert Preprocessing.from_dict(spec.as_dict()) == spec


def test_statistics_of_other_channels_are_the_average():
    grey = Preprocessing(mean=(0.1, 0.2, 0.6), std=(0.1, 0.2, 0.3)).with_channels(1)
    assert grey.input_size == (1, 224, 224)
    assert np.allclose([grey.mean, grey.std], [[0.3], [0.2]])
    assert grey.with_channels(1) is grey


def test_a_record_of_preprocessing_with_a_key_too_many_is_refused():
    with pytest.raises(ValueError, match="crop_mode"):
        Preprocessing.from_dict({**Preprocessing().as_dict(), "crop_mode": "border"})
