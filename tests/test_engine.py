"""The comparison itself, on tapes made by hand: what it measures, what it lists, what it must not pass."""

import json

import numpy as np
import pytest

from alignment.engine.judging.by_name import compare_tapes
from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import MARGIN, NoiseFloor
from alignment.engine.judging.noise import RoundedRun, run_in_both
from alignment.engine.records.store import Budget, Store
from alignment.engine.records.tape import Record, Tape
from alignment.engine.reporting.page import write_html
from alignment.engine.reporting.text import coverage, table, text, write_json
from alignment.engine.result import Culprit, Result, Row
from alignment.engine.spread import spread


def tape(calls, extra_layers=()):
    """A tape out of ``(path, array, ...)`` tuples in the order of execution."""
    result = Tape({path: "Layer" for path, *_ in calls} | dict.fromkeys(extra_layers, "Layer"), Store())
    for path, *arrays in calls:
        outputs = tuple(result.store.put(np.asarray(array, np.float64)) for array in arrays)
        result.records.append(Record(path, "Layer", result.next_call(path), True, None, outputs=outputs))
    return result


def result_of(reference, port):
    return compare_tapes("made by hand", reference, port, NoiseFloor("float64", {}))


def row(layer="layer", relative=0.0, **changes):
    values = dict(
        layer=layer, twin=layer, kind="Conv2d", call=0, depth=0, leaf=True, shape=(2, 3), max_abs=relative,
        relative=relative, floor=1e-16, allowed=1e-12,
    )  # fmt: skip
    return Row(**(values | changes))


def test_one_wrong_element_among_a_million_is_measured_and_found():
    reference = np.ones((100, 100, 100))
    candidate = reference.copy()
    candidate[3, 14, 15] += 0.25
    found = compare(reference, candidate)
    assert (found.max_abs, found.relative, found.worst, found.count) == (0.25, 0.25, (3, 14, 15), 1_000_000)


def test_errors_that_cancel_in_the_mean_are_seen():
    assert compare(np.array([1.0, 1.0]), np.array([2.0, 0.0])).relative == 1.0


def test_the_error_is_relative_to_the_largest_magnitude():
    assert compare(np.array([-8.0, 1e-9]), np.array([-8.0, 2e-9])).relative == pytest.approx(1e-9 / 8)


@pytest.mark.parametrize(
    ("reference", "candidate"), [(1.0, np.nan), (np.nan, 1.0), (np.inf, -np.inf), (1.0, np.inf), (np.nan, np.inf)]
)
def test_a_value_that_is_not_a_number_on_one_side_is_an_infinite_error(reference, candidate):
    found = compare(np.array([1.0, reference]), np.array([1.0, candidate]))
    assert found.max_abs == np.inf
    assert found.worst == (1,)


def test_the_same_non_finite_values_on_both_sides_are_equal():
    values = np.array([1.0, np.nan, np.inf, -np.inf])
    assert compare(values, values.copy()).max_abs == 0


def test_another_shape_is_a_mismatch_even_where_it_would_broadcast():
    found = compare(np.zeros((2, 1)), np.zeros((2, 3)))
    assert found.mismatch == "shape [2, 3] instead of [2, 1]"
    assert found.relative == np.inf


def test_a_difference_from_nothing_is_infinite():
    assert compare(np.zeros(3), np.full(3, 1e-30)).relative == np.inf


def floor(first, second, dtype):
    """The floor of the only array that two runs store."""
    exact = Store()
    ref, rounded = exact.put(np.array(first)), RoundedRun(exact)
    rounded.put(np.array(second, np.float32))
    return NoiseFloor(dtype, dict(enumerate(rounded.noise))), ref


def test_the_floor_is_the_error_of_the_reference_in_float32():
    found, ref = floor([1.0, 2.0], [1.0, 2.0 + 2.0**-22], "float32")
    assert found.of(ref) == 2.0**-23
    in_float64, ref = floor([1.0, 2.0], [1.0, 2.0 + 2.0**-22], "float64")
    assert in_float64.of(ref) == 2.0**-52
    assert in_float64.allowed(ref) == MARGIN["float64"] * 2.0**-52


def test_an_exact_reference_still_leaves_the_unit_roundoff():
    found, ref = floor([1.0], [1.0], "float64")
    assert found.of(ref) == 2.0**-53


def test_runs_that_differ_in_kind_are_granted_nothing():
    found, ref = floor([1.0, 2.0], [[1.0], [2.0]], "float64")
    assert found.of(ref) == 2.0**-53


def test_a_tensor_that_is_nothing_but_rounding_is_known_as_such():
    found, ref = floor([1e-17], [1e-9], "float64")
    assert found.vanishes(ref)
    found, ref = floor([1.0], [1.01], "float64")
    assert not found.vanishes(ref)


@pytest.mark.parametrize("exact", [0.0, 3e-17])
def test_chance_that_leaves_nothing_of_a_single_number_is_no_measure_of_its_terms(exact):
    """The terms are of size 1, so that a port is off by 1e-16; the first run in float32 happens to leave 0 of them."""
    left = {"float64": [exact], "float32": [0.0, 2e-8, 6e-8, 1e-8]}

    def run(dtype, store, nudge=0):
        made = Tape({}, store)
        made.param_grads = {"bias": store.put(np.array([left[dtype][nudge]]))}
        return made

    made, noise = run_in_both(run, Budget())
    found, ref = NoiseFloor("float64", noise), made.param_grads["bias"]
    assert found.vanishes(ref)
    assert found.scaled(compare(np.array([exact]), np.array([exact + 1e-16])), ref).relative <= found.allowed(ref)
    assert found.scaled(compare(np.array([exact]), np.array([1e-5])), ref).relative > found.allowed(ref)


