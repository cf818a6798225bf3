"""No cell of a table is computed by a spreadsheet, and every name can be written."""

import csv
import io
import json

import numpy as np
import pytest

from paddle_dla.features import Rows, write_npy
from paddle_dla.metrics import Predictions
from paddle_dla.reports import draw_confusion, sample_table, write_csv, write_jsonl
from paddle_dla.storage.csv_text import write_rows
from paddle_dla.training.records import Records, Table

pytestmark = pytest.mark.any_paddle

FORMULAS = ['=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "=", "-"]


def cells(text):
    return next(csv.reader(io.StringIO(text, newline="")))


def written(row):
    file = io.StringIO(newline="")
    write_rows(file, [row])
    return cells(file.getvalue())


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_marked_as_text(name):
    assert written([name, 1]) == [f"'{name}", "1"]


@pytest.mark.parametrize("value", ["-0.5", "+3", "-1e-7", "-inf", -0.5, 3, None, "", "a=b", "image-1.png", " =1"])
def test_numbers_and_other_texts_stay(value):
    assert written([value]) == ["" if value is None else str(value)] or written([value]) == []


def test_a_carriage_return_ends_no_row():
    assert written(["a\rb", "c\nd", "\r=1"]) == [r"a\rb", "c\nd", r"\r=1"]


def predictions(count):
    classes = np.zeros((count, 1), np.int64)
    return Predictions(
        indices=np.arange(count),
        labels=np.zeros(count, np.int64),
        classes=classes,
        probabilities=np.ones((count, 1), np.float32),
        losses=np.full(count, -0.5, np.float32),
    )


def test_every_table_is_written_that_way(tmp_path):
    names = [*FORMULAS, "\udcff.png"]
    write_csv(tmp_path / "a.csv", sample_table(predictions(len(names)), names.__getitem__))
    write_npy(str(tmp_path / "b.npy"), Rows(np.zeros((8, 2)), np.arange(8), np.arange(8)), names)
    for path in (tmp_path / "a.csv", tmp_path / "b.npy.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == [*(f"'{name}" for name in FORMULAS), r"\udcff.png"]
    records = Records(tmp_path / "rank0.jsonl", 0)
    table = Table(tmp_path / "train.csv", records, "train")
    for record in ({"kind": "train", "step": 1, "=note": "+x", "loss": -0.5},):
        table.append(record, records.append(record))
    assert (tmp_path / "train.csv").read_text() == "step,'=note,loss\n1,'+x,-0.5\n"


def test_a_picture_looks_the_same_whatever_the_user_has_set(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    for name, settings in (("a", {}), ("b", {"text.usetex": True, "savefig.dpi": 7, "axes.grid": True})):
        with matplotlib.rc_context(settings):
            draw_confusion(tmp_path / f"{name}.png", np.eye(2, dtype=np.int64), ["a", "b"], "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_name_that_is_no_utf8_is_json_all_the_same(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", (["name"], [["\udcff.png"], ["图.png"]]))
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["\udcff.png", "图.png"]


@pytest.mark.parametrize("name", ["$a", "$\\frac{1}{$", "a\x1b[2Jb", "\udcff", "x" * 5000, "a\nb", ""])
def test_a_picture_shows_any_name(name, tmp_path):
    pytest.importorskip("matplotlib")
    draw_confusion(tmp_path / "x.png", np.eye(2, dtype=np.int64), [name, "b"], f"{name}: 50 %")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
