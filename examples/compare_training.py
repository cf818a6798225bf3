"""Compare training step by step: losses, gradients, weights, optimizer states.

    python examples/compare_training.py
"""

import numpy as np
import paddle
import torch

from alignment import align_training, transfer


def main():
    """Compare AdamW with a cosine schedule, right and with a schedule that is one step too long."""
    reference = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    port = paddle.nn.Sequential(paddle.nn.Linear(6, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((4, 6)).astype("float32"), rng.integers(0, 3, 4)) for _ in range(6)]
    key_map = transfer(reference, port, batches[0][0])
    for length in (10, 11):
        report = align_training(
            reference,
            port,
            batches,
            loss=(torch.nn.functional.cross_entropy, paddle.nn.functional.cross_entropy),
            optimizer=(
                lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05),
                lambda layer, length=length: paddle.optimizer.AdamW(
                    paddle.optimizer.lr.CosineAnnealingDecay(1e-3, T_max=length),
                    parameters=layer.parameters(),
                    weight_decay=0.05,
                ),
            ),
            scheduler=(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10), None),
            key_map=key_map,
        )
        print(f"T_max={length} in Paddle: {report.verdict()}")


if __name__ == "__main__":
    main()
