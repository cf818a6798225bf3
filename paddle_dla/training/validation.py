"""Score a network on the validation data, each sample once, with any number of ranks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from paddle import nn

from paddle_dla.config import Config
from paddle_dla.data.batch import Batch
from paddle_dla.data.loader import Loader
from paddle_dla.ema import ModelEma
from paddle_dla.engines.eager import EagerEngine
from paddle_dla.evaluation import evaluate
from paddle_dla.metrics import Predictions, mean_loss, merge, refuse_none, top_k
from paddle_dla.models.grouping import STATISTICS
from paddle_dla.progress import Progress
from paddle_dla.ranks import Ranks, gather
from paddle_dla.training.agreement import from_first
from paddle_dla.training.datasets import Datasets, val_loader
from paddle_dla.training.errors import Stopped, TrainingError
from paddle_dla.training.modes import running_statistics
from paddle_dla.training.stopping import StopRequest


@dataclass(frozen=True)
class Validator:
    """Runs validations. ``alive`` is called with each batch, so that a long validation is not mistaken for a hang."""

    config: Config
    datasets: Datasets
    threads: int
    ranks: Ranks
    stop: StopRequest
    alive: Callable[[], None]

    def scores(self, network: nn.Layer, epoch: int = 0) -> dict[str, float]:
        """Return ``top1``, ... in percent, as requested by ``evaluate.topk``, and ``loss``, on every rank.

        The network is left in evaluation mode. Raises ``Stopped``, on all ranks, if one was asked to stop, and
        ``DataError`` for data that cannot be used.
        """
        loader = val_loader(self.config, self.datasets, self.ranks)
        own = self._predictions(network, loader, epoch)
        parts, skipped, reasons = zip(*gather((own, len(loader.skipped), self.stop.reason), self.ranks))
        if any(reasons):
            raise Stopped(next(filter(None, reasons)))
        predictions = refuse_none(merge(parts, self.datasets.validation.num_samples - sum(skipped)))
        asked = {f"top{k}": top_k(predictions, k) for k in self.config.evaluate.topk}
        return asked | {"loss": mean_loss(predictions)}

    def _predictions(self, network: nn.Layer, loader: Loader, epoch: int) -> Predictions:
        """Return the predictions of this rank, incomplete if it was asked to stop."""
        share = self.datasets.validation.num_samples // self.ranks.count
        progress = Progress(share, self.config.train.log_interval, quiet=not self.ranks.first)
        try:
            return evaluate(
                EagerEngine(network, self.threads),
                self._until_stopped(loader),
                self.datasets.num_classes,
                flip=self.config.evaluate.tta == "hflip",
                ranked=max(5, *self.config.evaluate.topk),
                progress=progress,
                epoch=epoch,
            )
        finally:
            progress.close()

    def _until_stopped(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.stop.reason is not None:
                return
            self.alive()
            yield batch


def share_statistics(network: nn.Layer, ema: ModelEma | None, ranks: Ranks) -> None:
    """Copy the first rank's BatchNorm statistics, and their averages, to all ranks.

    Each rank has statistics of its own images. Those of the first rank are used, as in torch's
    ``DistributedDataParallel``, which broadcasts them before every step (``broadcast_buffers``); training itself never
    reads them.
    """
    averages = {} if ema is None else ema.state_dict()
    from_first(running_statistics(network), ranks)
    from_first([tensor for name, tensor in averages.items() if name.endswith(STATISTICS)], ranks)


def refuse_different_weights(network: nn.Layer, ranks: Ranks) -> None:
    """Raise ``TrainingError`` if the weights differ between ranks, which would otherwise remain unnoticed."""
    if ranks.count == 1:
        return
    own = 0
    for parameter in network.parameters():
        if not parameter.stop_gradient:
            own = zlib.crc32(parameter.numpy().tobytes(), own)
    sums = gather(own, ranks)
    if len(set(sums)) > 1:
        apart = [str(rank) for rank, value in enumerate(sums) if value != sums[0]]
        raise TrainingError(f"the weights of rank {', '.join(apart)} are no longer those of rank 0")
