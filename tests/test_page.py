"""The page: what it holds, read as text; and how it looks, measured in a browser."""

import re
from contextlib import ExitStack

import browser
import numpy as np
import pytest
from numpy_weights import images

from alignment.engine.reporting.page import write_html
from alignment.engine.reporting.page_tree import grown
from alignment.engine.result import ALIGNED, DIFFERS, Culprit, Result, Row, Skipped
from alignment.engine.spread import spread

pytestmark = pytest.mark.any_paddle

WRONG = ("wide", "cut", "clipped", "overlapping")  # what is measured, and must be empty
EVIL = '<script>alert("1")</script>'
# one fault of each kind that shows in eval mode
KINDS = {"config": "bn_epsilon_1e-3", "weights": "conv_weight_permuted", "computation": "conv_padding_replicate",
         "wiring": "root_concat_permuted", "mode": "bn_stuck_in_train"}  # fmt: skip


def row(layer="layer", relative=1e-16, **changes):
    values = dict(
        layer=layer, twin=layer, kind="Conv2d", call=0, depth=0, leaf=True, shape=(2, 3), max_abs=relative,
        relative=relative, floor=1e-16, allowed=1e-12,
    )  # fmt: skip
    return Row(**(values | changes))


def result(rows, **changes):
    return Result("by hand", "float64", rows, **changes)


