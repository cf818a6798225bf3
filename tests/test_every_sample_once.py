"""Each sample counts once: what lies twice, cannot be looked into or is cut off is refused, what is left out is named.

Every test is on real files: folders, links, list files and tars as accidents leave them.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from pictures import photo, png, write_tar, write_tree
from small_models import CLASSES, save_small
from small_runs import environment

from paddle_dla import evaluate
from paddle_dla.data.errors import DataError
from paddle_dla.data.folder import open_folder
from paddle_dla.data.image_files import open_images
from paddle_dla.data.list_file import open_list
from paddle_dla.data.opening import open_source
from paddle_dla.data.shard_writer import write_shards
from paddle_dla.data.shards import open_shards
from paddle_dla.data.source import iterate


def names(source):
    return [source.name(index) for index in range(source.num_samples)]


# --- folders ---------------------------------------------------------------------------------------------------------


def loop(root):
    (root / "b" / "again").symlink_to(root / "b", target_is_directory=True)


def loop_of_the_root(root):
    (root / "b" / "again").symlink_to(root, target_is_directory=True)


def relative_loop(root):
    (root / "b" / "deep").mkdir()
    (root / "b" / "deep" / "up").symlink_to("..", target_is_directory=True)


def a_class_twice(root):
    (root / "c").symlink_to(root / "b", target_is_directory=True)


def a_part_of_another_class(root):
    (root / "a" / "part").mkdir()
    (root / "a" / "part" / "9.png").write_bytes(png(9))
    (root / "b" / "part").symlink_to(root / "a" / "part", target_is_directory=True)


def a_link_to_nothing(root):
    (root / "b" / "elsewhere").symlink_to(root / "nowhere", target_is_directory=True)


def a_link_to_itself(root):
    (root / "b" / "self").symlink_to("self")


def a_class_that_is_a_link_to_nothing(root):
    (root / "c").symlink_to(root / "nowhere", target_is_directory=True)


BROKEN = [
    loop,
    loop_of_the_root,
    relative_loop,
    a_class_twice,
    a_part_of_another_class,
    a_link_to_nothing,
    a_link_to_itself,
    a_class_that_is_a_link_to_nothing,
]


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_tree_in_which_samples_lie_twice_or_not_at_all_is_refused(change, tmp_path):
    write_tree(tmp_path, {"a": 2, "b": 2})
    change(tmp_path)
    with pytest.raises(DataError, match=str(tmp_path)):
        open_folder(tmp_path)


@pytest.mark.parametrize("change", [loop, relative_loop, a_link_to_nothing], ids=lambda change: change.__name__)
def test_so_it_is_among_images_without_labels(change, tmp_path):
    write_tree(tmp_path, {"a": 2, "b": 2})
    change(tmp_path)
    with pytest.raises(DataError, match=str(tmp_path)):
        open_images([str(tmp_path)])


@pytest.mark.parametrize("labelled", [True, False])
def test_a_link_to_a_folder_elsewhere_is_followed(labelled, tmp_path):
    write_tree(tmp_path / "elsewhere", {"more": 3})
    write_tree(tmp_path / "tree", {"a": 2})
    (tmp_path / "tree" / "a" / "more").symlink_to(tmp_path / "elsewhere" / "more", target_is_directory=True)
    found = open_folder(tmp_path / "tree") if labelled else open_images([str(tmp_path / "tree")])
    assert found.num_samples == 5


@contextmanager
def as_anybody():
    """Without the rights of root, to whom no folder is closed."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["tree/b/inner", "tree/b"])
@pytest.mark.parametrize("kind", ["folder", "images", "list"])
def test_a_folder_that_cannot_be_looked_into_is_named(closed, kind):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)
        write_tree(root / "tree", {"a": 1, "b/inner": 2})
        (root / "tree" / "b" / "0.png").write_bytes(png(0))
        (root / "tree" / "list.txt").write_text("a/0.png 0\nb/inner/0.png 1\n")
        tree = root / "tree"
        openers = {
            "folder": lambda: open_folder(tree),
            "images": lambda: open_images([str(tree)]),
            "list": lambda: open_list(tree / "list.txt"),
        }
        (root / closed).chmod(0)
        try:
            with as_anybody(), pytest.raises(DataError, match=closed):
                openers[kind]()
        finally:
            (root / closed).chmod(0o755)


