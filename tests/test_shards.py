"""Tar shards: written deterministically, read as a stream or by place, and every kind of damage named."""

import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from conftest import ROOT
from pictures import photo, png, write_tar, write_tree

from paddle_dla.data.errors import DataError
from paddle_dla.data.folder import open_folder
from paddle_dla.data.opening import open_source
from paddle_dla.data.shard_writer import write_shards
from paddle_dla.data.shards import expand_pattern, find_shards, open_shards
from paddle_dla.data.source import iterate

COUNTS = {"cat": 5, "dog": 4, "fox": 4}  # 13 samples: shards of 5, 5 and 3


@pytest.fixture
def tree(tmp_path):
    return open_folder(write_tree(tmp_path / "tree", COUNTS))


@pytest.fixture
def shards(tmp_path, tree):
    write_shards(tree, tmp_path / "shards", 5)
    return tmp_path / "shards"


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_shards_hold_the_source_unchanged(shards, tree):
    found = open_source(shards)
    assert found.classes == tree.classes
    expected = [(i, label, data) for i, _, label, data in iterate(tree)]
    assert [(i, label, data) for i, _, label, data in iterate(found)] == expected


def test_shards_written_twice_are_equal(shards, tree, tmp_path):
    for name in tree.names:
        os.utime(tree.path(list(tree.names).index(name)), (1, 1))
    write_shards(tree, tmp_path / "again", 5)
    assert digests(shards) == digests(tmp_path / "again")


def test_shards_of_shards_are_equal(shards, tmp_path):
    write_shards(open_source(shards), tmp_path / "again", 13)
    assert [s[2:] for s in iterate(open_source(tmp_path / "again"))] == [s[2:] for s in iterate(open_source(shards))]


def test_a_name_is_shard_and_key(shards):
    found = open_source(shards)
    assert [found.name(i) for i in (0, 5, 12)] == [
        "shard-000000.tar/00000000_0",
        "shard-000001.tar/00000005_0",
        "shard-000002.tar/00000012_3",
    ]
    assert [name for _, name, _, _ in iterate(found)] == [found.name(i) for i in range(13)]


def test_without_an_index_the_headers_are_counted(shards):
    expected = list(iterate(open_source(shards)))
    (shards / "shards.json").unlink()
    assert list(iterate(open_source(shards))) == expected


@pytest.mark.parametrize("rising", [True, False])
def test_any_start_and_any_gaps_give_the_same_samples(shards, rising):
    source = open_source(shards)
    expected = [sample[1:] for sample in iterate(source)]
    for indices in ([4, 5], [0, 3, 4, 9, 12], [11], range(13)):
        reader = source.reader(rising)
        assert [reader.sample(i) for i in indices] == [expected[i] for i in indices]


@pytest.mark.parametrize("names", [("s-1.tar", "s-01.tar", "s-001.tar"), ("S-1.tar", "s-1.tar")])
def test_shards_that_differ_in_zeros_or_case_have_one_order(names, tmp_path, monkeypatch):
    """A file system lists names in any order, and the ranks of a job must agree."""
    for name in names:
        (tmp_path / name).touch()
    listed = os.listdir
    found = []
    for turned in (False, True):
        monkeypatch.setattr(os, "listdir", lambda path, turned=turned: sorted(listed(path), reverse=turned))
        paths = sorted(map(str, tmp_path.iterdir()), reverse=turned)
        monkeypatch.setattr(glob, "glob", lambda text, paths=paths: paths)
        found += [find_shards(tmp_path), find_shards(tmp_path / "*.tar")]
    assert found == [found[0]] * 4 and len(found[0]) == len(names)


def test_any_order_can_be_read_by_place(shards):
    source = open_source(shards)
    expected = [sample[1:] for sample in iterate(source)]
    reader = source.reader()
    order = np.random.default_rng(0).permutation(13).tolist()
    assert [reader.sample(i) for i in order] == [expected[i] for i in order]


def test_a_stream_does_not_go_back(shards):
    reader = open_source(shards).reader(rising=True)
    reader.sample(3)
    with pytest.raises(ValueError, match="rising"):
        reader.sample(2)