def html(tmp_path, *results):
    write_html(results, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def some_spread(**changes):
    expected = np.random.RandomState(0).standard_normal((2, 8, 16, 16))
    actual = expected.copy()
    actual[:, 2:5, -1] += 1e-3
    actual[1, 7, 3, 3] = np.nan
    return spread(expected, actual, 1e-13, **{"what": "output 0", **changes})


# --- the tree -------------------------------------------------------------------------------------------------------

ROWS = [
    row("(model)", leaf=False),
    row("stem.0"),
    row("stem.1"),
    row("stem", leaf=False),
    row("body.relu", call=0),
    row("body.relu", relative=0.5, call=1),
    row("body.conv", relative=0.1, direction="gradient"),
    row("body.conv.weight", relative=0.7, direction="parameter gradient"),
    row("head"),
]


def test_the_tree_holds_each_layer_once_and_each_row():
    nodes = [*grown(result(ROWS, skipped=[Skipped("idle", "Conv2d", "both", "not called in torch")])).within()]
    paths = [node.path for node in nodes]
    layers = {"(model)", "stem", "stem.0", "stem.1", "body", "body.relu", "body.conv", "head", "idle"}
    assert len(paths) == len(set(paths))
    assert set(paths) == layers
    assert sum(len(node.rows) for node in nodes) == len(ROWS)


def test_a_node_differs_where_anything_below_it_does():
    verdicts = {node.path: node.verdict for node in grown(result(ROWS)).within()}
    assert {path for path, verdict in verdicts.items() if verdict == DIFFERS} == {
        "(model)", "body", "body.relu", "body.conv",
    }  # fmt: skip
    assert verdicts["stem"] == ALIGNED


def test_a_node_shows_the_worst_of_its_calls_and_of_its_gradients():
    nodes = {node.path: node for node in grown(result(ROWS)).within()}
    assert nodes["body.relu"].worst(forward=True).relative == 0.5
    assert nodes["body.conv"].worst(forward=False).layer == "body.conv.weight"
    assert nodes["stem.0"].worst(forward=False) is None


def test_what_cannot_be_measured_is_worse_than_any_number():
    rows = [row("a", relative=0.5), row("a", call=1, relative=np.nan), row("a", call=2)]
    assert grown(result(rows)).children["a"].worst(forward=True).call == 1


def test_the_tree_is_open_to_the_first_difference_and_to_each_culprit_and_closed_elsewhere():
    rows = [row("a.b.c"), row("d.e.f", relative=1.0), row("d.g.h", relative=1.0), row("i.j.k", relative=1.0)]
    tree = grown(result(rows, culprits=[Culprit("i.j.k", "i.j.k", "config", "epsilon")]))
    assert {node.path for node in tree.within() if node.open} == {"(model)", "d", "d.e", "i", "i.j"}
    assert [node.path for node in tree.within() if node.first] == ["d.e.f"]


def test_a_culprit_without_a_row_is_in_the_tree():
    tree = grown(result(ROWS, culprits=[Culprit("never.run", "never.run", "weights", "scaled")]))
    assert tree.children["never"].children["run"].verdict == DIFFERS


def test_a_long_run_of_aligned_siblings_is_one_line(tmp_path):
    rows = [row(f"{number}", relative=1.0 if number == 100 else 0.0) for number in range(250)]
    page = html(tmp_path, result(rows))
    assert page.count('class="node') == 250
    assert page.count('<details class="run">') == 2
    assert "100 aligned: 0 to 99" in page
    assert "149 aligned: 101 to 249" in page


def test_a_run_of_layers_that_were_not_compared_is_not_called_aligned(tmp_path):
    skipped = [Skipped(f"idle{number}", "Conv2d", "both", "not called in torch") for number in range(20)]
    page = html(tmp_path, result([row(relative=1.0)], skipped=skipped))
    assert "20 not compared: idle0 to idle19" in page and "20 layers were not compared" in page
    assert "1 layer was not compared" in html(tmp_path, result([row(relative=1.0)], skipped=skipped[:1]))


# --- the page as text -----------------------------------------------------------------------------------------------


def test_everything_that_a_user_names_is_escaped(tmp_path):
    found = Result(
        EVIL, "float64", [row(EVIL, relative=1.0, kind=EVIL), row("other", note=EVIL)],
        skipped=[Skipped(EVIL + "skipped", EVIL, "torch", EVIL)], facts={EVIL: EVIL},
        culprits=[Culprit(EVIL, EVIL + "twin", EVIL, EVIL, (EVIL,) * 9, some_spread(what=EVIL, axes=(EVIL, EVIL)))],
    )  # fmt: skip
    page = html(tmp_path, found, found)
    assert "<script" not in page
    assert 'alert("' not in page
    assert page.count("&lt;script&gt;") > 20


def test_the_page_is_one_file_without_a_script(tmp_path):
    page = html(tmp_path, result(ROWS, culprits=[Culprit("head", "head", "config", "epsilon", (), some_spread())]))
    assert not re.search(r"<script|<link|<img|src=|@import|url\(|http", page)


def test_the_pictures_of_a_culprit_count_each_element_once(tmp_path):
    found = some_spread()
    page = html(tmp_path, result(ROWS, culprits=[Culprit("head", "head", "config", "epsilon", (), found)]))
    picture = re.search(r'<figure class="histogram">.*?</figure>', page, re.DOTALL)[0]
    counted = [int(number.replace(",", "")) for number in re.findall(r": ([\d,]+) elements</title>", picture)]
    assert sum(counted) == found.count == 2 * 8 * 16 * 16


@pytest.mark.parametrize("shape", [(), (4,), (3, 5), (2, 3, 9), (2, 3, 4, 4), (2, 3, 4, 5, 6), (70, 3, 1, 40), (0, 3)])
@pytest.mark.parametrize("value", [0.0, 1e-3, np.nan, np.inf, 1e300])
def test_a_spread_of_any_shape_and_size_can_be_drawn(tmp_path, shape, value):
    expected = np.ones(shape)
    found = spread(expected, expected + value, 1e-13)
    page = html(tmp_path, result(ROWS, culprits=[Culprit("head", "head", "config", "epsilon", (), found)]))
    numbers = re.findall(r' (?:x|y|x1|x2|y1|y2|width|height|d)="([^"]*)"', page)
    assert not [number for number in numbers if "nan" in number or "inf" in number or "--" in number]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e-300, 1e300])
def test_any_error_can_be_drawn_over_depth(tmp_path, value):
    page = html(tmp_path, result([row("a", relative=value), row("b", floor=0.0, allowed=0.0)]))
    drawn = re.findall(r'c[xy]="([^"]*)"|points="([^"]*)"', page)
    assert not [number for numbers in drawn for number in numbers if "nan" in number or "inf" in number]


def test_the_table_is_closed_where_all_is_aligned_and_shows_what_differs_elsewhere(tmp_path):
    aligned, differs = html(tmp_path, result([row()])), html(tmp_path, result(ROWS))
    assert '<details class="tensors"><summary>Tensors: 1 aligned' in aligned
    assert f'<details class="tensors" open><summary>Tensors: 3 of {len(ROWS)} differ' in differs
    assert " checked>" in differs
    assert " checked>" not in aligned


def test_several_results_begin_with_a_line_for_each(tmp_path):
    page = html(tmp_path, result([row()]), result(ROWS))
    assert page.index("2 comparisons") < page.index('<section id="result-0">')
    assert page.count('<a href="#result-') == 2


