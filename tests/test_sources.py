"""Class-folder trees and list files: which samples they have, in which order, and what is wrong with bad ones."""

import os
import pickle

import numpy as np
import pytest
from pictures import png, write_tar, write_tree

from paddle_dla.data.class_names import IMAGENET
from paddle_dla.data.errors import DataError, ImageError
from paddle_dla.data.folder import open_folder
from paddle_dla.data.list_file import open_list
from paddle_dla.data.opening import open_source
from paddle_dla.data.shards import ShardSource
from paddle_dla.data.source import FileSource, Names, iterate

# folders whose alphabetical, natural and by-path orders all differ
TREES = {
    "numbers": {"10": 2, "9": 12, "0": 1},
    "names": {"a b": 1, "a": 2, "B2": 11, "B10": 1, "c-1": 1},
    "synsets": {"n01440764": 3, "n01443537": 2, "n10000000": 1},
}


@pytest.mark.parametrize("counts", TREES.values(), ids=TREES)
@pytest.mark.torch
def test_a_tree_has_the_samples_of_timm_in_its_order(tmp_path, counts):
    from torch_ref.model import import_timm

    import_timm()
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    write_tree(tmp_path, counts)
    for k, extension in enumerate(("JPG", "jpeg", "JpEg", "webp", "txt", "png.bak")):
        (tmp_path / min(counts) / f"{k}x.{extension}").write_bytes(b"")
    expected = ReaderImageFolder(str(tmp_path))
    found = open_folder(tmp_path)
    assert [(found.path(i), int(found.labels[i])) for i in range(found.num_samples)] == expected.samples
    assert found.classes == list(expected.class_to_idx)


@pytest.mark.torch
def test_a_class_file_gives_the_indices_of_timm(tmp_path):
    from torch_ref.model import import_timm

    import_timm()
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    tree = write_tree(tmp_path / "tree", {"n3": 2, "n1": 1})
    (tmp_path / "classes.txt").write_text("n0\nn1\nn2\nn3\n")
    expected = ReaderImageFolder(str(tree), class_map=str(tmp_path / "classes.txt"))
    found = open_folder(tree, tmp_path / "classes.txt")
    assert [(found.path(i), int(found.labels[i])) for i in range(found.num_samples)] == expected.samples
    assert found.classes == ["n0", "n1", "n2", "n3"]


def test_folders_inside_a_class_folder_belong_to_the_class(tmp_path):
    write_tree(tmp_path, {"cat/black": 1, "cat/white": 2, "dog": 1})
    found = open_folder(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert found.labels.tolist() == [0, 0, 0, 1]


def test_a_subset_of_folders_keeps_the_indices_of_a_map(tmp_path):
    write_tree(tmp_path, {"b": 1, "d": 1})
    assert open_folder(tmp_path, {"a": 0, "b": 1, "c": 2, "d": 3}).labels.tolist() == [1, 3]


def test_samples_are_what_the_files_hold(tmp_path):
    write_tree(tmp_path, {"0": 1, "1": 2})
    samples = list(iterate(open_folder(tmp_path)))
    assert samples == [(0, "0/0.png", 0, png(0)), (1, "1/0.png", 1, png(1)), (2, "1/1.png", 1, png(2))]


def no_class_folders(root):
    (root / "1.png").write_bytes(png(0))


def stray_image(root):
    write_tree(root, {"a": 1})
    (root / "1.png").write_bytes(png(0))


def empty_class(root):
    write_tree(root, {"a": 1, "b": 0})


def only_text(root):
    write_tree(root, {"a": 1}, extension="txt")


BAD_TREES = {
    "nothing": (lambda root: None, {}, "no class folders"),
    "images alone": (no_class_folders, {}, r"1 images \(1.png\) lie outside of any class folder"),
    "an image beside the folders": (stray_image, {}, "outside of any class folder"),
    "an empty class": (empty_class, {}, "class folder b: remove"),
    "no images": (only_text, {}, "class folder a: remove"),
    "a folder that the map lacks": (empty_class, {"classes": {"b": 0}}, "does not name the folder a"),
    "a label out of range": (
        lambda root: write_tree(root, {"a": 1, "b": 1}),
        {"num_classes": 1},
        r"class folder b \(1\); with 1 classes a label is 0 to 0",
    ),
}


@pytest.mark.parametrize(("make", "options", "message"), BAD_TREES.values(), ids=BAD_TREES)
def test_a_bad_tree_is_refused(tmp_path, make, options, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        open_folder(tmp_path, **options)
    assert str(tmp_path) in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: No such file"):
        open_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["a\na\n", "", None], ids=["twice", "empty", "missing"])
def test_a_bad_class_file_is_refused(tmp_path, text):
    write_tree(tmp_path / "tree", {"a": 1})
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=r"classes.txt"):
        open_source(tmp_path / "tree", classes=tmp_path / "classes.txt")


def test_imagenets_own_file_gives_folders_their_indices(tmp_path):
    found = open_folder(write_tree(tmp_path, {"n01443537": 1, "n15075141": 1}), IMAGENET)
    assert found.labels.tolist() == [1, 999]