@pytest.mark.parametrize("together", [1, 2, 8])
def test_a_training_order_has_all_samples_and_keeps_to_few_shards_at_a_time(shards, together):
    source = open_source(shards)
    order = source.shuffled(0, 1, together)
    assert sorted(order) == list(range(13))
    assert len({tuple(source.shuffled(0, epoch, together)) for epoch in range(3)}) == 3
    used = [source.locate(index)[0] for index in order]
    # a shard is left for good once its group is done: between its first and last sample lie those of its group only
    spans = [used[used.index(shard) : 13 - used[::-1].index(shard)] for shard in range(3)]
    assert max(len(set(span)) for span in spans) == min(together, 3)


def test_more_shards_than_may_be_open_are_read(tmp_path, tree, monkeypatch):
    monkeypatch.setattr("paddle_dla.data.shards.MOST_OPEN", 2)
    write_shards(tree, tmp_path / "single", 1)
    source = open_source(tmp_path / "single")
    reader = source.reader()
    assert [reader.sample(i).data for i in (0, 5, 9, 0, 12, 5)] == [tree.read(i) for i in (0, 5, 9, 0, 12, 5)]


def test_shards_can_be_written_in_another_order(tmp_path, tree):
    write_shards(tree, tmp_path / "shards", 5, order=[12, 0, 3])
    samples = list(iterate(open_source(tmp_path / "shards")))
    assert [(name, label, data) for _, name, label, data in samples] == [
        ("shard-000000.tar/00000000_3", 2, tree.read(12)),
        ("shard-000000.tar/00000001_0", 0, tree.read(0)),
        ("shard-000000.tar/00000002_3", 0, tree.read(3)),
    ]


