"""The page on coverage says what the measured tables say."""

from pathlib import Path

import make_coverage
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", make_coverage.PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_script_makes(page):
    """If this fails: ``python docs/make_coverage.py``."""
    text = page.read_text(encoding="utf-8")
    assert make_coverage.written(text) == text
    assert make_coverage.written(text.replace("✓", "–")) == text  # what was typed is seen


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="no part from <!-- families -->"):
        make_coverage.written("<!-- families count -->\n<!-- end -->")


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("aligned", "*"),
        ("the reference refuses: Input height", "*"),
        ("the port refuses: height and width must be multiples of 64, got [288, 288]", "/64"),
        ("the port refuses: height and width must be 224 and 224, got [256, 256]", "224"),
        ("differs", "differs"),
    ],
)
def test_the_sizes_of_a_port_are_told_as_measured(size, told):
    assert make_coverage.sizes({"size": size}) == told


def test_every_family_of_timm_is_in_the_table():
    with (ROOT / "benchmarks" / "families.csv").open(encoding="utf-8") as file:
        known = {line.split(",")[0] for line in file.read().splitlines()[1:]}
    assert {row["family"] for row in make_coverage.records("families")} == known