def test_a_list_has_its_lines_in_order(tmp_path):
    write_tree(tmp_path, {"a folder": 2, "b": 1})
    (tmp_path / "list.txt").write_text("# a comment\na folder/1.png 7\n\nb/0.png\t0\na folder/0.png   3 \n")
    found = open_list(tmp_path / "list.txt")
    assert list(found.names) == ["a folder/1.png", "b/0.png", "a folder/0.png"]
    assert found.labels.tolist() == [7, 0, 3]
    assert found.read(1) == png(2)


def test_a_list_may_lie_elsewhere_than_its_files(tmp_path):
    write_tree(tmp_path / "images", {"a": 1})
    (tmp_path / "list.txt").write_text("a/0.png 0\n")
    assert open_list(tmp_path / "list.txt", tmp_path / "images").read(0) == png(0)
    with pytest.raises(DataError, match="1 of 1 files are not in"):
        open_list(tmp_path / "list.txt")


def test_paths_of_a_list_may_be_absolute(tmp_path):
    write_tree(tmp_path / "images", {"a": 1})
    (tmp_path / "list.txt").write_text(f"{tmp_path}/images/a/0.png 0\n")
    assert open_list(tmp_path / "list.txt").read(0) == png(0)


BAD_LINES = {
    "no label": ("a/0.png", "line 2: 'a/0.png' is not 'path label'"),
    "a word": ("a/0.png cat", "line 2: 'a/0.png cat' does not end with a class index"),
    "a fraction": ("a/0.png 1.5", "class index"),
    "another delimiter": ("a/0.png,1", "is not 'path label'"),
    "no 64-bit number": ("a/0.png 9" + "9" * 5000, "class index"),
    "below 0": ("a/0.png -1", "label -1 is out of range"),
    "too large": ("a/0.png 10", "line 2: 'a/0.png 10': label 10 is out of range: with 10 classes a label is 0 to 9"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, message):
    write_tree(tmp_path, {"a": 1})
    path = tmp_path / "list.txt"
    path.write_text(f"a/0.png 9\n{line}\n")
    with pytest.raises(DataError, match=message) as error:
        open_list(path, num_classes=10)
    assert f"{path}, line 2" in str(error.value)


def test_missing_files_are_all_counted_and_the_first_are_named(tmp_path):
    write_tree(tmp_path, {"a": 1})
    (tmp_path / "list.txt").write_text("a/0.png 0\n" + "".join(f"a/{i}.png 0\n" for i in range(1, 10)))
    with pytest.raises(DataError, match=r"9 of 10 files .*: a/1.png, a/2.png, .*\(9 in all\)"):
        open_list(tmp_path / "list.txt")


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00 1\n"], ids=["empty", "comments", "no text"])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"list.txt: "):
        open_list(tmp_path / "list.txt")


def test_a_source_is_told_by_what_lies_there(tmp_path):
    tree = write_tree(tmp_path / "tree", {"a": 1})
    (tmp_path / "tree" / "list.txt").write_text("a/0.png 0\n")
    tar = write_tar(tmp_path / "s.tar", [("0.png", png(0)), ("0.cls", b"0")])
    assert open_source(tree).labels.tolist() == [0]
    assert list(open_source(tree / "list.txt").names) == ["a/0.png"]
    assert isinstance(open_source(tar), ShardSource)
    assert isinstance(open_source(tmp_path / "*.tar"), ShardSource)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.txt", "nowhere.tar", "nowhere-{0..3}.tar", "nowhere*.tar"])
def test_a_source_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError) as error:
        open_source(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_root_is_refused_where_it_means_nothing(tmp_path):
    with pytest.raises(DataError, match="a root belongs to a list file"):
        open_source(write_tree(tmp_path / "tree", {"a": 1}), root=tmp_path)


def test_a_file_that_vanished_is_an_error_of_this_image(tmp_path):
    found = open_folder(write_tree(tmp_path, {"a": 2}))
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(ImageError, match=r"a/1.png: cannot be read: No such file"):
        found.read(1)


def test_names_are_kept_exactly_and_pickle_as_blocks():
    given = ["", "é", os.fsdecode(b"\xff"), "n/x y.png"] * 1000
    names = pickle.loads(pickle.dumps(Names(given)))  # noqa: S301 - made here
    assert list(names) == given
    assert names[-1] == given[-1] and names[1:3] == given[1:3]
    with pytest.raises(IndexError):
        names[len(given)]
    # 10.25 bytes of text, 8 of place, a sample; what is left is the pickle's own frame
    assert len(pickle.dumps(names)) < 4000 * (sum(len(os.fsencode(n)) for n in given[:4]) / 4 + 8) + 500


def test_a_source_of_files_pickles(tmp_path):
    found = open_folder(write_tree(tmp_path, {"a": 2, "b": 1}))
    found = pickle.loads(pickle.dumps(found))  # noqa: S301 - made here
    assert isinstance(found, FileSource)
    assert np.array_equal(found.labels, [0, 0, 1]) and found.read(2) == png(2)
