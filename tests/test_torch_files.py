"""What torch saves is read without torch, to the bit, in both of its formats and whatever lies beside the tensors."""

import argparse
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

from convert.torch_file import CodeError, TorchTensor, UnreadObject, read_torch_file

pytestmark = pytest.mark.torch
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
TYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


@pytest.fixture
def saved(tmp_path):
    """Saves a value with torch and reads it back: ``saved(value, zipped)``."""

    def back(value, zipped, **options):
        import torch

        torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped, **options)
        return read_torch_file(tmp_path / "x.pth")

    return back


def bits(tensor):
    """Type, shape and bytes of a tensor of torch's."""
    import torch

    plain = tensor.detach().contiguous()
    raw = plain.view(torch.int16).numpy() if plain.dtype == torch.bfloat16 else plain.numpy()
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), raw.tobytes()


def same(read, tensor):
    stored = read.stored()
    return (stored.dtype, stored.shape, stored.raw.tobytes()) == bits(tensor)


@FORMATS
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_is_read_to_the_bit(dtype, zipped, saved):
    import torch

    tensor = torch.from_numpy(np.random.RandomState(0).randint(0, 2, (3, 4, 5))).to(getattr(torch, dtype))
    assert same(saved({"x": tensor}, zipped)["x"], tensor)


@FORMATS
def test_every_layout_is_read_to_the_bit(zipped, saved):
    import torch

    whole = torch.randn(4, 6)
    layouts = {
        "transposed": whole.t(),
        "a part": whole[1:3, ::2],
        "expanded": torch.randn(1).expand(5, 3),
        "the same again": whole,
        "no dimensions": torch.tensor(2.5),
        "no elements": torch.empty(0, 3),
        "a parameter": torch.nn.Parameter(torch.randn(3)),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }
    back = saved(layouts, zipped)
    assert {name: same(back[name], tensor) for name, tensor in layouts.items()} == dict.fromkeys(layouts, True)


@pytest.mark.parametrize("kind", ["negated", "conjugated"])
def test_a_view_whose_sign_is_only_a_mark_is_never_read_with_the_other_sign(kind, saved):
    """torch stores the numbers that the view is of, and beside them what is still to be done."""
    import torch

    tensor = torch._neg_view(torch.ones(3)) if kind == "negated" else torch.ones(3, dtype=torch.complex64).conj()
    read = saved({"x": tensor}, zipped=True)["x"]
    assert isinstance(read, UnreadObject) and "resolve_neg" in read.kind


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_training_keeps_beside_the_weights_does_no_harm(protocol, zipped, saved):
    import torch

    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, sizes=(1, (2, 3)), device=torch.device("cpu"), dtype=torch.float16),
        "metric": np.float64(76.5),
        "history": defaultdict(list, a=[1]),
        "counts": Counter("abc"),
        "shape": torch.Size([2, 3]),
        "by place": {(0, "x"): 1, 3: 2, 0.5: None},
        "order": OrderedDict(a=1, b=2),
        "names": tuple(f"class {number}" for number in range(1000)),
    }
    back = saved(content, zipped, pickle_protocol=protocol)
    assert {name: same(back["state_dict"][name], tensor) for name, tensor in model.state_dict().items()} == {
        "weight": True,
        "bias": True,
    }
    assert same(back["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert back["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert back["shape"] == (2, 3) and back["by place"] == content["by place"] and back["names"] == content["names"]
    assert back["order"] == {"a": 1, "b": 2}
    assert isinstance(back["args"], UnreadObject) and isinstance(back["metric"], UnreadObject)


@FORMATS
@pytest.mark.parametrize("kind", ["sparse", "quantised", "float8", "meta"])
def test_a_tensor_of_another_kind_is_no_tensor(kind, zipped, saved):
    import torch

    made = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
        "float8": lambda: torch.randn(3).to(torch.float8_e4m3fn),
        "meta": lambda: torch.empty(3, device="meta"),
    }
    back = saved({"x": made[kind](), "y": torch.ones(2)}, zipped)
    assert isinstance(back["x"], UnreadObject)
    assert isinstance(back["y"], TorchTensor) and same(back["y"], torch.ones(2))


@FORMATS
def test_code_is_named(zipped, saved):
    import torch

    with pytest.raises(CodeError) as found:
        saved(torch.nn.Linear(1, 1), zipped)
    assert found.value.name == "torch.nn.modules.linear.Linear"


@FORMATS
def test_memory_is_the_files_own(zipped, saved):
    """A tensor is a view of the mapped file, not a copy."""
    import torch

    stored = saved({"x": torch.randn(1000)}, zipped)["x"].stored()
    assert not stored.raw.flags.owndata and not stored.raw.flags.writeable
