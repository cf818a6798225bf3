"""Fill the tables of docs/configs.md from the schema: ``python docs/make_configs.py``. A test compares them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from marked_parts import filled

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


PARTS = {"options": option_tables, "aliases": alias_table, "recipes": recipe_table}


def written(page: str) -> str:
    """``page`` with its tables made again."""
    return filled(page, {name: lambda _, make=make: make() for name, make in PARTS.items()})


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
