"""Text that another system wrote: the mark of Windows' editors and any ends of lines are no part of a name."""

import json

import pytest

from convert.matching.key_map import KeyMap
from paddle_dla.data.class_names import read_class_names
from paddle_dla.data.labels import read_real_labels, read_subset

pytestmark = pytest.mark.any_paddle

ENDS = pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
MARK = pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])


@pytest.fixture
def written(tmp_path):
    def write(text, mark):
        (tmp_path / "x.txt").write_bytes(mark + text.encode())
        return tmp_path / "x.txt"

    return write


@ENDS
@MARK
def test_class_names(end, mark, written):
    assert read_class_names(written(f"cat{end}dog{end}", mark)).ids == ("cat", "dog")


@ENDS
@MARK
def test_classes_that_data_have(end, mark, written):
    assert read_subset(written(f"cat{end}1{end}", mark), ("cat", "dog"), 2) == [0, 1]


@MARK
def test_reassessed_labels(mark, written):
    assert read_real_labels(written(json.dumps({"a.png": [1]}), mark)) == {"a.png": [1]}


@ENDS
@MARK
def test_key_maps(end, mark, written):
    assert [line.torch for line in KeyMap.load(written(f"a -> b{end}c -> d{end}", mark))] == ["a", "c"]


@pytest.mark.parametrize("inside", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_a_character_that_only_python_takes_for_an_end_stays_in_the_name(inside, written):
    assert read_class_names(written(f"a{inside}b\nc\n", b"")).ids == (f"a{inside}b", "c")
