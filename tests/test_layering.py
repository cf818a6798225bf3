"""Who may import whom: read from the source, and shown by running each part with the other frameworks blocked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TORCH, PADDLE = {"torch", "timm", "torchvision"}, {"paddle"}

# of paddle_dla, and yet of no framework and no network: how files are read and written, by the engine of alignment, too
EVERYWHERE = "paddle_dla.storage"

# part of the tree -> what it must not import, at any depth of nesting in the file
FORBIDDEN = {
    "paddle_dla": TORCH | {"torch_ref", "convert", "alignment", "scripts"},
    "paddle_dla/storage": TORCH | PADDLE | {"torch_ref", "convert", "alignment"},
    "paddle_dla/checkpoint.py": TORCH | PADDLE,
    "paddle_dla/cpu.py": TORCH | PADDLE,
    "paddle_dla/preprocessing.py": TORCH | PADDLE,
    "paddle_dla/options.py": TORCH | PADDLE,
    "paddle_dla/metrics.py": TORCH | PADDLE,
    "paddle_dla/evaluation.py": TORCH | PADDLE,
    "paddle_dla/reports.py": TORCH | PADDLE,
    "paddle_dla/progress.py": TORCH | PADDLE,
    "paddle_dla/data": TORCH | PADDLE | {"paddle_dla.models"},
    "paddle_dla/config": TORCH | PADDLE | {"paddle_dla.data"},
    "paddle_dla/cli.py": TORCH | PADDLE,
    "paddle_dla/launch.py": TORCH | PADDLE,
    "paddle_dla/launching": TORCH | PADDLE,
    "paddle_dla/schedule.py": TORCH | PADDLE,
    "paddle_dla/engines/base.py": TORCH | PADDLE,
    "paddle_dla/engines/onnx_runtime.py": TORCH | PADDLE,
    "paddle_dla/exporting/folder.py": TORCH | PADDLE,
    "paddle_dla/exporting/int8.py": TORCH | PADDLE,
    "paddle_dla/exporting/stored_weights.py": TORCH | PADDLE,
    "paddle_dla/exporting/images.py": TORCH | PADDLE,
    # copied into every export, where nothing of this project is
    "paddle_dla/exporting/runner.py": TORCH | {"paddle_dla", "torch_ref", "convert", "alignment"},
    "paddle_dla/training/plan.py": TORCH | PADDLE,
    "paddle_dla/training/datasets.py": TORCH | PADDLE,
    "paddle_dla/training/checkpoints.py": TORCH | PADDLE,
    "paddle_dla/training/resuming.py": TORCH | PADDLE,
    "paddle_dla/train.py": TORCH | PADDLE,
    "paddle_dla/models/variants.py": TORCH | PADDLE,
    "paddle_dla/models/pretrained.py": TORCH | PADDLE,
    "paddle_dla/models/adapt.py": TORCH | PADDLE,
    "paddle_dla/models/grouping.py": TORCH | PADDLE,
    "torch_ref": PADDLE | {"paddle_dla", "convert", "alignment"},
    "convert/key_map.py": TORCH | PADDLE | {"paddle_dla", "torch_ref", "alignment"},
    "convert/audit.py": TORCH | PADDLE | {"paddle_dla", "torch_ref", "alignment"},
    "convert/matching": TORCH | PADDLE | {"paddle_dla", "torch_ref", "alignment"},
    "convert/automap.py": TORCH | PADDLE | {"torch_ref", "alignment"},
    "convert/layout.py": TORCH | PADDLE | {"torch_ref", "alignment"},
    "convert/conversion.py": TORCH | PADDLE | {"torch_ref", "alignment"},
    "convert/readers.py": PADDLE | {"timm", "torch_ref", "alignment"},
    "convert/paddle2timm.py": PADDLE | {"timm", "torch_ref", "alignment"},
    "alignment/compare.py": TORCH | PADDLE | {"torch_ref"},
    "alignment/engine": {"paddle_dla", "torch_ref", "alignment.pairs"},  # but for EVERYWHERE
    "alignment/engine/sides/torch": PADDLE,
    "alignment/engine/sides/paddle": TORCH,
}
# the rooms of the engine that know no framework
FORBIDDEN |= {
    f"alignment/engine/{room}": TORCH | PADDLE
    for room in ("records", "judging", "pairing", "locating", "explaining", "pixels", "distributions", "reporting",
                 "result.py", "spread.py", "sides/settings.py", "sides/probed.py", "sides/model.py",
                 "sides/directions.py")
}  # fmt: skip

# modules that must import, and which frameworks are blocked meanwhile
STANDALONE = [
    ("paddle_dla.models.factory", TORCH),
    ("paddle_dla.models.grouping", TORCH),
    ("paddle_dla.losses", TORCH),
    ("paddle_dla.optim", TORCH),
    ("paddle_dla.ema", TORCH),
    ("alignment.engine.sides.paddle.capture", TORCH),
    ("alignment.engine.sides.paddle.borrow", TORCH),
    ("alignment.engine.sides.torch.borrow", PADDLE),
    ("torch_ref.model", PADDLE),
    ("torch_ref.data", PADDLE),
    ("torch_ref.draws", PADDLE),
    ("torch_ref.training", PADDLE),
    ("alignment.engine.sides.torch.capture", PADDLE),
    ("alignment.engine.sides.torch.steps", PADDLE),
    ("alignment.engine.sides.paddle.steps", TORCH),
    ("alignment.engine.judging.run_rows", TORCH | PADDLE),
    ("alignment.engine.explaining.training_causes", TORCH | PADDLE),
    ("alignment.engine.judging.outputs", TORCH | PADDLE),
    ("alignment.engine.reporting.text", TORCH | PADDLE),
    ("alignment.engine.reporting.page", TORCH | PADDLE),
    ("alignment.engine.records.files", TORCH | PADDLE),
    ("alignment.check_forward", TORCH | PADDLE),
    ("alignment.check_backward", TORCH | PADDLE),
    ("alignment.check_weights", TORCH | PADDLE),
    ("alignment.check_data", TORCH | PADDLE),
    ("alignment.check_metric", TORCH | PADDLE),
    ("alignment.check_init", TORCH | PADDLE),
    ("alignment.check_loss", TORCH | PADDLE),
    ("alignment.check_optimizer", TORCH | PADDLE),
    ("alignment.check_schedule", TORCH | PADDLE),
    ("alignment.check_training", TORCH | PADDLE),
    ("alignment.check_all", TORCH | PADDLE),
    ("alignment.engine.distributions.initialisation", TORCH | PADDLE),
    ("alignment.engine.pixels.images", TORCH | PADDLE),
    ("alignment.record", TORCH | PADDLE),
    ("alignment.compare", TORCH | PADDLE),
    ("alignment.reprod_files", TORCH | PADDLE),
    ("convert.automap", TORCH | PADDLE),
    ("convert.matching.derive", TORCH | PADDLE),
    ("convert.timm2paddle", TORCH | PADDLE),
    ("convert.paddle2timm", TORCH | PADDLE),
    ("paddle_dla.checkpoint", TORCH | PADDLE),
    ("paddle_dla.evaluate", TORCH | PADDLE),
    ("paddle_dla.predict", TORCH | PADDLE),
    ("paddle_dla.info", TORCH | PADDLE),
    ("paddle_dla.engines", TORCH | PADDLE),
    ("paddle_dla.export", TORCH | PADDLE),
    ("paddle_dla.exporting.opening", TORCH | PADDLE),
    ("paddle_dla.schedule", TORCH | PADDLE),
    ("paddle_dla.cli", TORCH | PADDLE),
    ("paddle_dla.launch", TORCH | PADDLE),
    ("paddle_dla.launching.one_rank", TORCH | PADDLE),
    ("paddle_dla.launching.heartbeat", TORCH | PADDLE),
    ("paddle_dla.training.plan", TORCH | PADDLE),
    ("paddle_dla.training.datasets", TORCH | PADDLE),
    ("paddle_dla.training.checkpoints", TORCH | PADDLE),
    ("paddle_dla.training.resuming", TORCH | PADDLE),
    ("paddle_dla.training.start", TORCH),
    ("paddle_dla.train", TORCH | PADDLE),
    ("paddle_dla.training.log", TORCH | PADDLE),
    ("paddle_dla.data.loader", TORCH | PADDLE),
    ("paddle_dla.data.opening", TORCH | PADDLE),
    ("paddle_dla.look_at_data", TORCH | PADDLE),
    ("paddle_dla.config.show", TORCH | PADDLE),
    ("paddle_dla.data.transforms", TORCH | PADDLE),
    ("paddle_dla.data.training", TORCH | PADDLE),
    ("paddle_dla.data.sampling", TORCH | PADDLE),
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path, forbidden):
    names = [name for name in imported(path) if not within(name, EVERYWHERE)]
    return sorted({name for name in names for bad in forbidden if within(name, bad)})


def within(name, part):
    return name == part or name.startswith(f"{part}.")


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_go_one_way(part):
    path = ROOT / part
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    assert {str(f.relative_to(ROOT)): v for f in files if (v := violations(f, FORBIDDEN[part]))} == {}


def test_a_forbidden_import_is_seen(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from torch.nn import Module\n")
    assert violations(file, TORCH) == ["torch.nn", "torch.nn.Module"]


@pytest.mark.parametrize(("module", "blocked"), STANDALONE, ids=[module for module, _ in STANDALONE])
def test_each_part_runs_without_the_other_framework(module, blocked):
    if blocked == PADDLE:
        pytest.importorskip("torch")
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(blocked)}))"
    done = subprocess.run([sys.executable, "-c", f"{block}; import {module}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_framework():
    code = "import sys, paddle_dla; sys.exit(bool({'paddle', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
