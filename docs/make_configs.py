"""Fill the tables of docs/configs.md and docs/configs.zh-CN.md from the schema: ``python docs/make_configs.py``.

A test compares them. The Chinese page has Chinese headings; what each option means is the English text that
``paddle-dla config`` prints, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from marked_parts import filled

from paddle_dla.config import load_config
from paddle_dla.config.cost import IMAGENET_IMAGES, cost
from paddle_dla.config.tables import alias_table, option_tables

PAGE = Path(__file__).with_name("configs.md")
CHINESE_PAGE = PAGE.with_name("configs.zh-CN.md")
CHINESE = {
    "| option | default | expected | meaning |": "| 选项 | 默认值 | 取值 | 含义 |",
    "| older name | today | conversion |": "| 旧名称 | 现名称 | 转换方式 |",
    "| recipe | purpose | default model and length | MACs |": "| 配方 | 用途 | 默认模型与长度 | MAC 数 |",
    "The network and its initial weights.": "网络及其初始权重。",
    "Where the images are and how they are read.": "图像的位置与读取方式。",
    "Image preprocessing. Mean and standard deviation apply to training and evaluation.": (
        "图像预处理。均值和标准差同时用于训练和评测。"
    ),
    "Mixup and CutMix, as `timm.data.Mixup` defines them. Label smoothing is `loss.smoothing`.": (
        "Mixup 与 CutMix，定义同 `timm.data.Mixup`。标签平滑由 `loss.smoothing` 设置。"
    ),
    "The loss that training minimises.": "训练所最小化的损失。",
    "The optimizer and its learning rate.": "优化器及其学习率。",
    "The learning rate over the epochs. Lengths are in epochs.": "学习率随轮次的变化。长度以轮为单位。",
    "A moving average of the weights, evaluated in addition to them.": "权重的滑动平均，与权重本身一同评测。",
    "The run itself.": "运行本身。",
    "How a model is evaluated.": "模型的评测方式。",
}
"""What stands on a line of its own in the tables, by what it is in English."""
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


def written(page: str, words: Mapping[str, str] | None = None) -> str:
    """``page`` with its tables made again, lines that are ``words`` in another language."""

    def made(name: str) -> str:
        return "".join((words or {}).get(line, line) + "\n" for line in PARTS[name]().splitlines())

    return filled(page, {name: lambda _, name=name: made(name) for name in PARTS})


def main() -> None:
    """Fill both pages."""
    for page, words in ((PAGE, {}), (CHINESE_PAGE, CHINESE)):
        page.write_text(written(page.read_text(encoding="utf-8"), words), encoding="utf-8")


if __name__ == "__main__":
    main()
