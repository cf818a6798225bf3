"""What the documents show is what happens: their Python blocks run, in order, in one namespace."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


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
