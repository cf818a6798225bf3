"""What the documents show is what happens: their Python blocks run, in order, in one namespace."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([^)\s]+))?\)")  # within the project: an address has a colon


def python_blocks(page):
    """The Python that a page shows, without comments and empty lines, one text for each block."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s*#.*", "", block) for block in blocks]


def anchors(page):
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.any_paddle
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        found = page.parent / target
        assert found.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(found), f"{target} has no heading #{anchor}"


@pytest.mark.any_paddle
def test_both_readmes_show_the_same_code_and_fit_on_two_screens():
    pages = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
    ours, theirs = map(python_blocks, pages)
    assert ours == theirs and len(ours) == 2
    assert all(len(page.read_text(encoding="utf-8").splitlines()) <= 120 for page in pages)


CHINESE = sorted(DOCS.glob("*.zh-CN.md"))


def code_blocks(text):
    """The code that a page shows, without comments, one text for each block."""
    return [re.sub(r"\s+# .*", "", block) for block in re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)]


@pytest.mark.any_paddle
@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_shows_the_code_of_the_english_one(page):
    english = page.with_name(page.name.replace(".zh-CN", ""))
    ours, theirs = (code_blocks(each.read_text(encoding="utf-8")) for each in (english, page))
    assert ours == theirs


@pytest.mark.any_paddle
def test_code_that_differs_is_seen_and_comments_are_not():
    text = "```console\n$ paddle-dla info    # a comment\n```\n"
    assert code_blocks(text) == code_blocks(text.replace("a comment", "注释"))
    assert code_blocks(text) != code_blocks(text.replace("info", "train"))


@pytest.mark.torch
def test_the_example_of_the_readme_prints_what_it_shows(capsys):
    exec(compile(python_blocks(ROOT / "README.md")[0], "README.md", "exec"), {})
    shown = re.findall(r"^```\n(NOT ALIGNED.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown == [capsys.readouterr().out.splitlines()[1]]


EXAMPLES = [DOCS / "index.md", DOCS / "align-training.md"]


@pytest.mark.torch
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_the_example_of_a_page_prints_what_it_shows(page, capsys):
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), {})
    shown = re.findall(r"^```\n(NOT ALIGNED.*?)\n```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(shown) == 1 and shown[0] in capsys.readouterr().out.splitlines()


@pytest.mark.torch
def test_the_walk_from_an_empty_file_to_a_verified_port_works(capsys):
    text = (DOCS / "port-your-own-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = [block for language, block in blocks if language == "python"]
    shown = [block for language, block in blocks if not language]
    assert (len(code), len(shown)) == (9, 3)
    namespace = {"__name__": "port_your_own_model"}
    for block in code:
        exec(compile(block, "port-your-own-model.md", "exec"), namespace)
    printed = capsys.readouterr().out
    for line in "".join(shown).splitlines():
        assert line.split("...")[0].strip() in printed, line


@pytest.mark.torch
def test_the_walk_from_a_torch_module_to_a_port_works(capsys, tmp_path):
    text = (DOCS / "porting-any-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = [block for language, block in blocks if language == "python"]
    shown = [block for language, block in blocks if not language]
    assert (len(code), len(shown)) == (4, 4)
    namespace = {"__name__": "porting_any_model", "folder": tmp_path / "port"}
    for block in code:
        exec(compile(block, "porting-any-model.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert printed.startswith("ALIGNED")
    for line in "".join(shown).splitlines():
        assert line in printed, line


# --- the page on robustness, in two languages -------------------------------------------------------------------------

ROBUSTNESS = [DOCS / "robustness.md", DOCS / "robustness.zh-CN.md"]
NAMED = re.compile(r"`(test_\w+\.py)`")


def parts(page):
    """Of each heading: the tests that its table names row by row, how many points its lists have, its examples."""
    text = page.read_text(encoding="utf-8")
    found = []
    for part in re.split(r"^## .*$", text, flags=re.MULTILINE):
        rows = [NAMED.findall(line) for line in part.splitlines() if line.startswith("|")]
        points = sum(line.startswith("- ") for line in part.splitlines())
        found.append((rows, points, re.findall(r"^```.*?^```", part, re.DOTALL | re.MULTILINE)))
    return found


@pytest.mark.any_paddle
def test_both_pages_on_robustness_promise_the_same():
    english, chinese = map(parts, ROBUSTNESS)
    assert english == chinese and sum(points for _, points, _ in english) >= 50


@pytest.mark.any_paddle
@pytest.mark.parametrize("page", ROBUSTNESS, ids=lambda page: page.name)
def test_every_promise_names_tests_that_are_there(page):
    rows = [row for promises, _, _ in parts(page) for row in promises[2:]]
    assert all(rows) and len(rows) > 60
    assert [name for row in rows for name in row if not (DOCS.parent / "tests" / name).is_file()] == []


@pytest.mark.any_paddle
def test_both_pages_on_robustness_are_linked():
    for readme, page in (("README.md", "robustness.md"), ("README.zh-CN.md", "robustness.zh-CN.md")):
        assert f"](docs/{page})" in (DOCS.parent / readme).read_text(encoding="utf-8")