def test_a_gradient_that_is_zero_in_every_run_is_granted_nothing():
    def run(dtype, store, nudge=0):
        made = Tape({}, store)
        made.param_grads = {"bias": store.put(np.zeros(1))}
        return made

    made, noise = run_in_both(run, Budget())
    found, ref = NoiseFloor("float64", noise), made.param_grads["bias"]
    assert found.scaled(compare(np.zeros(1), np.array([1e-300])), ref).relative > found.allowed(ref)


def test_equal_tapes_are_aligned():
    calls = [("a", [1.0]), ("b", [2.0])]
    result = result_of(tape(calls), tape(calls))
    assert result.passed
    assert result.first_difference is None


def test_the_first_difference_in_the_order_of_execution_is_named():
    result = result_of(
        tape([("a", [1.0]), ("b", [1.0]), ("c", [1.0])]), tape([("a", [1.0]), ("c", [9.0]), ("b", [1.5])])
    )
    assert result.first_difference.layer == "b"
    assert not result.passed


def test_calls_of_one_layer_are_compared_one_by_one():
    result = result_of(tape([("relu", [1.0]), ("relu", [2.0])]), tape([("relu", [1.0]), ("relu", [3.0])]))
    assert [r.aligned for r in result.rows] == [True, False]
    assert result.first_difference.call == 1


def test_a_missing_call_is_a_difference():
    result = result_of(tape([("relu", [1.0]), ("relu", [2.0])]), tape([("relu", [1.0])]))
    assert result.first_difference.note == "call 2 of this layer is missing in Paddle"


def test_an_extra_call_is_a_difference():
    result = result_of(tape([("relu", [1.0])]), tape([("relu", [1.0]), ("relu", [2.0])]))
    assert result.first_difference.note == "call 2 of this layer is missing in torch"


def test_another_number_of_outputs_is_a_difference():
    one, two = tape([("split", np.ones(2))]), tape([("split", np.ones(2), np.ones(2))])
    assert result_of(one, two).first_difference.note == "2 outputs in Paddle, 1 in torch"


def test_layers_of_one_side_are_listed_with_the_reason():
    result = result_of(tape([("a", [1.0]), ("t", [1.0])], ["idle"]), tape([("a", [1.0]), ("p", [1.0])], ["idle"]))
    assert [(s.layer, s.side, s.reason) for s in result.skipped] == [
        ("t", "torch", "no layer of this name in Paddle"),
        ("idle", "both", "not called in torch"),
        ("p", "Paddle", "no layer of this name in torch"),
    ]
    assert "not compared: t (Layer, torch): no layer of this name in Paddle" in coverage(result)


def test_nothing_compared_is_no_success():
    result = result_of(tape([("a", [1.0])]), tape([("b", [1.0])]))
    assert result.rows == []
    assert not result.passed
    assert result.verdict() == "NOT ALIGNED: nothing was compared"


def test_a_nan_is_never_aligned():
    assert not row(relative=np.nan).aligned


def test_the_table_folds_aligned_rows_and_never_a_difference():
    rows = [row(f"layer{i}") for i in range(100)]
    rows[50] = row("culprit", relative=0.5)
    result = Result("folded", "float64", rows)
    folded = table(result).splitlines()
    assert len(folded) < 60
    assert sum("culprit" in line and "differs" in line for line in folded) == 1
    assert len(table(result, fold=False).splitlines()) == 101


def test_the_report_tells_the_verdict_then_the_culprits_then_what_was_run_then_the_table_then_the_coverage():
    culprit = Culprit("bad", "twin", "config", "another epsilon", ("epsilon 1 instead of 2",))
    result = Result("title", "float64", [row(), row("bad", relative=0.1)], facts={"weights": "x"}, culprits=[culprit])
    lines = [line for line in text(result).splitlines() if line]
    assert lines[:5] == [
        "title",
        "NOT ALIGNED: config fault in bad: another epsilon",
        "config fault in bad (in Paddle twin): another epsilon",
        "  epsilon 1 instead of 2",
        "weights: x",
    ]
    assert lines[5].startswith("layer ")
    assert lines[-1].startswith("compared: 2 tensors")


def test_a_report_longer_than_a_screen_repeats_the_verdict_at_its_end():
    result = Result("title", "float64", [row(str(number)) for number in range(100)])
    assert text(result).splitlines()[-1] == result.verdict() == text(result).splitlines()[1]
    assert text(Result("title", "float64", [row()])).count("ALIGNED") == 1


def test_json_holds_every_row_and_stays_valid_with_infinite_errors(tmp_path):
    result = Result("title", "float64", [row(), row("bad", relative=np.inf, note="shape")])
    write_json([result], tmp_path / "deep" / "report.json")
    content = json.loads((tmp_path / "deep" / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["passed"] is False
    assert content["first_divergence"] == "bad"
    assert [r["verdict"] for r in content["rows"]] == ["aligned", "differs"]


def test_json_keeps_lists_of_numbers_on_one_line_and_changes_nothing_else(tmp_path):
    found = spread(np.ones((2, 3, 4, 4)), np.full((2, 3, 4, 4), np.nan))
    words = "[\n 1,\n 2\n]"
    result = Result("title", "float64", [row()], culprits=[Culprit("bad", "bad", "config", words, (words,), found)])
    write_json([result], tmp_path / "report.json")
    written = (tmp_path / "report.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(result.to_dict()))
    assert '["inf", "inf", "inf", "inf"]' in written


def test_the_page_is_one_file_that_shows_every_row_and_escapes_names(tmp_path):
    rows = [row(f"layer{i}", relative=10.0 ** -(i % 20)) for i in range(250)] + [row("<script>", relative=np.inf)]
    write_html([Result("page", "float64", rows)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<circle") == page.count("<tr class=") == 251
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")
