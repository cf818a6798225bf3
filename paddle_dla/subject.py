"""The subject of evaluation and prediction: a checkpoint or an export, opened with the requested engine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from paddle_dla.data.class_names import ClassNames, NamedBy, chosen_class_names
from paddle_dla.engines import AUTO, ENGINES, Engine, open_engine, open_fastest
from paddle_dla.engines.auto import AutoEngine
from paddle_dla.errors import WrongValue
from paddle_dla.exporting.opening import load_export
from paddle_dla.models.pretrained import IMAGENET_CLASSES, PRETRAINED
from paddle_dla.options import PreprocessingOptions, add_preprocessing, chosen_preprocessing, positive, threads
from paddle_dla.preprocessing import Preprocessing

MODEL = "DLA name, port folder, or package.module:function"
CHECKPOINT = "converted or timm weights (default: timm's from the hub, or the port's own)"


@dataclass(frozen=True)
class Subject:
    """A model that is ready to run.

    ``model`` is the name recorded in its checkpoints. ``source`` is the file, folder or hub id of the weights.
    ``named_by`` says where the class names come from. ``assumed`` gives the reason for the preprocessing if the weights
    do not record it. ``published`` says whether these may be the weights whose accuracy timm publishes.
    """

    model: str
    source: str
    engine: Engine
    num_classes: int
    preprocessing: Preprocessing
    class_names: ClassNames | None
    named_by: NamedBy
    assumed: str = ""
    published: bool = False

    def heading(self) -> list[str]:
        """Return the first lines of a command: the model, and how its images are prepared."""
        lines = [f"model: {self.model}, weights {self.source}", f"images: {self.preprocessing.line()}"]
        return [*lines, f"  assumed: {self.assumed}"] if self.assumed else lines

    def expect(self, images: int) -> None:
        """Set the expected number of images, on which the fastest engine depends."""
        if isinstance(self.engine, AutoEngine):
            self.engine.expected = images

    def class_name(self, label: int) -> str:
        """Return the name of a label with all its synonyms, or its number if no name is recorded."""
        return str(label) if self.class_names is None else self.class_names.names[label]


@dataclass(frozen=True, kw_only=True)
class SubjectOptions(PreprocessingOptions):
    """Options for the model, its weights or export, and the engine; see ``open_subject``."""

    model: str | None = None
    checkpoint: str | None = None
    export: str | None = None
    num_classes: int | None = None
    classes: str | None = None
    engine: str = AUTO
    threads: int | None = None


def add_subject(to: argparse.ArgumentParser) -> None:
    """Add the options of ``SubjectOptions``."""
    group = to.add_argument_group("model")
    group.add_argument(
        "--model", metavar="NAME|PORT", help=f"{MODEL} (default: from the checkpoint's manifest or the export)"
    )
    group.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    group.add_argument("--export", metavar="FOLDER", help="exported model, instead of a checkpoint")
    group.add_argument(
        "--num-classes", type=positive, metavar="N", help="expected number of classes; other weights are refused"
    )
    group.add_argument(
        "--classes", metavar="FILE", help="file with one class name per line, in the order of the labels"
    )
    group.add_argument(
        "--engine", choices=(AUTO, *ENGINES), default=SubjectOptions.engine,
        help="inference engine (auto: the fastest installed one whose predictions match Paddle's on the first batch)",
    )  # fmt: skip
    group.add_argument("--threads", type=threads, metavar="N", help="threads of the engine (default: all usable cores)")
    add_preprocessing(to)


def open_subject(options: SubjectOptions, tell: Callable[[str], None] = lambda line: None) -> Subject:
    """Open the model, ready to run. ``tell`` receives a line on the engine that is chosen later.

    Raises ``WrongValue``, ``CheckpointError``, ``ExportError`` or ``EngineError`` if it cannot be opened.
    """
    return _from_export(options.export, options) if options.export else _from_checkpoint(options, tell)


def _from_export(folder: str, options: SubjectOptions) -> Subject:
    if options.checkpoint:
        raise WrongValue("--checkpoint and --export are two models; name one")
    engine = None if options.engine in (AUTO, "paddle") else options.engine
    export = load_export(folder, engine, options.threads)
    classes = export.engine.num_classes
    known, known_by = export.record.known_classes()
    names, named_by = chosen_class_names(options.classes, known, known_by, classes)
    preprocessing = chosen_preprocessing(options, export.preprocessing)
    comparable = export.record.model in PRETRAINED and classes == IMAGENET_CLASSES
    return Subject(
        export.record.model, folder, export.engine, classes, preprocessing, names, named_by,
        published=comparable,
    )  # fmt: skip


def _from_checkpoint(options: SubjectOptions, tell: Callable[[str], None]) -> Subject:
    # imports Paddle, which an export does not need
    from paddle_dla.loading import load_model

    loaded = load_model(options.model, options.checkpoint, options.num_classes)
    names, named_by = chosen_class_names(options.classes, loaded.class_names, loaded.named_by, loaded.num_classes)
    preprocessing = chosen_preprocessing(options, loaded.preprocessing)
    chosen = {"threads": options.threads, "input_size": preprocessing.input_size}
    if options.engine == AUTO:
        engine = open_fastest(loaded.layer, tell, **chosen)
    else:
        engine = open_engine(options.engine, loaded.layer, **chosen)
    return Subject(
        loaded.name, loaded.source, engine, loaded.num_classes, preprocessing, names, named_by, loaded.assumed,
        loaded.published,
    )  # fmt: skip
