"""Torch modules as users write them, of no library: what ``convert/port.py --torch user_models:NAME`` is tried on."""

import torch
from torch import nn
from torch.nn import functional as F


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, left, right):
        return self.out(self.left(left).tanh() * F.elu(self.right(right)))


class DictOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 4)

    def forward(self, x):
        features = F.silu(self.norm(self.conv(x)))
        return {"features": features, "logits": self.head(features.mean((2, 3))), "most": [features.amax((2, 3))]}


class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, batch_first=True)
        self.out = nn.Linear(16, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        states, _ = self.lstm(self.embed(tokens))
        return self.out(states)


class Double(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    def __init__(self, widths=(8, 16, 32)):
        super().__init__()
        pairs = [*zip(widths[::-1], widths[-2::-1])]
        self.down = nn.ModuleList(Double(i, o) for i, o in zip((3, *widths), widths))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.merge = nn.ModuleList(Double(2 * o, o) for _, o in pairs)
        self.out = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        skips = []
        for down in self.down[:-1]:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips)):
            x = merge(torch.cat([up(x), skip], 1))
        return self.out(x)


class Step(nn.Module):
    """A block that uses a module which another block owns too."""

    def __init__(self, shared):
        super().__init__()
        self.shared, self.own = shared, nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.shared(self.own(x)).relu()


class Shared(nn.Module):
    """Two blocks with one module in common, which has a layer inside."""

    def __init__(self):
        super().__init__()
        shared = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.GELU())
        self.first, self.second = Step(shared), Step(shared)

    def forward(self, x):
        return self.second(self.first(x))


class Trunk(nn.Module):
    """Returns what it computed half-way too, in training."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Double(3, 6), Double(6, 8)

    def forward(self, x):
        half = self.first(x)
        x = self.second(half)
        return (x, half) if self.training else x


class Auxiliary(nn.Module):
    """A second head that training alone uses, and another output in evaluation."""

    def __init__(self):
        super().__init__()
        self.trunk = Trunk()
        self.head, self.aux = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, x):
        if self.training:
            x, half = self.trunk(x)
            return self.head(x.mean((2, 3))), self.aux(half.mean((2, 3)))
        return self.head(self.trunk(x).mean((2, 3))).softmax(-1)


class InPlace(nn.Module):
    """Changes slices and results in place."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.fc1(x)
        x[:, 1:] += x[:, :-1] * 2
        y = self.fc2(x).relu_().mul_(2)
        out = torch.zeros_like(y)
        out[:, 0] = y[:, 1]
        out[:, 2:, 3:5] = y[:, 2:, :2]
        return out + y


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:  # the values decide
            return self.fc(x)
        return x


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class OwnBackward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return _Square.apply(self.fc(x))  # its own backward


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.special.bessel_j0(self.fc(x))  # an operator without a rule


def raising():
    raise RuntimeError("no such device")


def a_number():
    return 3


def exiting():
    raise SystemExit(0)


class Exiting(nn.Module):
    def forward(self, x):
        raise SystemExit(0)


def nan():
    """A network with one weight that is no number."""
    module = Branching()
    module.fc.weight.data[1, 2] = float("nan")
    return module


class BySize(nn.Module):
    """Takes another branch for small images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x if x.shape[2] < 40 else F.avg_pool2d(x, 2)


class AtOneSize(BySize):
    """Takes another branch at every size but one."""

    def forward(self, x):
        x = self.conv(x)
        return x if x.shape[2] == 32 and x.shape[3] == 32 else x * 2


class OwnDropPath(nn.Module):
    """Stochastic depth, as many a repository has a copy of it."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x.div(keep) * torch.floor(keep + torch.rand(shape, dtype=x.dtype, device=x.device))


class Tagger(nn.Module):
    """Token ids and a mask, by name; positions that are not trained; a dict that is not in the order of its keys."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 8, padding_idx=0)
        self.positions = nn.Embedding(12, 8).requires_grad_(False)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.drops = nn.ModuleList([OwnDropPath(0.0), OwnDropPath(0.25)])
        self.head = nn.Linear(8, 3)

    def forward(self, embedded=None, ids=None, mask=None):
        x = self.tokens(ids) if embedded is None else embedded
        x = x + self.positions.weight[: x.shape[1]]
        for block, drop in zip(self.blocks, self.drops):
            x = x + drop(torch.tanh(block(x)))
        x = x * mask.unsqueeze(-1)
        return {"tags": self.head(x), "hidden": x}


class Cache:
    def __init__(self, x):
        self.x = x


class Caching(Branching):
    def forward(self, x):
        return Cache(self.fc(x))


class Masking(nn.Module):
    """It asks for the limits of the type that it computes in; the mask leaves nothing of a row."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, mask):
        limits = torch.finfo(x.dtype)
        scores = self.fc(x).masked_fill(~mask, limits.min)
        lower = torch.where(mask, x, limits.min / 2)
        logs = torch.log(x.relu() + limits.eps)
        return scores.softmax(-1), lower.softmax(-1), logs


class Noisy(nn.Module):
    """In training it drops whole samples by a function, as EfficientNet's blocks do, and adds noise."""

    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        y = torch.tanh(self.fc(x))
        if self.training:
            kept = torch.floor(0.8 + torch.rand([y.shape[0], 1], dtype=y.dtype, device=y.device))
            y = y / 0.8 * kept + 0.1 * torch.randn_like(y) * y.new_empty((y.shape[0], 1)).bernoulli_(0.5)
        return self.out(x + y)


class Copied(nn.Module):
    """Copied by its constructor, as the layers of einops are: the copy is in training mode."""

    def __deepcopy__(self, memo):
        return Copied()

    def forward(self, x):
        return x.flatten(1)


class WithCopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten, self.drop, self.fc = Copied(), nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.drop(self.flatten(x)))


class SmallVariance(nn.Module):
    """What is normalised hardly varies, so that the epsilon decides; one norm keeps statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.kept = nn.InstanceNorm2d(3), nn.InstanceNorm2d(3, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.kept(self.norm(x * 1e-4) * 1e-3)
