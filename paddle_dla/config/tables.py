"""The tables of ``docs/configs.md``, generated from the schema and from the older names."""

from __future__ import annotations

from paddle_dla.config.aliases import ALIASES
from paddle_dla.config.option import fields
from paddle_dla.config.schema import Config, known_options
from paddle_dla.config.writing import shown


def option_tables() -> str:
    """One table per section, one row per option: name, default, expected values, meaning."""
    grouped: dict[str, list[str]] = {}
    for key, item in known_options().items():
        row = _row(f"`{key}`", f"`{shown(item.default)}`", item.expected, item.doc)
        grouped.setdefault(key.split(".")[0], []).append(row)
    head = _row("option", "default", "expected", "meaning") + _row(*["---"] * 4)
    return "\n".join(f"### {name}\n\n{_purpose(name)}\n\n{head}{''.join(rows)}" for name, rows in grouped.items())


def alias_table() -> str:
    """One row per older name: the name today, and how its value is converted."""
    rows = [_row(f"`{row.old}`", _names(row.today), row.doc) for row in ALIASES.values()]
    return _row("older name", "today", "conversion") + _row(*["---"] * 3) + "".join(rows)


def _purpose(name: str) -> str:
    return (fields(Config)[name].annotation.__doc__ or "").replace("``", "`")


def _names(keys: tuple[str, ...]) -> str:
    return ", ".join(f"`{key}`" for key in keys) or "(none)"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
