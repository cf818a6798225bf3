"""Names from files as text for people: nothing in them moves a cursor, forges a line or fills the screen."""

from __future__ import annotations

MOST_SHOWN = 200
"""Characters of a name in a message: a long path fits, and a message stays readable."""


def shown(text: object, most: int = MOST_SHOWN) -> str:
    """``text`` with every character that is not printable escaped as Python writes it, and its middle left out.

    Control characters, line breaks, marks of direction and bytes that are no UTF-8 are not printable.

    >>> shown("a" + chr(27) + "[2Jb")
    'a\\\\x1b[2Jb'
    """
    name = str(text)
    if len(name) > most:
        kept = most // 2
        name = f"{name[:kept]} ... ({len(name):,} characters) ... {name[-kept:]}"
    return name if name.isprintable() else "".join(map(_escaped, name))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
