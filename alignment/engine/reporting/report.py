"""A result that prints itself, as ``align``, ``align_training`` and ``align_data`` return it. No framework."""

from __future__ import annotations

import os

from alignment.engine.reporting.page import framed, write_html
from alignment.engine.reporting.text import text, write_json
from alignment.engine.result import Result


class Report(Result):
    """A ``Result`` as text, as JSON and as a page."""

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything that was measured."""
        write_json([self], path)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with a picture."""
        write_html([self], path)

    def _repr_html_(self) -> str:
        """The page, in a frame of its own, as notebooks show it."""
        return framed([self])

    def __str__(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        """One line; ``print`` shows all of it."""
        return f"<{self.title}: {self.verdict()}>"
