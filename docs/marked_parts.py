"""The parts of a page that a script writes: what stands between ``<!-- NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

END = "<!-- end -->"


def filled(page: str, parts: Mapping[str, Callable[[str], str]]) -> str:
    """``page`` with each part made again: ``{name: what makes its text of the text that stands there}``.

    Raises ``ValueError`` for a page that lacks one of the parts.
    """
    for name, make in parts.items():
        before, found, rest = page.partition(f"<!-- {name} -->\n")
        text, closed, after = rest.partition(END)
        if not found or not closed:
            raise ValueError(f"the page has no part from <!-- {name} --> to {END}")
        page = before + found + make(text) + closed + after
    return page
