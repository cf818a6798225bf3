"""Names from files as safe text: nothing in them moves a cursor, forges a line or fills the screen."""

from __future__ import annotations

import re

MOST_SHOWN = 200
"""Characters of a name in a message: enough for a long path, and the message stays readable."""

# Unicode control characters, direction marks and other format characters, line separators, and the surrogates by which
# Python represents bytes that are not UTF-8
_FORMAT = "\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
UNSHOWN = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f{_FORMAT}]")
"""Characters to escape in a name, which is one line."""
UNSHOWN_IN_LINES = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f{_FORMAT}]")
"""Characters to escape in text that has lines and tabs."""


def shown(text: object, most: int = MOST_SHOWN) -> str:
    """Return ``text`` with the characters that no terminal should get escaped, and the middle of a long text left out.

    >>> shown("a" + chr(27) + "[2Jb")
    'a\\\\x1b[2Jb'
    """
    name = str(text)
    if len(name) > most:
        kept = most // 2
        name = f"{name[:kept]} ... ({len(name):,} characters) ... {name[-kept:]}"
    return escaped(name, UNSHOWN)


def escaped(text: str, what: re.Pattern[str]) -> str:
    """Return ``text`` with every character that ``what`` matches escaped as in Python."""
    return what.sub(_as_python, text)


def _as_python(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
