"""Ports of five structures by PaddleClas and Paddle's vision library, beside timm's models, for the self-test::

    python alignment/selftest.py --pair benchmarks.selftest_pairs:vit benchmarks.selftest_pairs:swin

Each function returns ``(timm's module, the port, inputs)``: aligned pairs, with weights as training leaves them. Two
ports are corrected first, where they differ from timm. It needs paddleclas 2.6.0, which ``make test`` installs.
"""

from __future__ import annotations

import numpy as np
import paddle
import torch
from paddle import Tensor, nn

from alignment import transfer
from benchmarks.paddleclas_wheel import backbone
from paddle_dla.models.layers import BatchNorm2D
from torch_ref.model import create_model, randomise_batch_norm

CLASSES = 10
Pair = tuple[torch.nn.Module, nn.Layer, np.ndarray]


def vit() -> Pair:
    """A vision transformer: DeiT."""
    reference = create_model("deit_tiny_patch16_224", seed=0, num_classes=CLASSES, img_size=64)
    port = backbone("distilled_vision_transformer").DeiT_tiny_patch16_224(class_num=CLASSES, img_size=64)
    return _paired(reference, port, 64)


def swin() -> Pair:
    """Swin, of three stages. PaddleClas shifts the windows of its last one, which covers the map; timm does not."""
    size = dict(img_size=112, embed_dim=96, depths=(2, 2, 2), num_heads=(3, 6, 12), window_size=7, drop_path_rate=0.0)
    reference = create_model("swin_tiny_patch4_window7_224", seed=0, num_classes=CLASSES, **size)
    port = backbone("swin_transformer").SwinTransformer(class_num=CLASSES, **size)
    for block in port.layers[-1].blocks:
        block.shift_size = 0
    return _paired(reference, port, 112)


def convnext() -> Pair:
    """ConvNeXt, with layer scale."""
    reference = create_model("convnext_tiny", seed=0, num_classes=CLASSES)
    return _paired(reference, backbone("convnext").ConvNeXt_tiny(class_num=CLASSES), 64)


def seresnext() -> Pair:
    """SE-ResNeXt: squeeze and excitation, grouped convolutions; the port fuses its activations into BatchNorm."""
    reference = create_model("seresnext50_32x4d", seed=0, num_classes=CLASSES)
    return _paired(reference, backbone("se_resnext").SE_ResNeXt50_32x4d(class_num=CLASSES), 64)


def mobilenet() -> Pair:
    """MobileNetV3: timm fuses each activation into BatchNorm, the port has a layer of its own for it.

    The port is given timm's epsilon, momentum and running variance, and a hard sigmoid whose slope is exactly 1 / 6.
    """
    reference = create_model("mobilenetv3_large_100", seed=0, num_classes=CLASSES)
    port = paddle.vision.models.mobilenet_v3_large(num_classes=CLASSES)
    for layer in port.sublayers(include_self=True):
        if isinstance(layer, nn.BatchNorm2D):
            layer.__class__, layer._epsilon, layer._momentum = BatchNorm2D, 1e-5, 0.9
        for name, inner in layer.named_children():
            if isinstance(inner, nn.Hardsigmoid):
                setattr(layer, name, _HardSigmoid())
    return _paired(reference, port, 64)


class _HardSigmoid(nn.Layer):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(x + 3) / 6


def _paired(reference: torch.nn.Module, port: nn.Layer, side: int, batch: int = 2) -> Pair:
    randomise_batch_norm(reference, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):  # a constant would hide a swap
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    inputs = np.random.RandomState(0).standard_normal((batch, 3, side, side)).astype(np.float32)  # B, C, H, W
    port.eval()
    transfer(reference, port, inputs)
    return reference, port, inputs