def test_patterns():
    assert expand_pattern("s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert expand_pattern("{0..1}/{2..3}.tar") == ["0/2.tar", "0/3.tar", "1/2.tar", "1/3.tar"]
    with pytest.raises(DataError, match=r"{3..1} is empty"):
        expand_pattern("{3..1}.tar")


def test_a_part_of_the_shards_can_be_named(shards):
    assert open_source(f"{shards}/shard-{{000001..000002}}.tar").num_samples == 8
    assert open_source(f"{shards}/shard-00000[02].tar").num_samples == 8
    assert open_source(shards / "shard-000002.tar").num_samples == 3


def test_a_file_may_be_called_what_looks_like_a_pattern(tmp_path):
    tar = write_tar(tmp_path / "s[0].tar", [("a.jpg", b"x"), ("a.cls", b"0")])
    assert open_source(tar).num_samples == 1


def test_missing_shards_are_named(shards):
    with pytest.raises(DataError, match=r"1 of 4 shards are not there: .*shard-000003.tar"):
        open_source(f"{shards}/shard-{{000000..000003}}.tar")
    (shards / "shard-000001.tar").unlink()
    with pytest.raises(DataError, match=r"lists shards that are not there: shard-000001.tar"):
        open_source(shards)


def test_layout_of_others_is_read(tmp_path):
    members = [
        ("__info__", b"x"),
        ("./train/a.JPEG", photo(0)),
        ("./train/a.txt", b"a caption"),
        ("./train/a.json", b'{"width": 40}'),
        ("./train/a.cls", b" 3\n"),
        ("./train/b.seg.png", b"a mask, not the image"),
        ("./train/b.json", b'{"label": 2}'),
        ("./train/b.webp", photo(1, kind="WEBP")),
    ]
    samples = list(iterate(open_shards(write_tar(tmp_path / "x.tar", members))))
    assert samples == [
        (0, "x.tar/./train/a", 3, photo(0)),
        (1, "x.tar/./train/b", 2, photo(1, kind="WEBP")),
    ]


def test_keys_are_safe_for_readers_that_cut_at_the_first_dot(tmp_path):
    write_tree(tmp_path / "tree", {"a": 0, "b": 1})
    (tmp_path / "tree/a/x.y.PNG").write_bytes(png(0))
    (tmp_path / "tree/a/x.z.jpg").write_bytes(photo(0))
    write_shards(open_folder(tmp_path / "tree"), tmp_path / "shards")
    with tarfile.open(tmp_path / "shards/shard-000000.tar") as tar:
        names = tar.getnames()
    assert names[:4] == ["00000000_x_y.cls", "00000000_x_y.png", "00000001_x_z.cls", "00000001_x_z.jpg"]


def test_long_and_foreign_names_survive(tmp_path):
    name = "é" * 100
    write_tree(tmp_path / "tree", {"a": 0})
    (tmp_path / "tree/a" / f"{name}.png").write_bytes(png(0))
    write_shards(open_folder(tmp_path / "tree"), tmp_path / "shards")
    assert open_source(tmp_path / "shards").name(0) == f"shard-000000.tar/00000000_{name}"


def sample(key, image=b"image", label=b"0"):
    return [(f"{key}.jpg", image), (f"{key}.cls", label)]


BAD_MEMBERS = {
    "an image without its label": ([*sample("a"), ("b.jpg", b"x"), *sample("c")], r"member b.jpg: has no label beside"),
    "a label without its image": ([*sample("a"), ("b.cls", b"1")], r"member b.cls: has no image beside it"),
    "parts that are not neighbours": ([("a.jpg", b""), ("b.jpg", b""), ("a.cls", b"0")], r"member a.jpg: has no label"),
    "two images": ([("a.jpg", b""), ("a.png", b""), ("a.cls", b"0")], "members a.jpg and a.png"),
}


@pytest.mark.parametrize("index", [False, True], ids=["counted", "indexed"])
@pytest.mark.parametrize(("members", "message"), BAD_MEMBERS.values(), ids=BAD_MEMBERS)
def test_a_sample_that_lacks_a_part_is_named(tmp_path, members, message, index):
    tar = write_tar(tmp_path / "s.tar", members)
    if index:
        write_index(tmp_path, {"s.tar": 3})
    with pytest.raises(DataError, match=message) as error:
        list(iterate(open_source(tar)))
    assert str(tar) in str(error.value)


def write_index(folder, samples):
    shards = [{"file": name, "samples": n, "bytes": (folder / name).stat().st_size} for name, n in samples.items()]
    (folder / "shards.json").write_text(json.dumps({"format": 1, "classes": None, "shards": shards}))


BAD_LABELS = {
    "no number": (("a.cls", b"cat"), "holds no label, one whole number"),
    "empty": (("a.cls", b""), "holds no label"),
    "no json": (("a.json", b"{"), "holds no label, an object"),
    "json without it": (("a.json", b'{"x": 1}'), "holds no label, an object"),
    "json with text": (("a.json", b'{"label": "cat"}'), "'cat' is not a whole number"),
    "json that is a list": (("a.json", b"[1]"), "holds no label"),
    "json without an end": (("a.json", b"[" * 100_000), "holds no label"),
    "more digits than a number has": (("a.cls", b"9" * 5000), "holds no label"),
    "below 0": (("a.cls", b"-1"), "label -1 is out of range"),
    "too large": (("a.cls", b"3"), "label 3 is out of range: with 3 classes"),
}


@pytest.mark.parametrize(("member", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_a_label_that_is_none_is_named(tmp_path, member, message):
    tar = write_tar(tmp_path / "s.tar", [("a.jpg", b"x"), member])
    with pytest.raises(DataError, match=message) as error:
        list(iterate(open_source(tar, num_classes=3)))
    assert f"{tar}, member {member[0]}" in str(error.value)


def test_a_label_beyond_64_bits_is_named(tmp_path):
    tar = write_tar(tmp_path / "s.tar", [("a.jpg", b"x"), ("a.cls", b"9" * 20)])
    with pytest.raises(DataError, match="out of range"):
        list(iterate(open_source(tar)))


def cut(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


# where the file is cut: member 3 of 10 has its header at 3 * 1024 bytes, each part being smaller than a block
CUTS = {"in a header": 3 * 1024 + 100, "in the data": 3 * 1024 + 600, "between members": 3 * 1024, "to nothing": 0}


@pytest.mark.parametrize("size", CUTS.values(), ids=CUTS)
def test_a_truncated_shard_is_seen_when_it_is_counted(tmp_path, size):
    tar = write_tar(tmp_path / "s.tar", [part for key in "abcde" for part in sample(key)])
    assert len(list(iterate(open_shards(tar)))) == 5
    cut(tar, size)
    with pytest.raises(DataError, match=r"s.tar"):
        open_shards(tar)


@pytest.mark.parametrize("size", CUTS.values(), ids=CUTS)
def test_a_truncated_shard_does_not_fit_its_index(shards, size):
    cut(shards / "shard-000001.tar", size)
    with pytest.raises(DataError, match=r"shard-000001.tar: has \d+ bytes where shards.json says \d+: truncated"):
        open_source(shards)


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("size", CUTS.values(), ids=CUTS)
def test_a_shard_truncated_while_it_is_in_use_is_named(shards, rising, size):
    source = open_source(shards)
    cut(shards / "shard-000001.tar", size)
    reader = source.reader(rising)
    reader.sample(4)
    with pytest.raises(DataError, match=r"shard-000001.tar"):
        [reader.sample(i) for i in range(5, 10)]


def test_a_shard_that_is_replaced_while_it_is_in_use_is_named(shards, tree, tmp_path):
    """Where samples lie in the old one says nothing of the new one."""
    source = open_source(shards)
    source.headers(0)
    write_shards(tree, tmp_path / "other", 5, order=np.arange(13)[::-1])
    os.replace(tmp_path / "other" / "shard-000000.tar", shards / "shard-000000.tar")
    with pytest.raises(DataError, match="was replaced while it was read"):
        source.reader().sample(0)


def test_a_damaged_header_is_seen(shards):
    data = bytearray((shards / "shard-000001.tar").read_bytes())
    data[2 * 1024 + 10] ^= 1  # the name in the header of the second sample's label: its checksum is then wrong
    (shards / "shard-000001.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"shard-000001.tar"):
        list(iterate(open_source(shards)))
    (shards / "shards.json").unlink()
    with pytest.raises(DataError, match=r"shard-000001.tar: breaks off after member 00000005_0"):
        open_source(shards)


def test_what_is_no_tar_is_named(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"\x1f\x8b" + b"x" * 2000)
    with pytest.raises(DataError, match=r"s.tar: is not a whole, uncompressed tar"):
        open_source(tmp_path / "s.tar")


def test_a_tar_without_samples_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no samples"):
        open_source(write_tar(tmp_path / "s.tar", [("readme.txt", b"x")]))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "classes": null, "shards": [{}]}'])
def test_an_index_that_makes_no_sense_is_refused(shards, text):
    (shards / "shards.json").write_text(text)
    with pytest.raises(DataError, match=r"shards.json: "):
        open_source(shards)


def test_an_occupied_folder_is_left_alone(shards, tree):
    before = digests(shards)
    with pytest.raises(DataError, match="is there already"):
        write_shards(tree, shards)
    assert digests(shards) == before


def test_an_error_while_writing_leaves_no_folder(tree, tmp_path):
    os.unlink(tree.path(12))
    with pytest.raises(DataError, match=r"fox/3.png: cannot be read"):
        write_shards(tree, tmp_path / "shards", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def script(*arguments):
    command = [sys.executable, ROOT / "scripts/make_shards.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_script_writes_shards_and_indices(tree, shards, tmp_path):
    done = script(tree.root, tmp_path / "by_script", "--samples-per-shard", 5)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "by_script") == digests(shards)
    assert script(tree.root, tmp_path / "shuffled", "--shuffle", 0).returncode == 0
    contents = [sorted(s[3] for s in iterate(open_source(tmp_path / name))) for name in ("shuffled", "by_script")]
    assert contents[0] == contents[1] and digests(tmp_path / "shuffled") != digests(tmp_path / "by_script")
    (shards / "shards.json").unlink()
    assert script(shards, "--index").returncode == 0
    assert open_source(shards).num_samples == 13


def test_the_script_names_what_is_wrong(tmp_path):
    done = script(tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 2 and "nowhere: is not there" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_killed_writer_leaves_no_folder_and_is_done_again(tmp_path):
    write_tree(tmp_path / "tree", {str(i): 60 for i in range(50)})
    code = "import sys; from paddle_dla.data.folder import open_folder; from paddle_dla.data.shard_writer import *; "
    code += "write_shards(open_folder(sys.argv[1]), sys.argv[2], 1, progress=lambda n: print(n, flush=True))"
    arguments = [sys.executable, "-c", code, tmp_path / "tree", tmp_path / "out"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=env) as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    time.sleep(0.05)
    assert not (tmp_path / "out").exists() and (tmp_path / f".out.{writer.pid}.part").is_dir()
    shutil.rmtree(tmp_path / "tree")
    write_shards(open_folder(write_tree(tmp_path / "tree", COUNTS)), tmp_path / "out")
    assert open_source(tmp_path / "out").num_samples == 13 and not list(tmp_path.glob(".out.*"))