@pytest.mark.parametrize("labelled", [True, False])
def test_files_that_are_no_images_by_name_are_counted(labelled, tmp_path):
    write_tree(tmp_path, {"a": 2})
    for name in ("x.webp", "y.webp", "notes.txt"):
        (tmp_path / "a" / name).write_bytes(photo(0))
    found = open_folder(tmp_path) if labelled else open_images([str(tmp_path)])
    assert found.num_samples == 2
    assert len(found.notes) == 1 and "3 files" in found.notes[0] and "2 .webp, 1 .txt" in found.notes[0]


def test_a_tree_of_images_alone_says_nothing(tmp_path):
    assert open_folder(write_tree(tmp_path, {"a": 2, "b": 1})).notes == ()


def test_images_that_are_named_twice_count_once(tmp_path):
    write_tree(tmp_path / "tree", {"a": 2})
    (tmp_path / "link").symlink_to(tmp_path / "tree", target_is_directory=True)
    given = ["tree", "tree/a/0.png", "tree/a/*.png", "link", "t*/**/*.png"]
    found = open_images([str(tmp_path / path) for path in given])
    assert names(found) == [str(tmp_path / "tree" / "a" / f"{k}.png") for k in range(2)]
    assert len(found.notes) == 1 and "7 images" in found.notes[0]


# --- list files ------------------------------------------------------------------------------------------------------


def test_a_path_that_begins_with_a_hash_is_a_sample_where_it_is_a_file(tmp_path):
    write_tree(tmp_path, {"#1": 1, "a": 2})
    (tmp_path / "#2.png").write_bytes(png(7))
    text = "#1/0.png 0\na/0.png 1\n#2.png 2\n# a/1.png 1\n#a/1.png 1\n#\n# about 5\n"
    (tmp_path / "list.txt").write_text(text)
    found = open_list(tmp_path / "list.txt")
    assert names(found) == ["#1/0.png", "a/0.png", "#2.png"] and found.labels.tolist() == [0, 1, 2]
    assert len(found.notes) == 1 and "4 lines" in found.notes[0]


def test_files_that_a_list_names_again_are_counted(tmp_path):
    write_tree(tmp_path, {"a": 2})
    (tmp_path / "list.txt").write_text("a/0.png 0\na/1.png 0\na/0.png 1\n")
    found = open_list(tmp_path / "list.txt")
    assert found.num_samples == 3 and len(found.notes) == 1 and "1 lines" in found.notes[0]


@pytest.mark.parametrize("content", [b"x" * 10**5, b"a/0.png\0 1\n", bytes(10**5)], ids=["long", "zero", "zeros"])
def test_lines_that_can_name_no_file_are_refused(content, tmp_path):
    write_tree(tmp_path, {"a": 1})
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"list\.txt"):
        open_list(tmp_path / "list.txt")


# --- tar shards ------------------------------------------------------------------------------------------------------


def members(count, first=0):
    pairs = [((f"{k}.png", png(k)), (f"{k}.cls", str(k).encode())) for k in range(first, first + count)]
    return [member for pair in pairs for member in pair]


def shard(folder, count=3):
    """A folder with one tar of ``count`` samples, and the path of the tar."""
    folder.mkdir(exist_ok=True)
    return write_tar(folder / "s.tar", members(count))


def index(tar, samples):
    entry = {"file": tar.name, "samples": samples, "bytes": tar.stat().st_size}
    (tar.parent / "shards.json").write_text(json.dumps({"format": 1, "classes": None, "shards": [entry]}))


def zeros_in_the_middle(tar):
    data = bytearray(tar.read_bytes())
    data[2048:4096] = bytes(2048)  # the second sample's headers and more
    tar.write_bytes(data)


def two_in_one(tar):
    again = write_tar(tar.with_name("other"), members(2, first=5))
    tar.write_bytes(tar.read_bytes() + again.read_bytes())
    again.unlink()


def rubbish_at_the_end(tar):
    tar.write_bytes(tar.read_bytes() + b"rubbish")