# --- the page as it looks -------------------------------------------------------------------------------------------


def pair(name):
    from alignment.pairs import build_pair, seeded_source
    from convert.conversion import convert_source

    source = seeded_source(name, 0, num_classes=10, randomise_batch_norm=True)
    return build_pair(source, convert_source(source, name, num_classes=10))


def compared(models, faults, size, **options):
    from alignment import align
    from alignment.faults.catalogue import by_name
    from alignment.faults.fault import injected

    with ExitStack() as stack:
        for name in faults:
            stack.enter_context(injected(by_name(name), models.paddle_model))
        return align(models.torch_model, models.paddle_model, images(2, size=size), **options)


def by_hand():
    rows = [row(str(number)) for number in range(250)]
    name = "a_layer_of_a_very_long_name_that_goes_on_and_on.with_another_very_long_part.conv" * 2
    rows[3] = row(name, np.inf, kind="AVeryLongKindOfLayerFromSomewhere", shape=(16, 1024, 224, 224, 224))
    rows[200] = row("200", np.inf, note="shape [1, 2, 3] instead of [3, 2, 1]")
    sizes = [(), (5,), (2, 1000), (2, 3, 200), (2, 3, 5, 70), (2, 3, 70, 5), (70, 70, 40, 40)]
    spreads = [spread(np.ones(size), np.full(size, value), 1e-13) for size in sizes for value in (2.0, np.nan)]
    cause = "a_cause_without_a_space" * 9
    culprits = [Culprit(name, name + "twin", "config", cause, (cause,) * 7, found) for found in spreads]
    return result(rows, culprits=culprits, facts={"weights": "sha256" * 40})


def aligned():
    found = compared(pair("dla46x_c"), [], 64)
    assert found.passed
    return found


def kinds():
    """With every fault of the catalogue that these tests speak of in it."""
    found = compared(pair("dla46x_c"), KINDS.values(), 64)
    assert {culprit.kind for culprit in found.culprits} == set(KINDS)
    return found


def state():
    found = compared(pair("dla46x_c"), ["bn_biased_variance"], 64, mode="train")
    assert [culprit.kind for culprit in found.culprits] == ["state"]
    return found


def deep():
    models = pair("dla60")
    models.paddle_model.level4.tree1.tree2.tree1.bn2._epsilon = 1e-3
    found = compared(models, [], 32, backward=False)
    assert len(found.rows) > 250
    return found


PAGES = {
    "aligned": (aligned,),
    "kinds": (kinds,),
    "state": (state,),
    "deep": (deep,),
    "by_hand": (by_hand,),
    "several": (aligned, kinds),
}


needs_browser = pytest.mark.skipif(browser.executable() is None, reason="needs Debian's chromium")


@needs_browser
@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("kinds", 700),
        ("by_hand", 1280),
        *(pytest.param(it, 700, marks=pytest.mark.heavy) for it in ("aligned", "state", "deep", "by_hand", "several")),
    ],
)
def test_nothing_sticks_out_is_cut_off_or_overlaps(tmp_path, name, width):
    write_html([made() for made in PAGES[name]], tmp_path / "page.html")
    for measured in browser.measure(tmp_path / "page.html", width):
        assert measured["width"] == width
        assert measured["elements"] > 100
        assert measured["page"] <= width
        assert {key: measured[key] for key in WRONG} == {key: [] for key in WRONG}
        assert 0 <= measured["verdict"][0] < measured["verdict"][1] <= browser.HEIGHT / 2


@needs_browser
@pytest.mark.parametrize(
    ("fault", "content"),
    [
        ("wide", '<div style="width: 3000px">wide</div>'),
        ("cut", '<div style="width: 20px; overflow: hidden; white-space: nowrap">a long text that is cut off</div>'),
        ("clipped", '<svg viewBox="0 0 100 20"><text x="90" y="15">a text too long for it</text></svg>'),
        ("overlapping", '<svg viewBox="0 0 900 20"><text x="1" y="15">one</text><text x="9" y="15">two</text></svg>'),
    ],
)
def test_the_measure_sees_a_page_that_is_wrong(tmp_path, fault, content):
    html(tmp_path, result([row()]))
    page = tmp_path / "page.html"
    page.write_text(page.read_text().replace("</section>", f"{content}</section>"))
    assert all(measured[fault] for measured in browser.measure(page, 700))
