"""A small transformer of timm and its port, written by hand, with names of its own."""

import numpy as np
import paddle
import paddle.nn.functional as F
import torch
from paddle import nn

from alignment import transfer
from torch_ref.model import import_timm

SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 32, 8, 24, 3, 3, 5


class Attention(nn.Layer):
    def __init__(self):
        super().__init__()
        self.heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.packed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, tokens, width = x.shape
        parts = self.packed(x).reshape([batch, tokens, 3, self.heads, width // self.heads])
        q, k, v = parts.transpose([2, 0, 3, 1, 4]).unbind(0)  # B, heads, N, C / heads
        scores = F.softmax(q @ k.transpose([0, 1, 3, 2]) * self.scale, axis=-1)
        return self.out((scores @ v).transpose([0, 2, 1, 3]).reshape([batch, tokens, width]))


class Branch(nn.Layer):
    """A normalisation, what it feeds, and a scale for each channel."""

    def __init__(self, body):
        super().__init__()
        self.norm, self.body = nn.LayerNorm(WIDTH, epsilon=1e-6), body
        self.gamma = self.create_parameter([WIDTH])

    def forward(self, x):
        return x + self.gamma * self.body(self.norm(x))


class Transformer(nn.Layer):
    def __init__(self):
        super().__init__()
        tokens = (SIDE // PATCH) ** 2 + 1
        self.patches = nn.Conv2D(3, WIDTH, PATCH, PATCH)
        self.first = self.create_parameter([1, 1, WIDTH])
        self.positions = self.create_parameter([1, tokens, WIDTH])
        self.attend = nn.LayerList([Branch(Attention()) for _ in range(DEPTH)])
        self.mix = nn.LayerList([Branch(self._mlp()) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH, epsilon=1e-6), nn.Linear(WIDTH, CLASSES)

    @staticmethod
    def _mlp():
        return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose([0, 2, 1])  # B, N, C
        x = paddle.concat([self.first.expand([x.shape[0], -1, -1]), x], 1) + self.positions
        for attend, mix in zip(self.attend, self.mix):
            x = mix(attend(x))
        return self.head(self.norm(x)[:, 0])


def transformer():
    """``(timm's, the port, inputs)`` with the same weights, none of them constant."""
    timm = import_timm()
    torch.manual_seed(0)
    reference = timm.models.vision_transformer.VisionTransformer(
        SIDE, PATCH, num_classes=CLASSES, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, init_values=0.1
    ).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    port = Transformer()
    port.eval()
    inputs = np.random.RandomState(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)  # B, C, H, W
    transfer(reference, port, inputs)
    return reference, port, inputs
