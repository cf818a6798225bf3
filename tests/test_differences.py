"""docs/differences.md: each demonstration prints what is shown, and ``align`` says what is quoted."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "differences.md"
CHINESE = PAGE.with_name("differences.zh-CN.md")
SECTION = re.compile(r"^### (.+?)$(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
QUOTE = re.compile(r"^- \*\*align.*`([^`]{30,})`$", re.MULTILINE)
IMAGES = np.random.RandomState(0).standard_normal((4, 3, 8, 8))
LOGITS = np.array([[0.0, -100.0, 1.0]])
INDICES = np.array([[0, 1, 2]])

pytestmark = pytest.mark.torch


def sections() -> dict[str, str]:
    return dict(SECTION.findall(PAGE.read_text(encoding="utf-8")))


def test_every_demonstration_prints_what_the_page_shows(capsys):
    namespace = {}
    for language, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), namespace)
        else:
            assert capsys.readouterr().out == block
    assert all("```python" in text and "**Do:**" in text for text in sections().values())


def test_the_chinese_page_shows_the_same_demonstrations_and_quotes():
    english, chinese = (page.read_text(encoding="utf-8") for page in (PAGE, CHINESE))
    assert BLOCK.findall(chinese) == BLOCK.findall(english)
    assert QUOTE.findall(chinese) == QUOTE.findall(english)


def pairs():
    """(section, torch module, Paddle layer, inputs, options) of every section that quotes ``align``."""
    import paddle
    import torch
    from paddle.nn.functional import interpolate as resized
    from torch.nn.functional import interpolate

    t, p = torch.nn, paddle.nn
    embedding = t.Embedding(5, 3, padding_idx=0)
    torch.nn.init.normal_(embedding.weight)
    resize = {"size": (11, 11), "mode": "bilinear", "align_corners": True}
    far = np.where(IMAGES > 2, np.nan, IMAGES)
    train, one, ignored = {"mode": "train"}, {"labels": np.array([1])}, {"labels": np.array([0, -100])}
    numbers = np.array([[0.0, -1.0, 1.0], [1.0, 2.0, 3.0]])
    return [
        ("BatchNorm: running variance", t.BatchNorm2d(3), p.BatchNorm2D(3), IMAGES, train),
        ("BatchNorm: momentum", t.BatchNorm2d(3), p.BatchNorm2D(3, momentum=0.1), IMAGES, train),
        ("ReLU: NaN", t.ReLU(), p.ReLU(), far, {}),
        ("Hard sigmoid: slope", t.Hardsigmoid(), p.Hardsigmoid(), IMAGES, {}),
        ("SiLU: gradient of large negative inputs", t.SiLU(), p.Silu(), np.array([[-720.0, 1.0, 2.0]]), {}),
        ("Softmax and cross entropy: far logits", t.Identity(), p.Identity(), LOGITS, one),
        ("Cross entropy: ignored labels", t.Identity(), p.Identity(), numbers, ignored),
        ("AvgPool: padding", t.AvgPool2d(3, 2, 1), p.AvgPool2D(3, 2, 1), IMAGES, {}),
        ("Average pooling: gradient", t.AdaptiveAvgPool2d(1), p.AdaptiveAvgPool2D(1), IMAGES[..., :7, :7], {}),
        ("Bilinear resizing: aligned corners", made(t.Module, lambda x: interpolate(x, **resize)),
         made(p.Layer, lambda x: resized(x, **resize)), IMAGES, {}),
        ("Bilinear resizing: align_mode", t.Upsample(scale_factor=2, mode="bilinear"),
         p.Upsample(scale_factor=2, mode="bilinear", align_mode=1), IMAGES, {}),
        ("Linear: transposed", t.Linear(8, 8), p.Linear(8, 8), IMAGES, {}),
        ("Embedding: padding_idx", embedding, p.Embedding(5, 3, padding_idx=0), INDICES, {}),
        ("Recurrent layers: backward in evaluation", t.LSTM(2, 2, batch_first=True), p.LSTM(2, 2), IMAGES[0, :, :, :2],
         {}),
    ]  # fmt: skip


def made(base, function):
    """A module or layer that calls ``function``."""
    model = base()
    model.forward = function
    return model


def test_align_says_what_the_page_quotes():
    from paddle.nn import Sequential as Layers
    from torch.nn import Sequential as Modules

    from alignment import align, transfer

    quoted = {name: quote[1] for name, text in sections().items() if (quote := QUOTE.search(text))}
    said = {}
    for name, ours, theirs, inputs, options in pairs():
        recurrent = "Recurrent" in name
        reference, port = (ours, theirs) if recurrent else (Modules(ours), Layers(theirs))
        reference.train(options.get("mode") == "train")
        transfer(reference, port)
        if "transposed" in name:
            theirs.weight.set_value(theirs.weight.numpy().T.copy())
        try:
            report = align(reference, port, inputs, **options)
            said[name] = {report.verdict(), *report.facts.values()}
        except ValueError as error:
            said[name] = {str(error)}
    assert {name: quote in said.get(name, ()) for name, quote in quoted.items()} == dict.fromkeys(said, True), said
