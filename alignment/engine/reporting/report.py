"""The printable result that ``align``, ``align_training`` and ``align_data`` return. No framework."""

from __future__ import annotations

import os

from alignment.engine.reporting.page import framed, write_html
from alignment.engine.reporting.text import text, write_json
from alignment.engine.result import Result


class Report(Result):
    """A ``Result`` as text, as JSON and as a page."""

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write all measurements as JSON."""
        write_json([self], path)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as an HTML page."""
        write_html([self], path)

    def _repr_html_(self) -> str:
        """Return the page in its own frame, for notebooks."""
        return framed([self])

    def __str__(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        """Return one line; ``print`` shows the whole report."""
        return f"<{self.title}: {self.verdict()}>"
