"""A file of arrays that somebody else made ends in an array or in one error: soon, in little memory, without a crash.

Each reader gets every attack in a process of its own, whose memory is limited; a crash or a wait names the attack.
"""

import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from convert.readers import read_source
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.limited_pickle import DEEPEST, MOST_STEPS
from paddle_dla.storage.pdparams import read_pdparams

# --- opcodes ---------------------------------------------------------------------------------------------------------


def text(value):
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def shared(levels):
    """A tuple of a tuple twice, of a tuple twice, ...: small in the file, 2**levels long for a hash or a repr."""
    return b")" + b"".join(b"q%ch%c\x86" % (level, level) for level in range(levels))


def long(data):
    return b"\x8e" + len(data).to_bytes(8, "little") + data


SHARED, DEEP = shared(60), b"N" + b"\x85" * 200_000
ARRAY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\0\x85C\x01b\x87R"
FLOATS = name("numpy", "dtype") + text("f4") + b"\x89\x88\x87R"
BYTES = name("numpy", "dtype") + text("i1") + b"\x89\x88\x87R"
STATE = b"(K\x01K\x01\x85" + FLOATS + b"\x89"

# what is put into a dict under the name "x"; a comment says what it does to an unpickler that trusts it
ATTACKS = {
    "a key of shared tuples": b"}" + SHARED + b"Ns",  # hashes for ever
    "a key of deep tuples": b"}" + DEEP + b"Ns",  # overflows the stack of the process
    "keys of shared tuples, together": b"}(" + SHARED + b"Nu",
    "a set of shared tuples": b"\x8f(" + SHARED + b"\x90",
    "a frozen set of shared tuples": b"(" + SHARED + b"\x91",
    "a shared tuple beside the weights": SHARED,  # shown in a message, by its repr
    "deep tuples beside the weights": DEEP,
    "a deep list": b"]" * 200_000 + b"a" * 199_999,
    "a deep dict": (b"}" + text("x")) * 100_000 + b"N" + b"s" * 100_000,
    "a shared tuple for an encoding": name("_codecs", "encode") + text("x") + SHARED + b"\x86R",
    "a shared tuple for a type": name("numpy", "dtype") + SHARED + b"\x85R",
    "a shared tuple for a byte order": name("numpy", "dtype") + text("f4") + b"\x85R(K\x03" + SHARED + b"tb",
    "a shared tuple for a shape": ARRAY + b"(K\x01" + SHARED + FLOATS + b"\x89C\x04AAAAtb",
    "a shared tuple for bytes": ARRAY + STATE + SHARED + b"tb",
    "a shared tuple as a name": b"\x8c\x05numpy" + SHARED + b"\x93",
    "a shared tuple that is called": SHARED + b")R",
    "a shared tuple that gets a state": SHARED + b"Nb",
    "a shared tuple as a storage": SHARED + b"Q",
    "a shared tuple as a pair": name("collections", "OrderedDict") + b"]]" + SHARED + b"aNaa\x85R",
    "a list that holds itself": b"]q\0h\0a",
    "twenty gigabytes of zeros": b"\x96" + (20 << 30).to_bytes(8, "little"),
    "a text that is longer than the file": b"\x8d" + (1 << 40).to_bytes(8, "little") + b"x",
    "bytes that are longer than the file": b"\x8e" + (1 << 33).to_bytes(8, "little") + b"x",
    "a frame that is longer than the file": b"\x95" + (1 << 40).to_bytes(8, "little"),
    "five million marks": b"(" * 5_000_000,
    "five million memos": b"N" + b"\x94" * 5_000_000,
    "five million dicts": b"(" + b"}" * 5_000_000 + b"t",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a text encoded a thousand times": text("x" * 8_000_000) + b"q\0"
    + (name("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R0") * 1000,
    "arrays of one text": text("x" * 8_000_000) + b"q\0("
    + (ARRAY + b"(K\x01J\x00\x12\x7a\x00\x85" + BYTES + b"\x89h\0tb") * 1000 + b"t",
    "an array of 2**62 elements": ARRAY + b"(K\x01\x8a\x08\0\0\0\0\0\0\0\x40\x85" + FLOATS + b"\x89C\x04AAAAtb",
    "a name of a million characters": b"c" + b"m" * 1_000_000 + b"\nn\n",
}  # fmt: skip


def weights_and(attack):
    return b"\x80\x04}(" + text("x") + ATTACKS[attack] + b"u."


def as_stream(attack):
    """In the format of torch before 1.6: three pickles go before the content, one follows."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + weights_and(attack) + pickle.dumps([], 2)


def as_zip(attack):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", weights_and(attack))
    return content.getvalue()


def as_npy(attack):
    content = io.BytesIO()
    npy.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": ()})
    return content.getvalue() + weights_and(attack)


READERS = {
    ".pdparams": ("paddle_dla.storage.pdparams", "read_pdparams", weights_and),
    "zip.pth": ("convert.readers", "read_source", as_zip),
    "stream.pth": ("convert.readers", "read_source", as_stream),
    ".npy": ("alignment.reprod_files", "read_reprod", as_npy),
}

READ_ALL = """
import importlib, resource, sys
from paddle_dla.storage.errors import CheckpointError
module, function, *paths = sys.argv[1:]
read = getattr(importlib.import_module(module), function)
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
for path in paths:
    print(path, end=" ", flush=True)
    try:
        read(path)
        print("read", flush=True)
    except CheckpointError as error:
        assert len(str(error)) < 2000, len(str(error))
        print("refused", flush=True)
"""


@pytest.mark.parametrize("reader", READERS)
def test_every_attack_ends_in_one_error(reader, tmp_path):
    module, function, made = READERS[reader]
    paths = {str(tmp_path / f"{number}{reader}"): attack for number, attack in enumerate(ATTACKS)}
    for path, attack in paths.items():
        with open(path, "wb") as file:
            file.write(made(attack))
    command = [sys.executable, "-c", READ_ALL, module, function, *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        output, ended = done.stdout, f"code {done.returncode}: {done.stderr[-500:]}"
    except subprocess.TimeoutExpired as error:
        output, ended = error.stdout.decode(), "it never ended"
    lines = [line.split(" ") for line in output.splitlines()]
    outcomes = {paths[path]: outcome or ended for path, outcome in lines}
    assert outcomes == dict.fromkeys(ATTACKS, "refused")


# --- the limits themselves -------------------------------------------------------------------------------------------


def test_the_limits_are_as_stated(tmp_path):
    path = tmp_path / "x.pdparams"
    for steps, why in ((MOST_STEPS - 10, "tuple, not a named"), (MOST_STEPS + 1, "opcodes")):
        path.write_bytes(b"\x80\x04}" + text("x") + b"(" + b"N" * steps + b"ts.")
        with pytest.raises(CheckpointError, match=why):
            read_pdparams(path)
    for depth, why in ((DEEPEST, "tuple, not a named"), (DEEPEST + 1, "nested")):
        path.write_bytes(b"\x80\x04}" + text("x") + b")" + b"\x85" * (depth - 1) + b"s.")
        with pytest.raises(CheckpointError, match=why):
            read_pdparams(path)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_an_honest_file_of_many_arrays_is_read(protocol, tmp_path):
    arrays = {f"layer{number}.weight": np.full(3, number, np.float32) for number in range(20_000)}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, protocol))
    back = read_pdparams(tmp_path / "x.pdparams")
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())


def plain(value):
    return pickle.dumps(value, 2)[2:-1]


def torch_zip(path, shape, strides, offset, stored=b"\0" * 24, elements=6):
    """A file as ``torch.save`` writes it, of one tensor over 6 floats."""
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + plain(elements) + b"tQ"
    state = b"(" + storage + plain(offset) + plain(shape) + plain(strides) + b"\x89}t"
    with zipfile.ZipFile(path, "w") as archive:
        made = b"\x80\x02}" + text("x") + name("torch._utils", "_rebuild_tensor_v2") + state + b"Rs."
        archive.writestr("archive/data.pkl", made)
        archive.writestr("archive/data/0", stored)


def test_the_tensor_below_would_be_read(tmp_path):
    torch_zip(tmp_path / "x.pth", (3, 2), (2, 1), 0, np.arange(6, dtype=np.float32).tobytes())
    expected = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(read_source(tmp_path / "x.pth").tensors["x"].raw, expected)
    torch_zip(tmp_path / "x.pth", (2, 3), (1, 2), 0, np.arange(6, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(read_source(tmp_path / "x.pth").tensors["x"].raw, expected.T)


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "more"),
    [
        ((7,), (1,), 0, {}),
        ((2, 3), (4, 1), 0, {}),
        ((6,), (1,), 1, {}),
        ((2**40,), (0,), 0, {}),
        ((0, 2**61), (1, 1), 0, {}),
        ((3, 2), (2, 1), 0, {"stored": b"\0" * 23}),
        ((3, 2), (2, 1), 0, {"elements": 2**61}),
        ((-1,), (1,), 0, {}),
        ((1,), (-1,), 0, {}),
        ((1,) * 33, (1,) * 33, 0, {}),
        ((1, 1), (1,), 0, {}),
        ((1.0,), (1,), 0, {}),
    ],
)
def test_a_tensor_cannot_reach_beyond_its_storage(shape, strides, offset, more, tmp_path):
    torch_zip(tmp_path / "x.pth", shape, strides, offset, **more)
    with pytest.raises(CheckpointError, match="is no readable torch file"):
        read_source(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", ["two pickles", "a name twice", "compressed", "no pickle"])
def test_a_zip_that_torch_did_not_write_is_refused(kind, tmp_path):
    """Readers of zips differ in which of two entries they take."""
    made = weights_and("a list that holds itself")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        if kind != "no pickle":
            archive.writestr("a/data.pkl", made, zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED)
        if kind in ("two pickles", "a name twice"):
            archive.writestr("b/DATA.pkl" if kind == "two pickles" else "a/data.pkl", made)
        archive.writestr("a/data/0", b"1234")
    with pytest.raises(CheckpointError, match="a zip that torch did not write"):
        read_source(tmp_path / "x.pth")