def a_hole_to_the_end(tar):
    size = tar.stat().st_size
    os.truncate(tar, 2048)
    os.truncate(tar, size + 2**22)


def cut_off(tar):
    os.truncate(tar, 2048)


def altered(change):
    """A change of the members of the tar."""

    def make(tar):
        added = io.BytesIO()
        with tarfile.open(fileobj=added, mode="w") as out:
            change(out)
        with tarfile.open(tar) as there:
            pairs = [(member.name, there.extractfile(member).read()) for member in there]
        with tarfile.open(tar, "w") as out:
            for name, data in pairs:
                add(out, name, data)
            change(out)

    make.__name__ = change.__name__
    return make


def add(tar, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


@altered
def hard_links(tar):
    """As tar writes files that have two names."""
    add(tar, "9.png", type=tarfile.LNKTYPE, linkname="0.png")
    add(tar, "9.cls", type=tarfile.LNKTYPE, linkname="0.cls")


@altered
def symbolic_links(tar):
    add(tar, "9.png", type=tarfile.SYMTYPE, linkname="0.png")
    add(tar, "9.cls", type=tarfile.SYMTYPE, linkname="0.cls")


@altered
def a_device(tar):
    add(tar, "9.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
    add(tar, "9.cls", b"1")


DAMAGED = [zeros_in_the_middle, two_in_one, rubbish_at_the_end, a_hole_to_the_end, cut_off]
DAMAGED += [hard_links, symbolic_links, a_device]


@pytest.mark.parametrize("counted", [False, True], ids=["headers", "index"])
@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_a_shard_of_which_a_part_would_be_left_out_is_refused(damage, counted, tmp_path):
    tar = shard(tmp_path / "shards")
    damage(tar)
    if counted:
        index(tar, 1 if damage in (zeros_in_the_middle, a_hole_to_the_end, cut_off) else 3)
    with pytest.raises(DataError, match=r"s\.tar"):
        list(iterate(open_source(tmp_path / "shards")))


@pytest.mark.parametrize("samples", [0, 1, 2, 4, -1, 2.0, True, "3", None, 2**70])
@pytest.mark.parametrize("rising", [True, False])
def test_an_index_with_another_number_of_samples_is_refused(samples, rising, tmp_path):
    index(shard(tmp_path / "shards"), samples)
    with pytest.raises(DataError):
        source = open_shards(tmp_path / "shards")
        reader = source.reader(rising)
        for place in range(source.num_samples):
            reader.sample(place)


def test_an_index_that_lists_a_file_twice_is_refused(tmp_path):
    tar = shard(tmp_path / "shards")
    index(tar, 3)
    content = json.loads((tar.parent / "shards.json").read_text())
    content["shards"] *= 2
    (tar.parent / "shards.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"shards\.json"):
        open_shards(tmp_path / "shards")


@pytest.mark.parametrize("label", [b"1_0", b"+1", b"0x1", b"1.0", b"\xd9\xa1", b"", b"9" * 5000])
def test_a_label_is_a_number_as_it_is_written(label, tmp_path):
    write_tar(tmp_path / "s.tar", [("0.png", png(0)), ("0.cls", label)])
    with pytest.raises(DataError, match=r"0\.cls"):
        list(iterate(open_source(tmp_path / "s.tar")))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_shard_that_is_there_under_two_names_is_refused(link, tmp_path):
    tar = shard(tmp_path / "shards")
    link(tar, tar.with_name("again.tar"))
    for data in (tmp_path / "shards", tmp_path / "shards" / "*.tar"):
        with pytest.raises(DataError, match=r"s\.tar"):
            open_source(data)


def test_what_lies_beside_shards_is_named(tmp_path):
    tar = shard(tmp_path / "shards")
    tar.with_name("more.tar.gz").write_bytes(b"")
    write_tree(tmp_path / "shards", {"class": 1})
    notes = open_source(tmp_path / "shards").notes
    assert len(notes) == 1 and "class, more.tar.gz" in notes[0]


def test_a_shard_without_samples_beside_others_is_taken(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    write_tar(tmp_path / "b.tar", members(2))
    assert len(list(iterate(open_source(tmp_path)))) == 2


def test_shards_that_tar_filled_up_are_taken(tmp_path):
    """``tar -b 2048`` fills a file up to a whole mebibyte."""
    tar = shard(tmp_path / "shards")
    os.truncate(tar, 2**20)
    assert len(list(iterate(open_source(tmp_path / "shards")))) == 3


# --- no samples ------------------------------------------------------------------------------------------------------


def test_no_sample_at_all_is_an_error(tmp_path, capsys):
    """All are left out as damaged: nothing is averaged, and no figure printed."""
    weights = save_small(tmp_path / "small.pdparams")
    tree = write_tree(tmp_path / "tree", {f"c{label}": 1 for label in range(CLASSES)}, lambda k: b"no image")
    options = ["--checkpoint", weights, "--data", str(tree), "--workers", "0", "--max-skipped", "100"]
    assert evaluate.main(options) == 1
    said = capsys.readouterr()
    assert "top-1" not in said.out and "no sample" in said.err


# --- names -----------------------------------------------------------------------------------------------------------

LATIN = os.fsdecode(b"caf\xe9.png")


@pytest.mark.parametrize("kind", ["folder", "images", "list", "shards"])
def test_files_whose_names_are_no_utf8_are_read_and_printed(kind, tmp_path):
    write_tree(tmp_path / "tree", {"a": 1})
    (tmp_path / "tree" / "a" / LATIN).write_bytes(png(3))
    (tmp_path / "tree" / "list.txt").write_bytes(b"a/caf\xe9.png 0\n")
    sources = {
        "folder": lambda: open_folder(tmp_path / "tree"),
        "images": lambda: open_images([str(tmp_path / "tree")]),
        "list": lambda: open_list(tmp_path / "tree" / "list.txt"),
        "shards": lambda: written(tmp_path),
    }
    source = sources[kind]()
    last = source.num_samples - 1
    assert source.reader().sample(last).data == png(3)
    for name in (source.name(last), source.reader().sample(last).name):
        assert "caf\\xe9" in name.encode("utf-8").decode()


def written(folder):
    write_shards(open_folder(folder / "tree"), folder / "shards")
    return open_shards(folder / "shards")


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_data_in_a_folder_whose_name_is_no_utf8_is_scored(kind, tmp_path):
    """In processes: stdout and stderr are what a shell gives."""
    weights = save_small(tmp_path / "small.pdparams")
    root = tmp_path / os.fsdecode(b"caf\xe9")
    write_tree(root / "tree", {f"c{label}": 1 for label in range(CLASSES)}, photo)
    (root / "list.txt").write_text("# none\ntree/c0/0.png 0\n")
    data = {"folder": root / "tree", "list": root / "list.txt"}[kind]
    command = [sys.executable, "-m", "paddle_dla.evaluate", "--checkpoint", weights, "--workers", "1", "--data", data]
    results = ["--json", tmp_path / "r.json", "--predictions", tmp_path / "p.jsonl"]
    done = subprocess.run([*command, *results], capture_output=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"caf\\xe9" in done.stdout and b"top-1" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["images"] == (CLASSES if kind == "folder" else 1)


def test_classes_whose_names_are_no_utf8_are_refused_before_any_work(tmp_path):
    """Class names are recorded with weights, in manifests and shards."""
    write_tree(tmp_path, {"a": 1})
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(DataError, match=r"caf\\xe9"):
        open_folder(tmp_path)


@pytest.mark.parametrize("table", ["samples.csv", "samples.jsonl"])
def test_a_run_over_such_files_writes_its_tables(table, tmp_path):
    weights = save_small(tmp_path / "small.pdparams")
    tree = write_tree(tmp_path / "tree", {f"c{label}": 1 for label in range(CLASSES)}, photo)
    (tree / "c0" / LATIN).write_bytes(photo(5))
    options = ["--checkpoint", weights, "--data", str(tree), "--workers", "0", "--predictions", str(tmp_path / table)]
    assert evaluate.main(options) == 0
    assert r"caf\xe9" in (tmp_path / table).read_text().replace("\\\\", "\\")
