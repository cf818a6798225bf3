"""Fill the tables of docs/configs.md from the schema: ``python docs/make_configs.py``. A test compares them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from paddle_dla.config import load_config
from paddle_dla.config.cost import IMAGENET_IMAGES, cost
from paddle_dla.config.tables import alias_table, option_tables

PAGE = Path(__file__).with_name("configs.md")
CONFIGS = PAGE.parent.parent / "configs"


def recipe_table() -> str:
    """One row per recipe: its file, its purpose, its model and length, its cost."""
    rows = []
    for file in sorted((CONFIGS / "recipes").glob("*.yaml")):
        first, _, header = file.read_text(encoding="utf-8").partition("\n")
        images = int(re.search(r"x ([\d,]+) images", header)[1].replace(",", ""))
        config = load_config(file)
        what = f"{config.model.name}, {config.total_epochs} epoch{'s' * (config.total_epochs > 1)}"
        what += "" if images == IMAGENET_IMAGES else f" of {images:,} images"
        rows.append(f"| `{file.stem}` | {first.lstrip('# ')} | {what} | {cost(config, images).macs:.3g} |\n")
    return "| recipe | purpose | default model and length | MACs |\n| --- | --- | --- | --- |\n" + "".join(rows)


def filled(page: str) -> str:
    """``page`` with each part between ``<!-- NAME -->`` and ``<!-- end -->`` regenerated."""
    parts = {"options": option_tables, "aliases": alias_table, "recipes": recipe_table}
    for name, make in parts.items():
        before, found, rest = page.partition(f"<!-- {name} -->\n")
        _, closed, after = rest.partition("<!-- end -->")
        if not found or not closed:
            raise ValueError(f"{PAGE} has no part from <!-- {name} --> to <!-- end -->")
        page = before + found + make() + closed + after
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
