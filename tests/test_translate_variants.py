"""Modules of one class that differ by a child, an input or a switch become one class of the port."""

from __future__ import annotations

import ast

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402
from translating import Port, assert_close, normal  # noqa: E402

from convert.translate.modules import constructors_recorded  # noqa: E402
from torch_ref.model import import_timm  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

T = import_timm().layers
PARTS = {"BatchNorm2D", "BatchNormAct2D"}

ROUNDING = 1e-12
"""float64 rounding of a few sums, relative to the largest element."""


class Residual(nn.Module):
    """A block whose shortcut may have a layer of its own, and which may scale what it adds."""

    def __init__(self, channels, out, downsample=False, scaled=False, act=True):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.act = nn.ReLU() if act else nn.Identity()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1), nn.ReLU()) if downsample else None
        self.gamma = nn.Parameter(torch.full((out, 1, 1), 0.5)) if scaled else None

    def forward(self, x):
        shortcut = x
        x = self.conv1(x)
        x = self.act(x)
        x = self.conv2(x)
        if self.gamma is not None:
            x = x * self.gamma
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x = x + shortcut
        return x


class Residuals(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Residual(3, 4, True), *[Residual(4, 4) for _ in range(3)])
        self.layer2 = nn.Sequential(Residual(4, 6, True, True), Residual(6, 6, act=False), Residual(6, 6, scaled=True))

    def forward(self, x):
        return self.layer2(self.layer1(x))


class Adding(nn.Module):
    """It adds its input where it is given nothing else."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * channels)
        self.fc2 = nn.Linear(2 * channels, channels)

    def forward(self, x, shortcut=None):
        if shortcut is None:
            shortcut = x
        out = self.fc1(x)
        out = torch.relu(out)
        out = self.fc2(out)
        return out + shortcut


class OptionalInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = Adding(5), Adding(5), Adding(5)

    def forward(self, x):
        y = self.first(x)
        z = self.second(y, x)
        return self.third(z)


class Maybe(nn.Module):
    """A part that some have, and whose number of channels only they know."""

    def __init__(self, channels, inner=0):
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.norm = nn.Linear(channels, channels)
        self.gate = nn.Sequential(nn.Linear(channels, inner), nn.Linear(inner, channels)) if inner else None

    def forward(self, x):
        x = self.fc(x)
        x = self.norm(x)
        if self.gate is not None:
            x = x * self.gate(x)
        return x


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Maybe(4), Maybe(4, 3), Maybe(4), Maybe(4, 5), Maybe(4, 8))

    def forward(self, x):
        return self.blocks(x)


def bottleneck(channels, inner):
    return nn.Sequential(nn.Linear(channels, inner), nn.Linear(inner, channels)) if inner else None


class Either(nn.Module):
    """One of two parts, or both: what one block lacks another has."""

    def __init__(self, channels, first=0, second=0):
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.first, self.second = bottleneck(channels, first), bottleneck(channels, second)

    def forward(self, x):
        x = self.fc(x)
        if self.first is not None:
            x = x + self.first(x)
        if self.second is not None:
            x = x * self.second(x)
        return x


class Eithers(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Either(4, 3, 3), Either(4, 6), Either(4, second=7))

    def forward(self, x):
        return self.blocks(x)


class Switched(nn.Module):
    """It computes something else where a setting says so."""

    def __init__(self, channels, last=False):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.last = last

    def forward(self, x):
        x = self.fc1(x)
        x = torch.tanh(x)
        x = self.fc2(x)
        if self.last:
            x = x.mean(1)
        return x


class Switches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = Switched(4), Switched(4), Switched(4, True)

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class Skipping(nn.Module):
    """It adds its input where both have the same channels; its last layer has an activation where it is told so."""

    def __init__(self, channels, out, act=False):
        super().__init__()
        self.has_skip = channels == out
        self.conv1 = T.ConvNormAct(channels, out, 3)
        self.conv2 = T.ConvNormAct(out, out, 1, apply_act=act)

    def forward(self, x):
        shortcut = x
        x = self.conv1(x)
        x = self.conv2(x)
        if self.has_skip:
            x = x + shortcut
        return x


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Skipping(3, 3), Skipping(3, 4), Skipping(4, 4, True))
        for norm in self.modules():
            norm.eps = 2**-10  # float32 has it exactly

    def forward(self, x):
        return self.blocks(x)


@pytest.mark.parametrize(
    ("module", "shape", "classes"),
    [
        (Residuals, (2, 3, 8, 8), {"Residual", "Residuals"}),
        (OptionalInput, (2, 5), {"Adding", "OptionalInput"}),
        (Skips, (2, 3, 5, 5), {"ConvNormAct", "Skipping", "Skips"}),
        (Parts, (2, 4), {"Maybe", "Parts"}),
        (Eithers, (2, 4), {"Either", "Eithers"}),
        (Switches, (2, 3, 4), {"Switched", "Switches"}),
    ],
)
def test_modules_that_differ_by_what_they_have_are_one_class(module, shape, classes):
    torch.manual_seed(0)
    with constructors_recorded():
        module = module().eval()
    port = Port.of(module, (normal(*shape),))
    tree = ast.parse(port.translated.source)
    made = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - PARTS
    assert made == classes, port.translated.source
    ours, theirs = port.paddle_run(), port.torch_run()
    for our, their in zip(ours.outputs, theirs.outputs, strict=True):
        assert_close(our, their, ROUNDING)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for place, gradient in theirs.gradients.items():
        np.testing.assert_allclose(ours.gradients[place], gradient, rtol=0, atol=1e-10 * np.abs(gradient).max())


class Unlike(nn.Module):
    """One class, two computations that have little in common."""

    def __init__(self, channels, deep):
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.more = nn.Sequential(nn.Linear(channels, 3), nn.Tanh(), nn.Linear(3, channels)) if deep else None

    def forward(self, x):
        if self.more is not None:
            return torch.sin(self.more(x)) + torch.cos(x)
        return self.fc(x).exp()


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Unlike(4, True), Unlike(4, False)

    def forward(self, x):
        return self.b(self.a(x))


def test_what_has_little_in_common_stays_apart():
    port = Port.of(Both().eval(), (normal(2, 4),))
    assert [made.name for made in port.translated.translation.classes if made.name.startswith("Unlike")] == [
        "Unlike", "Unlike2"
    ]  # fmt: skip


class Shortcut(nn.Module):
    """Its child is called as a variable of its forward method is."""

    def __init__(self, channels, out):
        super().__init__()
        self.fc = nn.Linear(channels, out)
        self.fc2 = nn.Linear(out, out)
        self.shortcut = nn.Linear(channels, out) if channels != out else None

    def forward(self, x):
        shortcut = x
        x = self.fc(x)
        x = self.fc2(x)
        return x + (shortcut if self.shortcut is None else self.shortcut(shortcut))


def test_an_argument_is_named_as_its_child_though_a_variable_of_the_forward_method_is_too():
    with constructors_recorded():
        module = nn.Sequential(Shortcut(3, 3), Shortcut(3, 4)).eval()
    port = Port.of(module, (normal(2, 3),))
    made = next(made for made in port.translated.translation.classes if made.name == "Shortcut")
    assert made.arguments[-1] == "shortcut"
    assert_close(port.paddle_run().outputs[0], port.torch_run().outputs[0], ROUNDING)
